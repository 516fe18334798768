"""Headers of safetensors files."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

from quantkit.checkpoint.tensor_file import SafetensorsFile
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file


def _seeds() -> Sequence[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]},
        "model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
    }
    text = json.dumps(header).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(40)]


def _read(data: bytes) -> None:
    opened = SafetensorsFile(file("model.safetensors", data))
    try:
        for name in opened.specs:
            opened.read(name)
    finally:
        opened.close()


READER = Reader("safetensors-header", _seeds, _read)
