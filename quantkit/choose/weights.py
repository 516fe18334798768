"""Where a loaded model's weights are in memory: seen in the operations of a graph, by name.

libllama has no function that tells it. Its evaluation callback is shown every operation, and an operation points to
what it works on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import QuantkitError
from quantkit.files.fileio import read_into
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.tensor import check_layout, functions, tensor_at
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.run.inference import LoadedModel, Token, context_params, decode, opened_context

_STORED = 0  # the number of the operation of what is not computed
_BLOCK, _TOGETHER = 1 << 24, 8  # bytes that are copied at a time, and how many such blocks at once
_COMPARED = 1 << 16  # bytes of a tensor that are compared


@dataclass(frozen=True)
class Weights:
    """A model's tensors in memory.

    Attributes:
        model: its file, of one part.
        places: the addresses of llama.cpp's tensors, by name: of a tied embedding there may be two.
    """

    model: GGUFModel
    places: Mapping[str, Sequence[int]]

    def write(self, names: Collection[str]) -> None:
        """Give tensors the values that the file has now."""
        blocks = [(name, start) for name in names for start in range(0, self._where(name)[0], _BLOCK)]
        with self.model.path.open("rb", buffering=0) as file, ThreadPoolExecutor(_TOGETHER) as pool:
            list(pool.map(lambda block: self._write(file.fileno(), *block), blocks))

    def _write(self, fd: int, name: str, start: int) -> None:
        nbytes, begin = self._where(name)
        part = np.empty(min(_BLOCK, nbytes - start), dtype=np.uint8)
        _fill(fd, part, begin + start, self.model.path)
        for place in self.places[name]:
            functions().ggml_backend_tensor_set(place, part.ctypes.data, start, part.size)

    def stale(self, names: Collection[str]) -> list[str]:
        """The tensors of which a piece is in memory otherwise than in the file now."""
        with self.model.path.open("rb", buffering=0) as file:
            return sorted(name for name in names if not self._equal(file.fileno(), name))

    def _equal(self, fd: int, name: str) -> bool:
        nbytes, begin = self._where(name)
        start = max(0, nbytes - _COMPARED) // 2
        stored, loaded = np.empty((2, min(_COMPARED, nbytes)), dtype=np.uint8)
        _fill(fd, stored, begin + start, self.model.path)
        for place in self.places[name]:
            functions().ggml_backend_tensor_get(place, loaded.ctypes.data, start, loaded.size)
            if not np.array_equal(stored, loaded):
                return False
        return True

    def _where(self, name: str) -> tuple[int, int]:
        info = self.model.header.tensors[name]
        return info.type.nbytes(info.shape), self.model.locate(name)[1]


def find_weights(model: LoadedModel, ids: Sequence[int], hint: str) -> Weights:
    """The tensors that llama.cpp computes with when it evaluates some tokens.

    Those of which it shows only a copy, or nothing, are not among them: with a release of libggml that quantkit cannot
    read there are none.

    Raises:
        QuantkitError: llama.cpp cannot evaluate them.
    """
    file = read_model(model.path)
    try:
        check_layout()
    except QuantkitError:
        return Weights(file, {})
    ggml = functions()
    sizes = {name.encode(): info.type.nbytes(info.shape) for name, info in file.header.tensors.items()}
    found: dict[str, set[int]] = {}

    def shown(address: int, ask: bool, data: Any) -> bool:
        if ask:
            for source in filter(None, tensor_at(address).src):
                tensor = tensor_at(source)
                nbytes = sizes.get(tensor.name) if tensor.op == _STORED else None
                if nbytes == ggml.ggml_nbytes(source):
                    found.setdefault(tensor.name.decode(), set()).add(source)
        return not ask  # whether it wants to see the result; then, whether to go on

    callback = llama_cpp.ggml_backend_sched_eval_callback(shown)
    params = context_params(len(ids), None)
    params.cb_eval, params.op_offload = callback, False
    with opened_context(model, params, hint) as (context, _):
        status, reason = decode(context, [Token(token, place, 0, True) for place, token in enumerate(ids)])
    if status != 0:
        raise QuantkitError(f"{model.path}: llama.cpp cannot evaluate it (status {status}): {reason}", hint=hint)
    return Weights(file, {name: sorted(places) for name, places in found.items()})


def _fill(fd: int, part: Any, offset: int, path: Path) -> None:
    if read_into(fd, part.data, offset) != part.size:
        raise QuantkitError(f"{path}: the file was truncated while it was evaluated")
