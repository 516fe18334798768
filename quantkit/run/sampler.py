"""llama.cpp's samplers, in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from quantkit.run.options import Sampling

if TYPE_CHECKING:
    from quantkit.run.grammar import Grammar


class Sampler:
    """llama.cpp's sampler chain for a :class:`Sampling`; a context manager, because llama.cpp owns the memory."""

    def __init__(
        self,
        sampling: Sampling,
        vocabulary: Any,
        *,
        n_ctx: int,
        recent: Sequence[int],
        grammar: str = "",
        bias: Mapping[int, float] | None = None,
    ) -> None:
        """Build the chain.

        Args:
            sampling: the settings.
            vocabulary: llama.cpp's.
            n_ctx: tokens in the context.
            recent: the prompt's tokens, to which the penalties apply.
            grammar: GBNF that the answer is held to, "" for none.
            bias: token -> what is added to its logit, before anything else.

        Raises:
            GrammarError: it is not valid.
        """
        from quantkit.ggml.llama import llama_cpp

        n_vocab = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
        self._n_vocab, self._grammar = n_vocab, _grammar(vocabulary, grammar)
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for part in [*_biases(bias or {}, n_vocab), *_parts(sampling, n_vocab, n_ctx)]:
            llama_cpp.llama_sampler_chain_add(self._chain, part)
        if sampling.penalizes:
            for token in recent:
                llama_cpp.llama_sampler_accept(self._chain, token)

    def sample(self, context: Any, row: int = -1) -> int:
        """Sample the next token from the logits of a row that llama.cpp's *context* evaluated, the last by default."""
        from quantkit.ggml.llama import llama_cpp

        if self._grammar is not None:
            return self._grammar.choose(self._chain, context, self._n_vocab, row)
        return int(llama_cpp.llama_sampler_sample(self._chain, context, row))

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


def _biases(bias: Mapping[int, float], n_vocab: int) -> list[Any]:
    from quantkit.ggml.llama import llama_cpp

    if not bias:
        return []
    entries = (llama_cpp.llama_logit_bias * len(bias))()
    for entry, (token, value) in zip(entries, bias.items(), strict=True):
        entry.token, entry.bias = token, value
    return [llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(bias), entries)]


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
