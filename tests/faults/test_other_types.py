"""Values of another type in the JSON files of a checkpoint or adapter: refused or harmless, never a crash.

Where the tables have one defect each, this goes through every key of every file, with values that have their turn.
"""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quantkit.errors import QuantkitError
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions
from tests.checkpoints.case import Case
from tests.checkpoints.defect import Base
from tests.support.sweeps import in_turn

SHARDED_ROPE = Base("llama3-rope", {"shards": 2, "layers": 1})
VALUES: tuple[Any, ...] = (None, [], "x", -1, 2**70, [["x"]], [{}], {"x": ["y"]})
# Settings that the sound files leave out.
ABSENT = {
    "model/config.json": ("quantization_config", "rope_parameters", "head_dim", "partial_rotary_factor"),
    "model/generation_config.json": ("top_k", "min_p", "mirostat"),
    "model/tokenizer_config.json": ("unk_token", "sep_token", "add_bos_token", "add_prefix_space"),
    "model/tokenizer.json": (),
    "model/model.safetensors.index.json": (),
    "adapter/adapter_config.json": (
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "layers_pattern",
        "exclude_modules",
        "ensure_weight_tying",
    ),
}
SECONDS = 2
_TURNS = 3


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """A count that a file claims must not keep us busy, for so many seconds of the processor."""

    def expire(number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {seconds} s of the processor")

    before = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all values; of lists and of large objects, whose items are alike, the first two alone."""
    if isinstance(value, dict):
        items: list[tuple[str | int, Any]] = list(value.items())[: 2 if len(value) > 32 else None]
    elif isinstance(value, list):
        items = list(enumerate(value[:2]))
    else:
        return
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def values_for(content: Any, path: tuple[str | int, ...]) -> tuple[Any, ...]:
    """What to try in a place; numbers and texts that only a number or a text is worth trying as well."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else content[key]
    match content:
        case str():
            return (*VALUES, "\ud800")
        case int() | float() | None:
            return (*VALUES, 0, 1e308)
    return VALUES


@contextmanager
def with_value(content: Any, path: tuple[str | int, ...], value: Any) -> Iterator[None]:
    """The value in its place for a while."""
    *outer, key = path
    for step in outer:
        content = content[step]
    absent = object()
    before = content.get(key, absent) if isinstance(content, dict) else content[key]
    content[key] = value
    try:
        yield
    finally:
        if before is absent:
            del content[key]
        else:
            content[key] = before


def crash(case: Case) -> str:
    """Where planning a build ends in an error that is none of ours; empty if it does not."""
    # Unquantized: llama.cpp is not asked for types, which takes a process each time.
    recipe = Recipe(case.model, (case.adapter,), (), out=case.out, keep_f16=True)
    try:
        with time_limit(SECONDS), prepare(recipe, RunOptions(device="cpu")):
            return ""
    except QuantkitError:
        return ""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = next(frame for frame in reversed(frames) if "quantkit" in Path(frame.filename).parts)
        return f"{Path(where.filename).name}:{where.lineno}: {type(error).__name__}: {error}"


@pytest.mark.parametrize("file", ABSENT)
def test_no_value_makes_a_crash(file: str, new_case: Callable[..., Case]) -> None:
    case = new_case(SHARDED_ROPE)
    path = case.root / file
    content = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    everything = [*places(content), *((key,) for key in ABSENT[file])]
    for number, place in enumerate(everything):
        for value in in_turn(values_for(content, place), number, _TURNS):
            with with_value(content, place, value):
                path.write_text(json.dumps(content), encoding="utf-8")
            if where := crash(case):
                found.setdefault(where, f"{'.'.join(map(str, place))} = {value!r}")
    assert len(everything) > 5
    assert not found, "\n".join(f"{where}   with {what}" for where, what in found.items())
