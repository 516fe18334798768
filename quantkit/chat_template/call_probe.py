"""Finds how a chat template writes calls of tools, and proves that they can be read back.

Calls with sentinel names and arguments are rendered and cut at the sentinels. The proof is a set of other calls: each
is written by the template and read by :mod:`quantkit.chat_template.call_reader`, with the text before it, and must come
back as it was. A format that does not pass is refused with the reason; nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantkit.chat_template.answer_format import AnswerFormat, CallFormat, CallKind, Wrapper
from quantkit.chat_template.answer_reader import AnswerReader, Part, Text
from quantkit.chat_template.call_reader import Call
from quantkit.chat_template.call_spans import (
    IDS,
    KEYS,
    NAMES,
    PARAMETERS,
    PROOFS,
    TOOLS,
    json_spans,
    layout_of,
    named_spans,
    path_of,
    text_between,
)
from quantkit.chat_template.probe import without_cut_mark
from quantkit.chat_template.prober import USER, Prober
from quantkit.errors import ChatFormatError
from quantkit.system.overlap import common_start

_RESULT = "SentinelResult"
_VALUES = ("SentinelA", "SentinelB")
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_TRIGGER = re.compile(r"[<\[][^<\[]+")
_CUT_START = re.compile(r"\A[^<>\[\]]*[>\]]")


class NoCallsError(ChatFormatError):
    """Why calls of tools cannot be read."""


def find_calls(prober: Prober, answers: AnswerFormat) -> tuple[CallFormat | None, str]:
    """How a template writes calls; or None, and why tools cannot be used.

    Args:
        prober: renders the template.
        answers: how it writes thoughts and text.
    """
    try:
        if not any(name in prober.write([USER], tools=TOOLS, asked=True) for name in NAMES):
            return None, "it has no tools"
    except ChatFormatError as error:
        return None, f"it refuses tools: {error}"
    why = ""
    for as_text in (False, True):
        try:
            return _Calls(prober, answers, as_text).find(), ""
        except NoCallsError as error:
            return None, why or str(error)
        except ChatFormatError as error:
            why = why or f"its format of calls cannot be derived: {error}"
    return None, why


class _Calls:
    """The search, with arguments as values or as JSON text."""

    def __init__(self, prober: Prober, answers: AnswerFormat, as_text: bool) -> None:
        self._prober, self._answers, self._as_text = prober, answers, as_text
        self._told = dict.fromkeys(answers.switches, True)
        self._tail = self._plain_tail()

    def find(self) -> CallFormat:
        one = self._body([{KEYS[0]: _VALUES[0]}])
        if repr(KEYS[0]) in one and not self._as_text:
            raise ChatFormatError("it writes arguments as Python does")
        try:
            two: str | None = self._body([{KEYS[0]: _VALUES[0]}, {KEYS[1]: _VALUES[1]}])
        except ChatFormatError:
            two = None  # one call at most
        if two is not None and NAMES[1] not in two:
            two = None
        for kind in (self._json, self._named, self._tagged, self._quoted):
            found = kind(one, two)
            if found is None:
                continue
            if found.trigger and not _TRIGGER.fullmatch(found.trigger):
                found = self._addressed(found)
            found = replace(found, text_arguments=self._as_text)
            self._prove(found)
            return found
        raise NoCallsError("its format of calls cannot be derived")

    # -- what the template writes -------------------------------------------------------------------------------------

    def _messages(self, arguments: Sequence[Mapping[str, Any]], content: str = "") -> list[dict[str, Any]]:
        calls = [
            {
                "id": IDS[i],
                "type": "function",
                "function": {"name": NAMES[i], "arguments": json.dumps(one) if self._as_text else one},
            }
            for i, one in enumerate(arguments)
        ]
        return [dict(USER), {"role": "assistant", "content": content, "tool_calls": calls}]

    def _whole(self, arguments: Sequence[Mapping[str, Any]], content: str = "") -> tuple[str, str]:
        _, answer = self._messages(arguments, content)
        return self._prober.answer(answer, tools=TOOLS, **self._told)

    def _body(self, arguments: Sequence[Mapping[str, Any]]) -> str:
        """An answer of calls alone: without a thought, and without the end of the turn."""
        opening, body = self._whole(arguments)
        parts = AnswerReader(replace(self._answers, answer=Wrapper()), opening)
        body = "".join(part.text for part in [*parts.push(body), *parts.finish()] if isinstance(part, Text))
        wrapper = self._answers.answer
        if wrapper.open and body.lstrip().startswith(wrapper.open):
            body = body.lstrip()[len(wrapper.open) :].lstrip().removeprefix(wrapper.close)
        return body.removesuffix(self._tail)

    def _plain_tail(self) -> str:
        body = self._prober.behind([USER, {"role": "assistant", "content": _RESULT}], tools=TOOLS, **self._told)
        return body.rpartition(_RESULT)[2]

    # -- the kinds ----------------------------------------------------------------------------------------------------

    def _json(self, one: str, two: str | None) -> CallFormat | None:
        spans = list(json_spans(one, NAMES[0]))
        found = next(((start, end, value) for start, end, value in spans if _VALUES[0] in json.dumps(value)), None)
        if found is None:
            return None
        start, end, value = found
        if isinstance(value, list):
            if len(value) != 1:
                return None
            value = value[0]
        name, arguments = path_of(value, NAMES[0]), path_of(value, {KEYS[0]: _VALUES[0]})
        if name is None and arguments is None:
            return None
        if arguments is None and self._as_text:
            return None
        keyed = name is None
        if keyed and arguments != (NAMES[0],):
            return None
        number = path_of(value, IDS[0])
        section, call, between = self._around(one[:start], one[end:]), Wrapper(), ""
        if two is not None and not isinstance(found[2], list):
            section, call, between = self._divided(one[:start], one[end:], text_between(two, json_spans))
        several = two is not None
        return CallFormat(
            CallKind.JSON, section, call, several, False,
            name=() if keyed else name or (),
            arguments=() if keyed else arguments or (),
            id=number or (),
            layout=layout_of(found[2], {KEYS[0]: _VALUES[0]}),
            between=between,
        )  # fmt: skip

    def _named(self, one: str, two: str | None) -> CallFormat | None:
        at = one.find(NAMES[0])
        found = next((span for span in json_spans(one, KEYS[0]) if span[0] > at), None)
        if at < 0 or found is None or found[2] != {KEYS[0]: _VALUES[0]}:
            return None
        start, end, _ = found
        middle = one[at + len(NAMES[0]) : start]
        marks = None
        if IDS[0] in middle:
            before, _, behind = middle.partition(IDS[0])
            marks, middle = Wrapper(before.strip(), behind.strip()), behind
        section, call, between = Wrapper(), self._around(one[:at], one[end:]), ""
        if two is not None:
            section, call, between = self._divided(one[:at], one[end:], text_between(two, named_spans))
        return CallFormat(
            CallKind.NAMED, section, call, two is not None, False,
            after_name=middle.strip(),
            id_marks=marks,
            between=between,
        )  # fmt: skip

    def _addressed(self, found: CallFormat) -> CallFormat:
        """Calls whose header ends as those of thoughts and texts do: the parts of a header may have any order."""
        thoughts, answer, marks = self._answers.thoughts, self._answers.answer, _MARK.findall(found.after_name)
        headers = (answer.open, "" if thoughts is None else thoughts.marks.open)
        alike = bool(marks) and all(header.endswith(marks[-1]) for header in headers)
        if found.kind is CallKind.NAMED and not found.section.open and alike:
            return replace(found, kind=CallKind.ADDRESSED, after_name=marks[-1], layout=found.after_name)
        raise NoCallsError(f"its calls begin with {found.trigger!r}, which is not one marker")

    def _tagged(self, one: str, two: str | None) -> CallFormat | None:
        both = self._body([{KEYS[0]: _VALUES[0], KEYS[1]: _VALUES[1]}])
        cut = re.search(
            "(.*?)" + "(.*?)".join(map(re.escape, (NAMES[0], KEYS[0], _VALUES[0], KEYS[1], _VALUES[1]))) + "(.*)",
            both,
            re.DOTALL,
        )
        if cut is None:
            return None
        before, to_key, to_value, to_next, again, after = cut.groups()
        if to_value != again or not to_value.strip():
            return None
        key_open = common_start(to_key[::-1], to_next[::-1])[::-1]
        if without_cut_mark(to_next.removesuffix(key_open)) != to_next.removesuffix(key_open):
            key_open = _CUT_START.sub("", key_open)
        value_close = to_next.removesuffix(key_open)
        if not key_open.strip() or not value_close.strip() or not after.startswith(value_close):
            return None
        rest = after[len(value_close) :]
        section, call, apart = Wrapper(), Wrapper(before.strip(), rest.strip()), ""
        if two is not None:
            between = re.search(re.escape(_VALUES[0]) + re.escape(value_close) + f"(.*?){NAMES[1]}", two, re.DOTALL)
            if between is None:
                return None
            section, call, apart = self._divided(before, rest, between[1])
        if not call.close:
            return None
        return CallFormat(
            CallKind.TAGGED, section, call, two is not None, False,
            after_name=to_key.removesuffix(key_open).strip(),
            key=Wrapper(key_open.strip(), to_value.strip()),
            value=value_close.strip(),
            lines=to_value.endswith("\n") and value_close.startswith("\n"),
            between=apart,
        )  # fmt: skip

    def _quoted(self, one: str, two: str | None) -> CallFormat | None:
        def arguments(number: int) -> str:
            return rf"\{{{KEYS[number]}:(?P<quote>{_MARK.pattern}){_VALUES[number]}(?P=quote)\}}"

        cut = re.fullmatch(rf"(.*?){NAMES[0]}(.*?){arguments(0)}(.*)", one, re.DOTALL)
        if cut is None:
            return None
        before, middle, quote, after = cut.groups()
        section, call, apart = Wrapper(), self._around(before, after), ""
        if two is not None:
            between = re.search(rf"{arguments(0)}(.*?){NAMES[1]}", two, re.DOTALL)
            section, call, apart = self._divided(before, after, between and between[2])
        return CallFormat(
            CallKind.QUOTED, section, call, two is not None, False,
            after_name=middle.strip(),
            value=quote,
            between=apart,
        )  # fmt: skip

    def _around(self, before: str, after: str) -> Wrapper:
        """The markers around all calls; what follows the first one behind them is the end of the turn."""
        close = after.strip() if before.strip() else ""
        mark = _MARK.search(close)
        return Wrapper(before.strip(), close[: mark.end()] if mark else close)

    def _divided(self, before: str, after: str, between: str | None) -> tuple[Wrapper, Wrapper, str]:
        """What is around all calls, what around each, and what separates them, given what is between two."""
        if between is None:
            raise NoCallsError("it writes two calls in another way than one")
        close = common_start(between, after)
        close = close if close in (between, after) else without_cut_mark(close)
        call_open = between[len(close) :].lstrip(" \n,;")
        if not before.endswith(call_open):
            raise NoCallsError("it writes two calls in another way than one")
        section = self._around(before[: len(before) - len(call_open)], after[len(close) :])
        apart = between[: len(between) - len(call_open)].strip()[len(close.strip(" \n,;")) :].strip()
        return section, Wrapper(call_open.strip(), close.strip(" \n,;")), apart

    # -- the proof ----------------------------------------------------------------------------------------------------

    def _prove(self, found: CallFormat) -> None:
        form = replace(self._answers, calls=found)
        tools = dict.fromkeys(NAMES, PARAMETERS)
        for content, arguments in PROOFS:
            if len(arguments) > 1 and not found.several:
                continue
            opening, body = self._whole(arguments, content)
            for reader_input in (body, body.removesuffix(self._tail)):
                reader = AnswerReader(form, opening, tools)
                parts = [*reader.push(reader_input), *reader.finish()]
                calls = [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, Call)]
                if calls != list(zip(NAMES, arguments, strict=False)):
                    raise NoCallsError(f"calls do not come back as the template writes them: {body[:80]!r}")
                self._prove_text(parts, content)
        self._prove_result()

    def _prove_text(self, parts: Sequence[Part], content: str) -> None:
        first = next(i for i, part in enumerate(parts) if isinstance(part, Call))
        text = "".join(part.text for part in parts[:first] if isinstance(part, Text))
        if content not in text and content:
            return  # some templates drop the text of an answer with calls
        if not text.strip().startswith(content) or (text.strip() and not content):
            raise NoCallsError(f"the text before a call is {text!r}, not {content!r}")

    def _prove_result(self) -> None:
        messages = self._messages([{KEYS[0]: _VALUES[0]}])
        messages.append({"role": "tool", "tool_call_id": IDS[0], "name": NAMES[0], "content": _RESULT})
        if _RESULT not in self._prober.write(messages, tools=TOOLS, asked=True, **self._told):
            raise NoCallsError("it leaves out what a tool answered")
