"""Split GGUF models: which parts there are, what they say of themselves and of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from quantkit.engine.gguf_source import gguf_tensors, open_source
from quantkit.evaluate.files import bits_per_weight, files_at, label_of
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, encode_header
from quantkit.gguf.kv import string, u32
from quantkit.gguf.model import read_whole_model
from quantkit.jobs.edit import edit
from quantkit.jobs.inspect import inspect
from tests.support.fuzz.gguf_parts import PartsMutator, framed, split, unframed
from tests.support.fuzz.mutate_gguf import GgufMutator
from tests.support.fuzz.reader import Reader, read_each
from tests.support.fuzz.scratch import folder
from tests.support.fuzz.tiny_gguf import models


def _small() -> bytes:
    metadata = [string("general.architecture", "llama"), u32("general.file_type", 1)]
    rows = {"token_embd.weight": 3, "blk.0.attn_q.weight": 2, "output_norm.weight": 1, "output.weight": 3}
    tensors, at = [], 0
    for name, count in rows.items():
        tensors.append(TensorInfo(name, (count, 32), GGMLType.F16, at))
        at += GGMLType.F16.nbytes((count, 32))
    return encode_header(metadata, tensors) + bytes(at)


def _seeds() -> Sequence[bytes]:
    return [framed(split(_small(), sizes)) for sizes in ((1, 2, 1), (2, 2))]


def _more() -> Sequence[bytes]:
    """Without tensors in the first part, as llama.cpp's own program may write it; and whole models."""
    return [framed(split(_small(), (0, 4))), *(framed(split(model, (1, 3, 3))) for model in models()[:2])]


def _read(data: bytes) -> None:
    files = dict(unframed(data))
    if not files:
        return
    place = folder(files)
    first = place / next(iter(files))
    read_each(
        partial(_weights, first, files),
        partial(files_at, place),
        *(partial(inspect, place / name) for name in files),
        partial(edit, first, name="other"),
    )


def _weights(first: Path, files: Mapping[str, bytes]) -> None:
    """Every weight, as a command reads them: each from the part whose header has it, and none of them left out."""
    model = read_whole_model(first)
    label_of(model)
    if model.header.tensors:
        bits_per_weight(model)
    assert len(model.header.tensors) == sum(len(header.tensors) for header in model.headers)
    with open_source(model) as source:
        for tensor in gguf_tensors(model):
            rows = source.rows(tensor, 0, tensor.rows)
            at, begin = model.locate(tensor.name)
            size = model.header.tensors[tensor.name].type.nbytes(model.header.tensors[tensor.name].shape)
            assert rows.stored.tobytes() == files[model.files[at].name][begin : begin + size]


READER = Reader(
    "gguf-parts",
    _seeds,
    _read,
    PartsMutator(
        GgufMutator(
            keys=(b"general.alignment", b"general.type", b"split.no", b"split.count", b"split.tensors.count"),
            texts=(b"adapter", b"imatrix", b"mmproj"),
            names=(b"token_embd.weight", b"output.weight"),
        )
    ),
    largest=1 << 16,
    more=_more,
)
