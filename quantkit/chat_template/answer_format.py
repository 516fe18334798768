"""The values that describe an answer: thoughts, the text itself, and calls of tools.

They are found and proven by :mod:`quantkit.chat_template.answer_probe` and :mod:`quantkit.chat_template.call_probe`,
and used by :mod:`quantkit.chat_template.answer_reader`. A marker is kept without the white space around it, because
models and templates differ in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PART = "a part of the content"
"""In place of a field: a message's content is a list, and a thought is an item of it."""
NAME, ARGUMENTS, ID, NUMBER = "$name", "$arguments", "$id", "$number"
"""In a layout: an id has nine letters or digits, a number counts the calls."""


@dataclass(frozen=True)
class Wrapper:
    """The markers around a text; either may be empty."""

    open: str = ""
    close: str = ""


@dataclass(frozen=True)
class Thoughts:
    """How thoughts stand in an answer.

    Attributes:
        marks: around a thought.
        field: the field of a message whose thoughts the template writes, or :data:`PART`; "" if it writes none.
    """

    marks: Wrapper
    field: str


class CallKind(StrEnum):
    """How a call is written."""

    JSON = "a JSON object with name and arguments"
    NAMED = "the name as text, the arguments as JSON"
    TAGGED = "the name and each argument as text"
    QUOTED = "the name as text, the arguments as JSON with quotes of their own"
    PYTHON = "a list of calls as Python writes them"
    ADDRESSED = "the name in the header of a message, the arguments as JSON behind it"


@dataclass(frozen=True)
class CallFormat:
    """How an answer calls tools.

    Attributes:
        kind: how a call is written.
        section: around all calls of an answer.
        call: around each call; of JSON around the value, else from before the name to after the last argument.
        several: whether an answer can have more than one call.
        text_arguments: whether the template wants the arguments of past calls as JSON text.
        name: of JSON: the keys that lead to the name; none if the name is the key itself.
        arguments: of JSON: the keys that lead to the arguments.
        id: of JSON: the keys that lead to the call's id; none if it has no id.
        after_name: of NAMED, TAGGED and QUOTED: between the name (and an id) and the arguments; of ADDRESSED: what
            ends a header, also that of a thought and of a text.
        id_marks: of NAMED: around an id between the name and the arguments.
        key: of TAGGED: around the name of an argument.
        value: of TAGGED: after the value; its opening belongs to the key. Of QUOTED: around a string.
        lines: of TAGGED: whether values have lines of their own.
        layout: of JSON: a call as JSON text, with :data:`NAME`, :data:`ARGUMENTS`, :data:`ID` and :data:`NUMBER` in the
            places of what changes, in a list if the template writes calls as one; of ADDRESSED: what is between the
            name and the arguments.
        numbered: of NAMED: whether what is between the id_marks counts the calls, which is the end of the call's id.
        id_first: of NAMED: between an id that stands before the name and the name; "" if none does.
        other_key: of TAGGED: what ends the name of an argument that is no string, "" if it is the same.
        cdata: of TAGGED: whether a value may be in a section of CDATA.
        between: what separates two calls, but for white space.
    """

    kind: CallKind
    section: Wrapper
    call: Wrapper
    several: bool
    text_arguments: bool
    name: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    after_name: str = ""
    id_marks: Wrapper | None = None
    key: Wrapper = Wrapper()
    value: str = ""
    lines: bool = False
    layout: str = ""
    numbered: bool = False
    id_first: str = ""
    other_key: str = ""
    cdata: bool = False
    between: str = ""

    @property
    def trigger(self) -> str:
        """The text with which calls begin; "" for JSON without any marker. A header has its own place."""
        return (self.section.open or self.call.open).partition("\n")[0].rstrip()


@dataclass(frozen=True)
class AnswerFormat:
    """How a chat template lets a model answer.

    Attributes:
        thoughts: how thoughts are written, None if nothing shows that the model thinks.
        answer: around the text of an answer, where it has markers of its own.
        calls: how tools are called, None if they cannot be.
        no_calls: why not; "" if they can.
        switches: the variables that let the model think or not.
        efforts: the values of ``reasoning_effort`` that the template knows.
        variables: every variable that a caller can set.
    """

    thoughts: Thoughts | None = None
    answer: Wrapper = Wrapper()
    calls: CallFormat | None = None
    no_calls: str = ""
    switches: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """Every text that separates the parts of an answer; some are control tokens."""
        wrappers = [self.answer]
        plain: list[str] = []
        if self.thoughts is not None:
            wrappers.append(self.thoughts.marks)
        if (calls := self.calls) is not None:
            wrappers += [calls.section, calls.call, calls.key, *([calls.id_marks] if calls.id_marks else [])]
            plain = [calls.after_name, calls.value, calls.id_first]
        texts = [*plain, *(text for wrapper in wrappers for text in (wrapper.open, wrapper.close))]
        return tuple(dict.fromkeys(text for text in texts if text))


def thoughtful(content: str, thought: str, field: str) -> dict[str, Any]:
    """The content of a past answer with its thought, where a template looks for it."""
    if field == PART:
        return {"content": [{"type": "thinking", "thinking": thought}, {"type": "text", "text": content}]}
    return {"content": content, field: thought}


def read_answer_format(values: Mapping[str, Any]) -> AnswerFormat:
    """The value with these fields from JSON: the inverse of ``asdict``."""
    thoughts, calls = values["thoughts"], values["calls"]
    return AnswerFormat(
        thoughts=thoughts and Thoughts(Wrapper(**thoughts["marks"]), thoughts["field"]),
        answer=Wrapper(**values["answer"]),
        calls=calls and _read_calls(calls),
        no_calls=values["no_calls"],
        switches=tuple(values["switches"]),
        efforts=tuple(values["efforts"]),
        variables=tuple(values["variables"]),
    )


def _read_calls(values: Mapping[str, Any]) -> CallFormat:
    wrappers = {name: Wrapper(**values[name]) for name in ("section", "call", "key")}
    keys = {name: tuple(values[name]) for name in ("name", "arguments", "id")}
    marks = values["id_marks"] and Wrapper(**values["id_marks"])
    return CallFormat(**{**values, **wrappers, **keys, "id_marks": marks, "kind": CallKind(values["kind"])})
