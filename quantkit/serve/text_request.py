"""Reads a request for the continuation of a text, without a chat template: OpenAI's older API, for base models.

The package's system prompt and stop sequences belong to its chat format, so they do not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import Field, ValidationError

from quantkit.run.logprobs import MOST_TOP
from quantkit.run.settings import Settings
from quantkit.serve import answer_fields
from quantkit.serve.adapters import Adapters
from quantkit.serve.answer_fields import MOST_ANSWERS, AnswerFields
from quantkit.serve.errors import RequestError
from quantkit.serve.prompts import Prompt, read_prompts
from quantkit.serve.refusals import problem

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    **answer_fields.UNSUPPORTED,
    "tools": ([],),
    "messages": (),
    "prompt_embeds": (),
}
"""See :data:`quantkit.serve.answer_fields.UNSUPPORTED`."""

DEFAULT_LIMIT = 16
"""Tokens of an answer if neither the request nor the package says it: OpenAI's, because many a model never ends."""


class TextBody(AnswerFields):
    """The parameters of a continuation."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="A text, its tokens, or several of either.",
    )
    suffix: str | None = Field(None, description="What follows the gap that is to be filled.")
    echo: bool | None = Field(None, description="Put the prompt before the answer.")
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP, description="So many alternatives to each token.")


@dataclass(frozen=True)
class TextPrompt:
    """One prompt and how to continue it.

    Attributes:
        prompt: a text, or tokens that are taken as they are.
        settings: how to answer.
        suffix: what follows the gap that is filled; None for a plain continuation.
        reuse: False evaluates the whole prompt.
        logprobs: how many alternatives to each token are told; None tells nothing of probabilities.
        echo: whether the prompt is part of the answer.
    """

    prompt: Prompt
    settings: Settings
    suffix: str | None = None
    reuse: bool = True
    logprobs: int | None = None
    echo: bool = False


@dataclass(frozen=True)
class TextRequest:
    """A request for continuations.

    Attributes:
        prompts: the prompts.
        n: how many answers each of them gets.
        stream: whether answers are sent piece by piece.
        include_usage: whether a stream ends with the token counts.
        unchecked: a grammar of the client's, which may be none at all.
        model: name of the adapter that it is for; "" for the server's model.
    """

    prompts: tuple[TextPrompt, ...]
    n: int
    stream: bool
    include_usage: bool
    unchecked: str = ""
    model: str = ""

    def each(self) -> tuple[TextPrompt, ...]:
        """A prompt for each of the answers."""
        return tuple(
            replace(prompt, settings=prompt.settings.for_answer(index))
            for prompt in self.prompts
            for index in range(self.n)
        )


def read_text_request(
    body: bytes,
    *,
    settings: Settings,
    note: Callable[[str], None],
    n_vocab: int,
    fills: bool,
    adapters: Adapters | None = None,
) -> TextRequest:
    """Read a request.

    Args:
        body: JSON.
        settings: the settings for what the request leaves out.
        note: receives the name of each parameter that is ignored.
        n_vocab: tokens of the model.
        fills: whether the model has the tokens for filling a gap.
        adapters: LoRA files that the request can choose.

    Raises:
        RequestError: it is not JSON, a value is wrong, or it asks for something unsupported.
    """
    try:
        asked = TextBody.model_validate_json(body)
    except ValidationError as error:
        raise problem(error) from None
    extra = asked.model_extra or {}
    answer_fields.refuse_unsupported(extra, note, unsupported=UNSUPPORTED, ignored=answer_fields.IGNORED)
    prompts, count = read_prompts(asked.prompt, n_vocab, "prompt"), asked.n or 1
    if len(prompts) * count > MOST_ANSWERS:
        raise RequestError(f"the request asks for {len(prompts) * count} answers; at most {MOST_ANSWERS} are supported")
    if asked.suffix and not fills:
        raise RequestError("suffix is not supported: this model has no tokens for filling a gap", param="suffix")
    if asked.echo and asked.logprobs is not None:
        raise RequestError("echo is not supported together with logprobs", param="echo")
    default = DEFAULT_LIMIT if settings.max_tokens is None else settings.max_tokens
    plain = Settings(
        sampling=answer_fields.sampling(asked, settings.sampling),
        max_tokens=answer_fields.limit(asked.max_tokens, default, least=0),
        stops=tuple(answer_fields.stops(asked.stop)),
        held=answer_fields.held(asked)[0],
        bias=answer_fields.bias(asked.logit_bias, n_vocab),
    )
    how, model = answer_fields.with_adapters(asked, plain, adapters)
    reuse, echo = asked.cache_prompt is not False, bool(asked.echo)
    return TextRequest(
        prompts=tuple(TextPrompt(prompt, how, asked.suffix or None, reuse, asked.logprobs, echo) for prompt in prompts),
        n=count,
        stream=bool(asked.stream),
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        unchecked=asked.grammar or "",
        model=model,
    )
