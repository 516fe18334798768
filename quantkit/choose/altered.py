"""The unquantized file with some tensors replaced by what a type leaves of them, for as long as they are looked at.

They are replaced in place: the file stays as large as it is, no other file of the model is made, and what is measured
is the loss of the weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from quantkit.checkpoint.dtypes import Array
from quantkit.choose.divergence import TRACK
from quantkit.choose.errors import decode
from quantkit.engine.backend import Backend
from quantkit.engine.crew import Crew
from quantkit.engine.gguf_source import GGUFSource
from quantkit.engine.ranges import RowRange, row_ranges
from quantkit.engine.stream import importance_of
from quantkit.engine.timeline import NO_TIMELINE, NoTimeline
from quantkit.errors import OutOfRangeError
from quantkit.files.fileio import read_into, write_at
from quantkit.files.output_file import write_error
from quantkit.ggml.types import GGMLType
from quantkit.kernels.rounding import round_to
from quantkit.plan.mixture import Importance
from quantkit.plan.values import PlannedTensor


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of a tensor in the file, and where their bytes are kept."""

    rows: RowRange
    kind: GGMLType
    offset: int
    nbytes: int
    kept: int


@dataclass(frozen=True)
class Alterable:
    """An unquantized file, of one part, that may be changed.

    Attributes:
        source: its rows.
        importance: by tensor name, as for the encoders.
        crew: who encodes.
        kept: a file for the bytes that are replaced.
        timeline: told how long that takes.
    """

    source: GGUFSource
    importance: Importance
    crew: Crew
    kept: Path
    timeline: NoTimeline = NO_TIMELINE

    @contextmanager
    def altered(self, types: Mapping[PlannedTensor, GGMLType]) -> Iterator[Path]:
        """The file, with some tensors encoded and decoded; afterwards it is as before.

        Raises:
            OutOfRangeError: a type cannot hold a tensor.
            OutputError: the disk is full.
        """
        path, pieces = self.source.model.path, self._pieces(types)
        replaced: list[_Piece] = []
        try:
            with path.open("r+b", buffering=0) as file, self.kept.open("w+b", buffering=0) as kept:
                here, there = file.fileno(), kept.fileno()
                try:
                    with self.timeline.span(TRACK, "alter"):
                        self.crew.map(
                            lambda backend, piece: self._replace(backend, piece, here, there, replaced), pieces
                        )
                    yield path
                finally:
                    with self.timeline.span(TRACK, "restore"):
                        self.crew.map(lambda backend, piece: _restore(backend, piece, here, there), replaced)
        except OSError as error:
            raise write_error(self.kept, error) from None
        finally:
            self.kept.unlink(missing_ok=True)

    def _pieces(self, types: Mapping[PlannedTensor, GGMLType]) -> list[_Piece]:
        found = []
        for tensor, kind in types.items():
            row = tensor.outtype.row_nbytes(tensor.columns)
            _, begin = self.source.model.locate(tensor.name)
            found += [(one, kind, begin + one.start * row, (one.stop - one.start) * row) for one in row_ranges(tensor)]
        starts = accumulate((nbytes for *_, nbytes in found), initial=0)
        return [_Piece(*one, start) for one, start in zip(found, starts, strict=False)]

    def _replace(self, backend: Backend, piece: _Piece, file: int, kept: int, replaced: list[_Piece]) -> None:
        """Keep one piece of the file, and then encode and decode it there."""
        tensor, start = piece.rows.tensor, piece.rows.start
        rows = self.source.rows(tensor, start, piece.rows.stop, backend.memory)
        write_at(kept, _raw(rows.stored), piece.kept)
        replaced.append(piece)
        floats = decode(backend, rows, tensor, piece.kind, importance_of(tensor, start, self.importance))
        if floats is None:
            raise OutOfRangeError(f"tensor {tensor.name!r} has values that are too large for {piece.kind.label}")
        write_at(file, _raw(round_to(floats, tensor.outtype)), piece.offset)


def _raw(values: Array) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _restore(backend: Backend, piece: _Piece, file: int, kept: int) -> None:
    buffer = backend.memory(piece.nbytes)
    read_into(kept, buffer.data, piece.kept)
    write_at(file, buffer.data, piece.offset)
