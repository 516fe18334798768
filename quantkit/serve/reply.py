"""The objects of OpenAI's API that answers consist of."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from quantkit.chat_template.answer_reader import Part, Text, Thought
from quantkit.chat_template.call_reader import Call
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.logprobs import TokenScore
from quantkit.serve.logprobs import chat_logprobs, text_logprobs

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""

FINISH = {"end_of_turn": "stop", "stop_text": "stop", "length": "length", "context_full": "length"}
"""Why an answer ended, in the words of :attr:`GenerationStats.stop_reason` -> in OpenAI's."""


@dataclass(frozen=True)
class Choice:
    """One whole answer.

    Attributes:
        parts: what was said.
        tokens: how likely each token was; None if nobody asked.
        stats: its statistics.
    """

    parts: Sequence[Part]
    tokens: Sequence[TokenScore] | None
    stats: GenerationStats


@dataclass(frozen=True)
class Reply(ABC):
    """The fields that all objects of one answer share: the model's name, an id and the time.

    With *shared* nothing says how much of a prompt was in the context: a client could guess another one's prompt word
    by word.
    """

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    model: str
    shared: bool = False
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        """The answer's name."""
        return f"{self.prefix}-{self.number}"

    def whole(self, choices: Sequence[Choice], stats: GenerationStats) -> dict[str, Any]:
        """Return the object with all choices; *stats* are those of all together."""
        said = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head(self.kind), "choices": said, "usage": self._counts(stats), **self._end(stats)}

    @abstractmethod
    def first(self, index: int) -> dict[str, Any] | None:
        """Return the chunk that opens the stream of a choice, if there is one."""

    @abstractmethod
    def piece(
        self, index: int, part: Part, call: int = 0, tokens: Sequence[TokenScore] | None = None
    ) -> dict[str, Any]:
        """Return a chunk with some text, some of a thought, or the call with that number, and its tokens' scores."""

    @abstractmethod
    def last(self, index: int, stats: GenerationStats, *, called: bool = False) -> dict[str, Any]:
        """Return the chunk that says why a choice ended; *called*: it has calls of tools."""

    def usage(self, stats: GenerationStats) -> dict[str, Any]:
        """Return the chunk with the token counts and no text, for requests with ``include_usage``."""
        return {**self._head(self.chunk_kind), "choices": [], "usage": self._counts(stats)}

    @abstractmethod
    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """One of the choices of a whole answer."""

    def _counts(self, stats: GenerationStats) -> dict[str, Any]:
        """The token counts; cached tokens are prompt tokens that an earlier answer left in the context."""
        counts: dict[str, Any] = {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.generated_tokens,
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        }
        return counts if self.shared else {**counts, "prompt_tokens_details": {"cached_tokens": stats.reused_tokens}}

    def _end(self, stats: GenerationStats) -> dict[str, Any]:
        """What is said besides OpenAI's: the speed, as llama.cpp's server does, and what the model did not see."""
        said: dict[str, Any] = {} if self.shared else {"timings": _timings(stats)}
        return said | ({"truncated_messages": stats.dropped_messages} if stats.dropped_messages else {})

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head(self.chunk_kind), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatReply(Reply):
    """An answer to a conversation."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text = "".join(part.text for part in choice.parts if isinstance(part, Text))
        thought = "".join(part.text for part in choice.parts if isinstance(part, Thought))
        calls = [part for part in choice.parts if isinstance(part, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        scores = None if choice.tokens is None else chat_logprobs(choice.tokens)
        finish = _finish(choice.stats, called=bool(calls))
        return {"index": index, "message": message, "logprobs": scores, "finish_reason": finish}

    def first(self, index: int) -> dict[str, Any]:
        """As in :class:`Reply`: the role."""
        return self._delta(index, {"role": "assistant", "content": ""}, None)

    def piece(
        self, index: int, part: Part, call: int = 0, tokens: Sequence[TokenScore] | None = None
    ) -> dict[str, Any]:
        """As in :class:`Reply`."""
        if isinstance(part, Call):
            delta: dict[str, Any] = {"tool_calls": [{"index": call, **_call(part)}]}
        else:
            delta = {"reasoning_content" if isinstance(part, Thought) else "content": part.text}
        return self._delta(index, delta, None, tokens)

    def last(self, index: int, stats: GenerationStats, *, called: bool = False) -> dict[str, Any]:
        """As in :class:`Reply`."""
        return {**self._delta(index, {}, _finish(stats, called=called)), **self._end(stats)}

    def _delta(
        self, index: int, delta: dict[str, Any], finish: str | None, tokens: Sequence[TokenScore] | None = None
    ) -> dict[str, Any]:
        scores = None if tokens is None else chat_logprobs(tokens)
        return self._chunk({"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish})


class TextReply(Reply):
    """A continuation of a text."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text = "".join(part.text for part in choice.parts if isinstance(part, Text))
        return _text(index, text, _finish(choice.stats, called=False), choice.tokens)

    def first(self, index: int) -> None:
        """As in :class:`Reply`: a text has no role."""

    def piece(
        self, index: int, part: Part, call: int = 0, tokens: Sequence[TokenScore] | None = None
    ) -> dict[str, Any]:
        """As in :class:`Reply`."""
        assert isinstance(part, Text), "the answer is not divided"
        return self._chunk(_text(index, part.text, None, tokens))

    def last(self, index: int, stats: GenerationStats, *, called: bool = False) -> dict[str, Any]:
        """As in :class:`Reply`."""
        return {**self._chunk(_text(index, "", _finish(stats, called=False), None)), **self._end(stats)}


def _text(index: int, text: str, finish: str | None, tokens: Sequence[TokenScore] | None) -> dict[str, Any]:
    scores = None if tokens is None else text_logprobs(tokens)
    return {"index": index, "text": text, "logprobs": scores, "finish_reason": finish}


def _timings(stats: GenerationStats) -> dict[str, Any]:
    return {
        "cache_n": stats.reused_tokens,
        "prompt_n": stats.prompt_tokens - stats.reused_tokens,
        "prompt_ms": round(1000 * stats.prompt_seconds, 3),
        "prompt_per_second": round(stats.prompt_rate, 3),
        "predicted_n": stats.generated_tokens,
        "predicted_ms": round(1000 * stats.generation_seconds, 3),
        "predicted_per_second": round(stats.generation_rate, 3),
    }


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _finish(stats: GenerationStats, *, called: bool) -> str:
    reason = FINISH[stats.stop_reason]
    return "tool_calls" if called and reason == "stop" else reason


def event(value: dict[str, Any]) -> bytes:
    """Return a server-sent event with JSON; the text is escaped, so it contains no line ends."""
    return f"data: {json.dumps(value)}\n\n".encode()
