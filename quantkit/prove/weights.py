"""A checkpoint's tensors for transformers, by name and one at a time.

The safetensors library reads safetensors files, and not quantkit's own reader, so that a fault of the reader shows in a
proof. Quantized weights and pickles are read as quantkit reads them: transformers would need the library that quantized
them, and a pickle cannot be read in parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from quantkit.checkpoint.dtypes import to_float32
from quantkit.checkpoint.folder import Checkpoint, open_checkpoint


class Weight(Protocol):
    """A tensor that is read when it is indexed with ``[...]``, as transformers' loader does."""

    def __getitem__(self, index: Any, /) -> torch.Tensor: ...


@contextmanager
def open_weights(model: Path) -> Iterator[Mapping[str, Weight]]:
    """The tensors of a checkpoint, by the names in its files.

    Raises:
        CheckpointError: the folder is broken.
    """
    with open_checkpoint(model) as checkpoint, ExitStack() as stack:
        files = {spec.file for spec in checkpoint.tensors.values()}
        if checkpoint.formats or any(file.suffix != ".safetensors" for file in files):
            yield {name: _Read(checkpoint, name) for name in checkpoint.tensors}
            return
        from safetensors import safe_open

        opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
        yield {name: opened[spec.file].get_slice(spec.name) for name, spec in checkpoint.tensors.items()}


class _Read:
    """A tensor that quantkit's reader reads, as float32."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint, self._name = checkpoint, name

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.from_numpy(to_float32(self._checkpoint.read(self._name)))[index]
