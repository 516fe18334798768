"""A reference's log-probabilities on the disk: exact, and no larger than they must be.

llama.cpp keeps 16 bits for every token of the vocabulary at every position. The divergence looks only at tokens whose
log-probability is above -16, so only these are here, with the same 16 bits; the figures are the same.

A header in JSON, then the pieces in which the logits were computed, each with its length and a checksum, then an end
mark: a file that was cut off or damaged is refused, never read as far as it goes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError
from quantkit.kernels.logit_steps import Packed

_MAGIC, _END = b"quantkit logits 1\n", b"end\n"
_LENGTHS = struct.Struct("<IQI")  # positions, bytes of the payload, checksum of the piece


@dataclass(frozen=True)
class LogitsHeader:
    """What a file of logits is of.

    Attributes:
        vocabulary: tokens of the vocabulary.
        context: tokens of a chunk.
        chunks: how many there are.
        tokens: sha256 of the token ids.
    """

    vocabulary: int
    context: int
    chunks: int
    tokens: str

    @property
    def positions(self) -> int:
        """Positions of all chunks together."""
        return self.chunks * (self.context - 1 - self.context // 2)


class LogitsWriter:
    """Writes such a file, piece by piece; it is complete after :meth:`finish`."""

    def __init__(self, file: BinaryIO, header: LogitsHeader) -> None:
        """Begin: *file* is open for writing."""
        self._file = file
        text = json.dumps(asdict(header)).encode()
        file.write(_MAGIC + struct.pack("<I", len(text)) + text)

    def add(self, piece: Packed) -> None:
        """Write a piece."""
        parts = [
            piece.scale.astype("<f4").tobytes(),
            piece.floor.astype("<f4").tobytes(),
            piece.places.astype("<i4").tobytes(),
            piece.payload.tobytes(),
        ]
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        self._file.write(_LENGTHS.pack(len(piece), len(piece.payload), checksum))
        for part in parts:
            self._file.write(part)

    def finish(self) -> None:
        """Write the end mark."""
        self._file.write(_END)


def read_header(path: Path, file: BinaryIO) -> LogitsHeader:
    """Read the header, which leaves *file* at the first piece.

    Raises:
        QuantkitError: it is not such a file.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise _damaged(path)
    try:
        (length,) = struct.unpack("<I", file.read(4))
        return LogitsHeader(**json.loads(file.read(length)))
    except (struct.error, ValueError, TypeError, RecursionError):
        raise _damaged(path) from None


def read_pieces(path: Path, header: LogitsHeader, file: BinaryIO) -> Iterator[Packed]:
    """Read the pieces, one at a time.

    Raises:
        QuantkitError: one is damaged, or some are missing.
    """
    left = header.positions
    while left > 0:
        start = file.read(_LENGTHS.size)
        if len(start) != _LENGTHS.size:
            raise _damaged(path)
        count, nbytes, checksum = _LENGTHS.unpack(start)
        head = 28 * count
        data = file.read(head + nbytes)
        if len(data) != head + nbytes or zlib.crc32(data) != checksum or not 0 < count <= left:
            raise _damaged(path)
        left -= count
        yield Packed(
            np.frombuffer(data, "<f4", count),
            np.frombuffer(data, "<f4", count, 4 * count),
            np.frombuffer(data, "<i4", 5 * count, 8 * count).reshape(count, 5),
            np.frombuffer(data, np.uint8, nbytes, head),
        )
    if file.read(len(_END)) != _END:
        raise _damaged(path)


def read_losses(path: Path) -> npt.NDArray[np.float32]:
    """The reference's negative log-probability of every right token, float32 [positions]; reads the whole file.

    Raises:
        QuantkitError: it is damaged.
    """
    with path.open("rb") as file:
        header = read_header(path, file)
        pieces = read_pieces(path, header, file)
        parts = [-(piece.scale * piece.places[:, 3].astype(np.float32) + piece.floor) for piece in pieces]
    return np.concatenate(parts)


def _damaged(path: Path) -> QuantkitError:
    return QuantkitError(f"{path}: not a whole file of reference logits", hint=f"remove it: rm {path}")
