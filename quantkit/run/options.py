"""Sampling: the settings, their defaults, and llama.cpp's samplers for them.

A package's parameters come first, then those of the GGUF file (``general.sampling.*``), then llama.cpp's own defaults,
which are the ones written below. The samplers are in llama.cpp's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, cast

from quantkit.errors import QuantkitError
from quantkit.gguf.sampling_keys import PARAMETERS, SAMPLING_PREFIX

if TYPE_CHECKING:
    from quantkit.run.grammar import Grammar

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


class Sampler:
    """llama.cpp's sampler chain for a :class:`Sampling`; a context manager, because llama.cpp owns the memory."""

    def __init__(
        self, sampling: Sampling, vocabulary: Any, *, n_ctx: int, recent: Sequence[int], grammar: str = ""
    ) -> None:
        """Build the chain.

        Args:
            sampling: the settings.
            vocabulary: llama.cpp's.
            n_ctx: tokens in the context.
            recent: the prompt's tokens, to which the penalties apply.
            grammar: GBNF that the answer is held to, "" for none.

        Raises:
            GrammarError: it is not valid.
        """
        from quantkit.ggml.llama import llama_cpp

        n_vocab = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
        self._n_vocab, self._grammar = n_vocab, _grammar(vocabulary, grammar)
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for part in _parts(sampling, n_vocab, n_ctx):
            llama_cpp.llama_sampler_chain_add(self._chain, part)
        if sampling.penalizes:
            for token in recent:
                llama_cpp.llama_sampler_accept(self._chain, token)

    def sample(self, context: Any) -> int:
        """Sample the next token from the logits of the last position that llama.cpp's *context* evaluated."""
        from quantkit.ggml.llama import llama_cpp

        if self._grammar is not None:
            return self._grammar.choose(self._chain, context, self._n_vocab)
        return int(llama_cpp.llama_sampler_sample(self._chain, context, -1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        from quantkit.ggml.llama import llama_cpp

        llama_cpp.llama_sampler_free(self._chain)
        self._chain = None
        if self._grammar is not None:
            self._grammar.close()


def _grammar(vocabulary: Any, text: str) -> Grammar | None:
    if not text:
        return None
    from quantkit.run.grammar import Grammar

    return Grammar(vocabulary, text)


def _parts(sampling: Sampling, n_vocab: int, n_ctx: int) -> list[Any]:
    from quantkit.ggml.llama import llama_cpp

    parts = []
    if sampling.penalizes:
        parts.append(
            llama_cpp.llama_sampler_init_penalties(
                n_vocab,
                # More than the context has no effect, and would reserve memory.
                n_ctx if sampling.repeat_last_n < 0 else min(sampling.repeat_last_n, n_ctx),
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.temperature <= 0:
        return [*parts, llama_cpp.llama_sampler_init_greedy()]
    seed = llama_cpp.LLAMA_DEFAULT_SEED if sampling.seed is None else sampling.seed
    return [
        *parts,
        llama_cpp.llama_sampler_init_top_k(min(sampling.top_k, n_vocab)),
        llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1),
        llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
        llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
        llama_cpp.llama_sampler_init_temp(sampling.temperature),
        llama_cpp.llama_sampler_init_dist(seed),
    ]
