"""Recipes and matrices in TOML. JSON stands for the same keys and values, so that they can be changed one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.farm.recipes import read_recipes
from quantkit.jobs.fields import toml_value
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.jobs.recipe_file import read_recipe
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file

_SEEDS: Sequence[Mapping[str, Any]] = (
    {"model": "org/name", "adapters": ["my-lora", {"path": "org/style", "weight": 0.5}], "quants": ["q4_k_m", "q8_0"]},
    {"model": ".", "out": "out", "bits": 4.6, "parameters": {"temperature": 0.2, "stop": ["a", "b"]}, "threads": 2},
    {"model": "org/a@main", "messages": [{"user": "a"}, {"assistant": "b"}], "system": "s", "device": "cpu"},
    {"model": "org/a", "tensor_types": ["attn_v=q8_0"], "imatrix": "org/name:im.gguf", "name": "n"},
    {
        "out": "x",
        "matrix": {"model": ["org/a", "org/b"], "quants": ["q4_0", ["q8_0", "q4_k_m"]], "adapters": ["", "l"]},
    },
    {
        "model": "org/a",
        "size": "4.5GB",
        "rope_scaling": "yarn:4",
        "rope_theta": 1e6,
        "mtp": "drop",
        "template": "chatml",
    },
)
_WORDS: Sequence[Any] = (
    *RECIPE_FIELDS,
    *("device", "threads", "matrix", "path", "weight", "role", "content", "modelscope:org/a", "https://hf.co/org/a"),
    *("linear:2", "yarn:0", "yarn:x", "q4_0=", "=", "auto", "2G", "0", "1e400", "a\tb", "cuda", [[]], {"path": "a"}),
)


def _read(data: bytes) -> None:
    try:
        values = json.loads(data)
        written = toml(values) if isinstance(values, dict) else data
    except (ValueError, RecursionError):
        written = data
    path = file("recipe.toml", written)
    with suppress(QuantkitError):  # read again by the farm, which also knows matrices
        Recipe(**{"model": ".", **{key: value for key, value in read_recipe(path).items() if key in RECIPE_FIELDS}})
    read_recipes([path])


def toml(values: Mapping[str, Any]) -> bytes:
    """A document with these keys."""
    plain = [f"{json.dumps(key)} = {_value(value)}" for key, value in values.items()]
    return "\n".join(plain).encode("utf-8", "surrogatepass")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return toml_value(value).replace("NaN", "nan").replace("Infinity", "inf")


READER = Reader("recipes", lambda: [json.dumps(seed).encode() for seed in _SEEDS], _read, JsonMutator(_WORDS))
