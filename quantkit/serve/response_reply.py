"""The objects of ``POST /v1/responses``: a response with its items, whole or as a series of events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quantkit.chat_template.answer_reader import Part, Text, Thought
from quantkit.chat_template.call_reader import Call
from quantkit.run.generation_stats import GenerationStats
from quantkit.serve.reply import FINISH, ChatReply

_KINDS: Mapping[type[Part], tuple[str, str]] = {Thought: ("reasoning", "rs"), Text: ("message", "msg")}

Event = dict[str, Any]


class ResponseReply:
    """One response, which grows item by item. What :meth:`begin`, :meth:`add` and :meth:`end` return are the events."""

    def __init__(self, reply: ChatReply, shown: Mapping[str, Any], count: Callable[[str], int]) -> None:
        """Begin a response.

        Args:
            reply: the answer's number, time and model.
            shown: what of the request comes back.
            count: counts the tokens of a thought.
        """
        self._reply, self._shown, self._count = reply, shown, count
        self._output: list[dict[str, Any]] = []
        self._pieces: list[str] = []  # of the text of the item that is open
        self._thought = ""
        self._number = 0
        self._status = "in_progress"
        self._more: dict[str, Any] = {"error": None, "incomplete_details": None, "usage": None}

    @property
    def response(self) -> dict[str, Any]:
        """The response so far."""
        return {
            "id": f"resp_{self._reply.number}",
            "object": "response",
            "created_at": self._reply.created,
            "status": self._status,
            "model": self._reply.model,
            "output": self._output,
            **self._shown,
            **self._more,
        }

    def begin(self) -> Iterator[Event]:
        """Nothing is said yet."""
        for name in ("created", "in_progress"):
            yield self._event(name, response=self.response)

    def add(self, part: Part) -> Iterator[Event]:
        """Take the next piece of the answer."""
        if isinstance(part, Call):
            yield from self._close("completed")
            yield from self._call(part)
            return
        kind, prefix = _KINDS[type(part)]
        if not self._is_open or self._output[-1]["type"] != kind:
            yield from self._close("completed")
            yield from self._open(kind, prefix)
        self._pieces.append(part.text)
        name = "output_text" if kind == "message" else "reasoning_text"
        yield self._event(f"{name}.delta", **self._place(), delta=part.text, **_scores(kind))

    def end(self, stats: GenerationStats) -> Iterator[Event]:
        """Say how the answer ended."""
        cut = FINISH[stats.stop_reason] == "length"
        self._status = "incomplete" if cut else "completed"
        yield from self._close(self._status)
        self._more["usage"] = self._usage(stats)
        if cut:
            self._more["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self._more["completed_at"] = int(time.time())
        yield self._event(self._status, response=self.response)

    def fail(self, message: str) -> Iterator[Event]:
        """Say that there is no more, in the middle of the answer."""
        self._status = "failed"
        yield from self._close("incomplete")
        self._more["error"] = {"code": "server_error", "message": message}
        yield self._event("failed", response=self.response)

    @property
    def _is_open(self) -> bool:
        return bool(self._output) and self._output[-1]["status"] == "in_progress"

    def _open(self, kind: str, prefix: str) -> Iterator[Event]:
        self._pieces = []
        item: dict[str, Any] = {"id": _id(prefix), "type": kind, "status": "in_progress", "content": []}
        if kind == "message":
            item["role"] = "assistant"
        else:
            item["summary"] = []
        self._output.append(item)
        yield self._event("output_item.added", output_index=len(self._output) - 1, item=dict(item))
        item["content"] = [_content(kind, "")]
        yield self._event("content_part.added", **self._place(), part=_content(kind, ""))

    def _close(self, status: str) -> Iterator[Event]:
        if not self._is_open:
            return
        item, text = self._output[-1], "".join(self._pieces)
        kind = item["type"]
        item["content"], item["status"] = [_content(kind, text)], status
        if kind == "reasoning":
            self._thought += text
        name = "output_text" if kind == "message" else "reasoning_text"
        yield self._event(f"{name}.done", **self._place(), text=text, **_scores(kind))
        yield self._event("content_part.done", **self._place(), part=_content(kind, text))
        yield self._event("output_item.done", output_index=len(self._output) - 1, item=item)

    def _call(self, call: Call) -> Iterator[Event]:
        item = {"id": _id("fc"), "type": "function_call", "status": "in_progress", "name": call.name}
        item |= {"call_id": call.id or f"call_{uuid.uuid4().hex[:24]}", "arguments": ""}
        self._output.append(item)
        index = {"output_index": len(self._output) - 1}
        place = {**index, "item_id": item["id"]}
        yield self._event("output_item.added", **index, item=dict(item))
        item["arguments"], item["status"] = call.arguments, "completed"
        yield self._event("function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("function_call_arguments.done", **place, arguments=call.arguments)
        yield self._event("output_item.done", **index, item=item)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, "content_index": 0}

    def _event(self, name: str, **said: Any) -> Event:
        self._number += 1
        return {"type": f"response.{name}", "sequence_number": self._number - 1, **said}

    def _usage(self, stats: GenerationStats) -> dict[str, Any]:
        """The token counts; those of a thought are those that its text has. Nothing of the cache with *shared*."""
        cached = 0 if self._reply.shared else stats.reused_tokens
        thought = min(self._count(self._thought), stats.generated_tokens) if self._thought else 0
        return {
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": stats.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        }


def _content(kind: str, text: str) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "reasoning_text", "text": text}


def _scores(kind: str) -> dict[str, Any]:
    return {"logprobs": []} if kind == "message" else {}


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def named_event(value: Event) -> bytes:
    """A server-sent event with its name, as this API has them."""
    return f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode()
