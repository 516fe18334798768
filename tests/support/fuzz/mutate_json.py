"""Changes JSON by its structure: values of other kinds and sizes, keys that are missing, twice, or exchanged."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

# Deeper than Python's parser goes, and numbers that are longer than Python prints.
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64,
    10**400, 10**4000,
    0.0, -0.0, 0.5, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"),
    "", " ", "\0", "a", "\ud800", "\U0001f600", "../x", "/etc/passwd", "x" * 5000, "1", "true", "null", "0x10",
    [], {}, [[]], [None], {"": None}, [0] * 300, ["a", 1, None], {"a": {"b": {"c": [1]}}},
)  # fmt: skip
_STEPS = (1, 1, 1, 2, 3, 5)

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class JsonMutator:
    """Changes a JSON document a few times; what is no JSON is left to libFuzzer.

    Attributes:
        words: keys and values with a meaning to the reader.
    """

    words: Sequence[Any] = ()

    def __call__(self, data: bytes, random: Random) -> bytes:
        """The changed document; *data*, if it is none that can be changed."""
        try:
            return self.encode(self.change(json.loads(data), random), random)
        except (ValueError, RecursionError):  # also of what is nested too deeply to be copied
            return data

    def change(self, value: Any, random: Random) -> Any:
        """A changed copy of a JSON value."""
        value = copy.deepcopy(value)
        for _ in range(random.choice(_STEPS)):
            value = self._step(value, random)
        return value

    def encode(self, value: Any, random: Random) -> bytes:
        """As text, now and then with what json.dumps never writes: a key twice, or nesting without an end."""
        text = json.dumps(value, ensure_ascii=random.random() < 0.7)
        if not random.randrange(40):  # as deep as Python's parser goes, and a little less
            depth = random.choice((100, 300, 480, *range(900, 1000, 3)))
            inner = random.choice((("[", "]"), ('{"a":', "}")))
            found = re.search(random.choice((r"\d+", r'"[^"]*"(?!\s*:)', "null", "true")), text)
            if found:
                text = text[: found.start()] + inner[0] * depth + "1" + inner[1] * depth + text[found.end() :]
        match random.randrange(60):
            case 0:
                text = text.replace("{", '{"' + self._word(random) + '": 1, ', 1)
            case 1:
                text = (
                    text.replace("[", "[" * 100_000, 1) if random.random() < 0.1 else text.replace("1", "1" * 5000, 1)
                )
        return text.encode("utf-8", "surrogatepass")

    def _step(self, value: Any, random: Random) -> Any:
        paths = list(_paths(value))
        path = random.choice(paths) if random.random() < 0.5 else _walk(value, random)
        if not path:
            return self._other(value, value, random) if random.random() < 0.05 else value
        parent, last = _at(value, path[:-1]), path[-1]
        match random.randrange(8):
            case 0:
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[self._word(random)] = parent.pop(last)
            case 1 | 2 if isinstance(parent, list):
                parent.insert(random.randrange(len(parent) + 1), copy.deepcopy(parent[last]))
            case 2:
                parent[self._word(random)] = self._odd(random)
            case 3:
                parent[last] = copy.deepcopy(_at(value, random.choice(paths)))
            case _:
                parent[last] = self._other(parent[last], value, random)
        return value

    def _other(self, old: Any, whole: Any, random: Random) -> Any:
        """Another value: of the same kind, wrapped, as text, or any."""
        choices: list[Callable[[], Any]] = [
            lambda: self._odd(random),
            lambda: [old],
            lambda: {"": old},
            lambda: str(old)[:1000],
            lambda: copy.deepcopy(_at(whole, random.choice(list(_paths(whole))))),
        ]
        if isinstance(old, int | float):
            choices += [
                lambda: old + random.choice((-1, 1)),
                lambda: -old,
                lambda: old * random.choice((2, 3, 2**20)),
            ] * 3
            choices += [lambda: float(str(old)) if abs(old) < 2**53 else old]
        if isinstance(old, str) and old:
            at = random.randrange(len(old))
            choices += [
                lambda: old[:at] + old[at + 1 :],
                lambda: old[:at] + random.choice(("", "\0", "é", "<", ".", "/", "%", old)) + old[at:],
            ] * 2
        try:
            return random.choice(choices)()
        except (ValueError, OverflowError):  # numbers that are too long for a text or a float
            return old

    def _odd(self, random: Random) -> Any:
        return copy.deepcopy(random.choice(self.words if self.words and random.random() < 0.4 else _ODD))

    def _word(self, random: Random) -> str:
        word = self._odd(random)
        return word if isinstance(word, str) else "key"


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """The places of all values, without those in long lists and behind deep nesting."""
    yield at
    if len(at) > 12:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:300]):
            yield from _paths(inner, (*at, index))


def _walk(value: Any, random: Random) -> Path:
    """A place on a walk down from the top: what is beside a vocabulary comes up as often as the vocabulary."""
    path: Path = ()
    while isinstance(value, dict | list) and value and len(path) <= 12 and (not path or random.random() < 0.7):
        key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        path, value = (*path, key), value[key]
    return path


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value
