"""A GGUF file with norms in F16, as MLX exports it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, align, encode_header
from quantkit.gguf.model import read_model


def narrow_norms(source: Path, made: Path) -> Path:
    """Write *source* again with its F32 vectors as F16."""
    header, raw = read_model(source).header, source.read_bytes()
    infos: list[TensorInfo] = []
    data = b""
    for info in header.tensors.values():
        start = header.data_offset + info.offset
        stored = raw[start : start + info.type.nbytes(info.shape)]
        if info.type is GGMLType.F32:
            stored = np.frombuffer(stored, "<f4").astype("<f2").tobytes()
        kind = GGMLType.F16 if info.type is GGMLType.F32 else info.type
        infos.append(replace(info, type=kind, offset=len(data)))
        data += stored.ljust(align(len(stored)), b"\0")
    made.write_bytes(encode_header(header.metadata.values(), infos) + data)
    return made
