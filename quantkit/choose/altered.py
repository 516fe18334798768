"""The unquantized file with some tensors replaced by what a type leaves of them, for as long as they are looked at.

They are replaced in place: the file stays as large as it is, no other file of the model is made, and what is measured
is the loss of the weights alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from quantkit.choose.errors import decode
from quantkit.engine.device import Workers
from quantkit.engine.gguf_source import GGUFSource
from quantkit.engine.ranges import RowRange, row_ranges
from quantkit.engine.stream import importance_of, open_backend
from quantkit.engine.timeline import NO_TIMELINE
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
        workers: where to encode.
        kept: a file for the bytes that are replaced.
    """

    source: GGUFSource
    importance: Importance
    workers: Workers
    kept: Path

    @contextmanager
    def altered(self, types: Mapping[PlannedTensor, GGMLType]) -> Iterator[Path]:
        """The file, with some tensors encoded and decoded; afterwards it is as before.

        Raises:
            OutOfRangeError: a type cannot hold a tensor.
            OutputError: the disk is full.
        """
        path, pieces = self.source.model.path, self._pieces(types)
        try:
            with path.open("r+b", buffering=0) as file, self.kept.open("w+b", buffering=0) as kept:
                for piece in pieces:
                    _copy(file.fileno(), piece.offset, kept.fileno(), piece.kept, piece.nbytes)
                try:
                    self._all(lambda piece, number: self._replace(piece, number, file.fileno()), pieces)
                    yield path
                finally:
                    for piece in pieces:
                        _copy(kept.fileno(), piece.kept, file.fileno(), piece.offset, piece.nbytes)
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

    def _all(self, work: Callable[[_Piece, int], None], pieces: list[_Piece]) -> None:
        with ThreadPoolExecutor(self.workers.threads) as pool:
            list(pool.map(work, pieces, range(len(pieces))))

    def _replace(self, piece: _Piece, number: int, fd: int) -> None:
        """Encode and decode one piece in the file."""
        device, tensor = self.workers.devices[number % len(self.workers.devices)], piece.rows.tensor
        backend = open_backend(device, str(device), NO_TIMELINE)
        with np.errstate(all="ignore"), backend.active():
            rows = self.source.rows(tensor, piece.rows.start, piece.rows.stop)
            weights = importance_of(tensor, piece.rows.start, self.importance)
            floats = decode(backend, rows, tensor, piece.kind, weights)
        if floats is None:
            raise OutOfRangeError(f"tensor {tensor.name!r} has values that are too large for {piece.kind.label}")
        write_at(
            fd, np.ascontiguousarray(round_to(floats, tensor.outtype)).view(np.uint8).reshape(-1).data, piece.offset
        )


def _copy(source: int, start: int, target: int, begin: int, nbytes: int) -> None:
    buffer = np.empty(nbytes, dtype=np.uint8).data
    if read_into(source, buffer, start) == nbytes:  # what was not kept was not replaced
        write_at(target, buffer, begin)
