"""Sampling: the settings and their defaults.

A package's parameters come first, then those of the GGUF file (``general.sampling.*``), then llama.cpp's own defaults,
which are the ones written below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypedDict, cast

from quantkit.errors import QuantkitError
from quantkit.gguf.sampling_keys import PARAMETERS, SAMPLING_PREFIX

MOST_SEED = 2**32 - 2
"""The next number means a random seed to llama.cpp."""


class GrammarError(QuantkitError):
    """An answer cannot be held to a grammar."""


class SamplingOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Sampling`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    seed: int | None


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled. The defaults are llama.cpp's, but greedy: checks must not depend on chance.

    Attributes:
        temperature: 0 takes the most likely token; only the penalties still apply.
        top_k: how many of the most likely tokens are kept; 0 keeps all.
        top_p: the probability mass that is kept; 1 keeps all.
        min_p: the minimum probability, relative to the most likely token's; 0 keeps all.
        typical_p: locally typical sampling; 1 turns it off.
        repeat_penalty: divides the logits of recent tokens; 1 turns it off.
        repeat_last_n: how many recent tokens are penalized, including the prompt's; 0 is none, -1 the whole context.
        frequency_penalty: subtracted for each occurrence of a recent token; 0 turns it off.
        presence_penalty: subtracted once for each recent token; 0 turns it off.
        seed: seed of the random numbers; None for a random one.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("repeat_penalty", self.repeat_penalty), ("temperature", self.temperature)):
            if not isfinite(value) or (name == "repeat_penalty" and value <= 0):
                raise QuantkitError(
                    f"{name} cannot be {value}", hint="repeat_penalty 1.0 turns it off; temperature 0 is greedy"
                )
        if self.seed is not None and not 0 <= self.seed <= MOST_SEED:
            raise QuantkitError(
                f"seed must be from 0 to {MOST_SEED}, or -1 for a random one, not {self.seed}",
                hint="choose a smaller seed",
            )

    @property
    def penalizes(self) -> bool:
        """Whether any penalty has an effect."""
        neutral = (self.repeat_penalty, self.frequency_penalty, self.presence_penalty) == (1.0, 0.0, 0.0)
        return not neutral and self.repeat_last_n != 0


CHAT_TEMPERATURE = 0.8
"""llama.cpp's own temperature, for a chat whose package and model do not set one."""

_INTEGERS = frozenset({"top_k", "repeat_last_n", "seed"})
_NAMES = tuple(SamplingOptions.__annotations__)


def chat_sampling(metadata: Callable[[str], str | None], parameters: Mapping[str, str]) -> SamplingOptions:
    """Return the sampling options of a chat: the package's parameters, else the model's own, else llama.cpp's.

    Args:
        metadata: returns the text of a GGUF key, None if the file does not have the key.
        parameters: the package's parameters, name and value text; those not about sampling are ignored.

    Raises:
        QuantkitError: a value is not a number.
    """
    found: dict[str, Any] = {"temperature": CHAT_TEMPERATURE}
    for name in _NAMES:
        if name in parameters:
            found[name] = sampling_value(name, parameters[name])
    for end, name in PARAMETERS.items():
        key = f"{SAMPLING_PREFIX}{end}"
        if name not in parameters and (value := metadata(key)) is not None:
            where = f" ({key} of the file)"
            found[name] = number(name, value, integer=name in _INTEGERS, where=where)
    return cast(SamplingOptions, found)


def sampling_value(name: str, text: str) -> float | int | None:
    """Return the value of a parameter of :class:`SamplingOptions`; a negative seed is None, for a random one.

    Raises:
        QuantkitError: the text is not a number of the right kind.
    """
    value = number(name, text, integer=name in _INTEGERS)
    return None if name == "seed" and value < 0 else value


def number(name: str, text: str, *, integer: bool, where: str = "") -> float | int:
    """Return *text* as a number.

    Args:
        name: the parameter.
        text: its value.
        integer: whether it must be a whole number.
        where: where it comes from, for errors; "" for a package.

    Raises:
        QuantkitError: it is not a number.
    """
    try:
        return int(text) if integer else float(text)
    except ValueError:
        kind = "a whole number" if integer else "a number"
        raise QuantkitError(
            f"{name}{where} must be {kind}, not {text!r}", hint=f"set it with --param {name}=VALUE"
        ) from None
