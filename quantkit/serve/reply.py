"""The objects of OpenAI's API that answers and errors consist of."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quantkit.chat_template.answer_reader import Part, Text, Thought
from quantkit.chat_template.call_reader import Call
from quantkit.errors import ChatFormatError, ContextFullError, QuantkitError
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.options import GrammarError
from quantkit.serve.errors import BusyError, RequestError, StoppingError

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""

_FINISH = {"end_of_turn": "stop", "stop_text": "stop", "length": "length", "context_full": "length"}


@dataclass(frozen=True)
class Reply:
    """The fields that all objects of one answer share: the model's name, an id and the time.

    With *shared* nothing says how much of a prompt was in the context: a client could guess another one's prompt word
    by word.
    """

    model: str
    shared: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, parts: Sequence[Part], stats: GenerationStats) -> dict[str, Any]:
        """Return a ``chat.completion``."""
        text = "".join(part.text for part in parts if isinstance(part, Text))
        thought = "".join(part.text for part in parts if isinstance(part, Thought))
        calls = [part for part in parts if isinstance(part, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        finish = _finish(stats, called=bool(calls))
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._counts(stats), **self._end(stats)}

    def first(self) -> dict[str, Any]:
        """Return the chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, part: Part, index: int = 0) -> dict[str, Any]:
        """Return a chunk with some text, some of a thought, or the call with that index."""
        if isinstance(part, Call):
            return self._chunk({"tool_calls": [{"index": index, **_call(part)}]}, None)
        return self._chunk({"reasoning_content" if isinstance(part, Thought) else "content": part.text}, None)

    def last(self, stats: GenerationStats, *, called: bool = False) -> dict[str, Any]:
        """Return the chunk that says why the answer ended; *called*: it has calls of tools."""
        return {**self._chunk({}, _finish(stats, called=called)), **self._end(stats)}

    def usage(self, stats: GenerationStats) -> dict[str, Any]:
        """Return the chunk with the token counts and no text, for requests with ``include_usage``."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self._counts(stats)}

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

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


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
    reason = _FINISH[stats.stop_reason]
    return "tool_calls" if called and reason == "stop" else reason


def event(value: dict[str, Any]) -> bytes:
    """Return a server-sent event with JSON; the text is escaped, so it contains no line ends."""
    return f"data: {json.dumps(value)}\n\n".encode()


def error_object(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return an error in the form that OpenAI's clients understand."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(error: QuantkitError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the error object for an error."""
    kind = "invalid_request_error"
    match error:
        case RequestError(param=param, status=status):
            return status, error_object(str(error), kind, param=param)
        case GrammarError():
            return 400, error_object(str(error), kind, param="response_format")
        case ContextFullError():
            message = f"{error}; {error.hint}"
            return 400, error_object(message, kind, param="messages", code="context_length_exceeded")
        case ChatFormatError():
            return 400, error_object(str(error), kind, param="messages")
        case StoppingError() | BusyError():
            return 503, error_object(str(error), "server_error")
        case _:
            return 500, error_object(str(error), "server_error")
