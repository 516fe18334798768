"""What a model might say to a request with and without tools, in the format of its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.chat_template.answer_format import AnswerFormat, CallKind
from quantkit.chat_template.answer_reader import AnswerReader, Part, Text, Thought
from quantkit.chat_template.call_reader import Call
from quantkit.chat_template.prober import USER, Prober
from quantkit.system.overlap import common_start

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "a city"},
        "days": {"type": "integer", "description": "how many"},
        "share": {"type": "number", "description": "a number"},
    },
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": PARAMETERS}}
    for name in ("get_weather", "find_city")
]
CALLS: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, Any]]]]] = (
    ("", [("get_weather", {"city": "Paris"})]),
    ("Let me look.", [("get_weather", {"city": '二 "x"', "days": 3, "share": -0.5})]),
    ("", [("get_weather", {"city": "a <b>"}), ("find_city", {"city": "b", "days": 0})]),
)
"""Text, and the calls after it."""


@dataclass(frozen=True)
class Said:
    """What an answer consists of, without the white space around it."""

    thought: str
    text: str
    calls: tuple[tuple[str, Any], ...]


def read(form: AnswerFormat, opening: str, answer: str, *, tools: bool, by: int | None = None) -> Said:
    """An answer as quantkit reads it, at once or *by* so many characters."""
    offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS} if tools else {}
    reader, parts = AnswerReader(form, opening, offered), list[Part]()
    for at in range(0, len(answer), by or len(answer) or 1):
        parts += reader.push(answer[at : at + (by or len(answer))])
    parts += reader.finish()
    return Said(
        "".join(part.text for part in parts if isinstance(part, Thought)).strip(),
        "".join(part.text for part in parts if isinstance(part, Text)).strip(),
        tuple((part.name, json.loads(part.arguments)) for part in parts if isinstance(part, Call)),
    )


def agrees(said: Said, message: Mapping[str, Any]) -> bool:
    """Whether llama.cpp reads the same; True where it reads nothing, because its grammar forbids such an answer."""
    return "error" in message or said == _read_by_llama(message)


def _read_by_llama(message: Mapping[str, Any]) -> Said:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return Said(
        (message.get("reasoning_content") or "").strip(),
        (message.get("content") or "").strip(),
        tuple((call["name"], json.loads(call["arguments"])) for call in calls),
    )


def opening(prober: Prober, **told: Any) -> str:
    """What a prompt writes of the answer."""
    asked, ended = (prober.write([USER], asked=asks, **told) for asks in (True, False))
    return asked[len(common_start(asked, ended)) :]


def plain_answers(form: AnswerFormat) -> list[str]:
    """Answers without calls."""
    texts = ["Hello.", " \n Hello\n\nyou \n", "a < b and [x] {y}"]
    if form.thoughts is None:
        return texts
    start, end = form.thoughts.marks.open, form.thoughts.marks.close
    text = f"{form.answer.open}It is 4.{form.answer.close}"
    if form.answer.open:
        return [*texts, text, f"{start}I think.{end}{text}", f"{start}cut short"]
    return [
        *texts,
        f"{start}\nI think.\n{end}\n\n{text}",
        f"{start}a\n\n b {end}{text}",
        f"{start}cut short",
        f"\nI think.\n{end}\n\n{text}",
    ]


def calling_answers(prober: Prober, form: AnswerFormat) -> Iterator[tuple[str, str, Sequence[tuple[str, Any]]]]:
    """Answers with calls, as the template writes them in the past: what it opens, the answer, and the calls in it."""
    assert form.calls is not None
    told = dict.fromkeys(form.switches, True)
    tail = prober.behind([USER, {"role": "assistant", "content": "END OF IT"}], tools=TOOLS, **told)
    for content, calls in CALLS:
        if len(calls) > 1 and not form.calls.several:
            continue
        made = [
            {
                "id": f"callnum{number:02}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": json.dumps(arguments) if form.calls.text_arguments else arguments,
                },
            }
            for number, (name, arguments) in enumerate(calls)
        ]
        opened, body = prober.answer({"content": content, "tool_calls": made}, tools=TOOLS, **told)
        apart = body.partition(content or "\0")[2].partition(form.calls.trigger or "\0")[0].strip()
        if apart and form.calls.trigger in body and form.calls.kind is not CallKind.ADDRESSED:
            # The template writes the text as a turn of its own; a model writes it before its calls.
            opened, body = prober.answer({"content": "", "tool_calls": made}, tools=TOOLS, **told)
            body = f"{content}\n\n{body}"
        body = body.removesuffix(tail.rpartition("END OF IT")[2]).rstrip()
        if end := form.calls.section.close or form.calls.call.close:
            body = body[: body.rfind(end) + len(end)]
        yield opened, body, calls
