"""A GGUF model with LoRA files, as a source of rows.

Of a matrix that a file changes, the rows are handed out with the products still to be added: quantized rows are decoded
first. All others are handed out as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from quantkit.checkpoint.dtypes import BY_TYPE, Floats, all_finite, to_float32
from quantkit.checkpoint.tensor_file import Memory, new_memory
from quantkit.engine.file_source import HashedFile, ReadFiles
from quantkit.engine.gguf_source import GGUFSource
from quantkit.engine.rows import Rows
from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml import library as ggml
from quantkit.gguf.header import EMBEDDING
from quantkit.gguf.lora import Lora
from quantkit.kernels.low_rank import Pair
from quantkit.plan.values import PlannedTensor

# Pairs that are kept: consecutive ranges belong to one tensor, and a few tensors are in work at a time.
_KEPT = 16

# The number of the file, the tensor, the first row, the rows before and after.
Watch = Callable[[int, str, int, Rows, Rows], None]


class LoraSource:
    """Rows of a model and LoRA files, which are added in their order. Safe from any thread.

    Attributes:
        base: the model.
        loras: the files, each with its factors.
    """

    def __init__(
        self, base: GGUFSource, loras: Sequence[tuple[Lora, GGUFSource]], watch: Watch = lambda *_: None
    ) -> None:
        """Begin.

        Args:
            base, loras: see the attributes.
            watch: shown the rows before and after each file.
        """
        self.base, self.loras, self._watch = base, tuple(loras), watch
        self._pair = lru_cache(maxsize=_KEPT)(self._load)

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: Memory = new_memory) -> Rows:
        """Rows ``start:stop`` of one matrix: what is stored, as numbers if it is changed, and what is to be added."""
        rows = self.base.rows(tensor, start, stop, memory)
        changing = [number for number, (lora, _) in enumerate(self.loras) if tensor.name in lora.factors]
        if not changing:
            return rows
        rows = self._decoded(tensor, rows)
        matrix, first = divmod(start, tensor.segment)
        for number in changing:
            left, right = self._pair(number, tensor.name, matrix)
            before, rows = rows, rows.plus(left[first : first + stop - start], right)
            self._watch(number, tensor.name, start, before, rows)
        return rows

    def reads(self) -> ReadFiles:
        """The files of the model, and the LoRA files with their scales."""
        loras = [lora for lora, _ in self.loras]
        files = tuple(HashedFile(file) for lora in loras for file in lora.model.files)
        return self.base.reads() + ReadFiles(whole=files, settings=tuple(str(lora.scale) for lora in loras))

    def measures(self, tensor: PlannedTensor) -> bool:
        """What is changed is shown to who watches."""
        return any(tensor.name in lora.factors for lora, _ in self.loras)

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        """The error for a base tensor with values that are not finite; None if only the sum is not."""
        if any(tensor.name in lora.factors for lora, _ in self.loras):
            rows = self._decoded(tensor, self.base.rows(tensor, start, stop))
            if all_finite(rows.stored):
                return None
        return self.base.explain_non_finite(tensor, start, stop)

    def _decoded(self, tensor: PlannedTensor, rows: Rows) -> Rows:
        stored = self.base.model.header.tensors[tensor.name].type
        if stored in BY_TYPE:
            return rows
        return Rows(ggml.dequantize_rows(stored, rows.stored.tobytes(), tensor.columns))

    def _load(self, number: int, name: str, matrix: int) -> Pair:
        """The factors of one matrix of a tensor, with the scaling multiplied in."""
        lora, source = self.loras[number]
        a, b = (_whole(source, info.name, matrix) for info in lora.factors[name])
        left, right = (a, np.ascontiguousarray(b.T)) if name == EMBEDDING else (b, a)
        return left * np.float32(lora.factor(name)), right


def _whole(source: GGUFSource, name: str, matrix: int) -> Floats:
    """One matrix of a factor as float32, [rows, columns].

    Raises:
        GGUFError: it has values that are not finite.
    """
    info = source.model.header.tensors[name]
    tensor = PlannedTensor(name, name, info.shape, info.type)
    count = tensor.segment
    stored = source.rows(tensor, matrix * count, (matrix + 1) * count).stored
    if info.type not in BY_TYPE:
        stored = ggml.dequantize_rows(info.type, stored.tobytes(), tensor.columns)
    values = to_float32(stored).reshape(count, tensor.columns)
    if not all_finite(values):
        raise GGUFError(f"{source.model.path}: tensor {name!r} has NaN or infinite values")
    return values


def changes_nothing(lora: Lora, source: GGUFSource) -> bool:
    """Whether all products are zero, as those of an adapter that was not trained."""
    for factors in lora.factors.values():
        shape = factors[0].shape
        for matrix in range(shape[0] if len(shape) == 3 else 1):
            if all(_whole(source, factor.name, matrix).any() for factor in factors):
                return False
    return True
