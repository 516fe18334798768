"""Headers of safetensors files."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from random import Random

from quantkit.checkpoint.tensor_file import SafetensorsFile
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file
from tests.support.fuzz.weights import read_weights


def framed(header: bytes, data: bytes) -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header)) + header + data


def _seeds() -> Sequence[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]},
        "model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
    }
    return [framed(json.dumps(header).encode(), bytes(40))]


def _read(data: bytes) -> None:
    read_weights(SafetensorsFile(file("model.safetensors", data)))


def _mutate(data: bytes, random: Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        return data
    header, rest = _json(data[8 : 8 + length], random), data[8 + length :]
    return framed(header, rest[: random.randrange(len(rest) + 1)] if random.random() < 0.1 else rest)


_json = JsonMutator(words=("dtype", "shape", "data_offsets", "__metadata__", "BOOL", "F8_E4M3", "I64", "F64", [0, 40]))
READER = Reader("safetensors-header", _seeds, _read, _mutate)
