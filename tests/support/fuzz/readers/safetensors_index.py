"""The index of a checkpoint in shards, and what else of weights lies in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.fuzz import tiny
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.parts import is_name, listed, of_parts, write_sparse
from tests.support.fuzz.planned import plan_and_inspect
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder

_ONE, _TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _seeds() -> Sequence[bytes]:
    names = sorted(tiny.SHAPES)
    parts = {_ONE: names[:4], _TWO: names[4:]}
    shards = {file: listed({name: tiny.SHAPES[name] for name in some}) for file, some in parts.items()}
    where = {name: file for file, some in parts.items() for name in some}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    return [
        tiny.text({"index": index, "shards": shards}),
        tiny.text({"index": index, "shards": {**shards, "model.safetensors": listed(tiny.SHAPES)}}),
        tiny.text({"index": None, "shards": shards}),
    ]


def _read(parts: dict[str, Any]) -> None:
    place = folder(tiny.model(model_safetensors=None))
    if parts.get("index") is not None:
        (place / "model.safetensors.index.json").write_bytes(tiny.text(parts["index"]))
    shards = parts.get("shards")
    for name, shapes in shards.items() if isinstance(shards, dict) else ():
        if is_name(name):
            write_sparse(place / name, shapes)
    plan_and_inspect(place)


READER = Reader(
    "safetensors-index",
    _seeds,
    of_parts(_read),
    JsonMutator(
        words=(
            *(
                "weight_map",
                "model.safetensors",
                "model-00001-of-00001.safetensors",
                "model-99999-of-99999.safetensors",
            ),
            *("pytorch_model.bin", "../secret", "a/b", "..", "config.json", "model-00000-of-00000.safetensors"),
            *("model-00003-of-00002.safetensors", "a\\b", _ONE, _TWO),
        )
    ),
    largest=1 << 15,
)
