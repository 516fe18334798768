"""The ways to write calls of tools, each found in answers with sentinel calls.

Every method gets an answer with one call and one with two calls, None where the template cannot write two, and returns
None where the calls are written in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quantkit.chat_template.answer_format import CallFormat, CallKind, Wrapper
from quantkit.chat_template.call_spans import (
    IDS,
    KEYS,
    NAMES,
    json_spans,
    layout_of,
    named_spans,
    path_of,
    text_between,
)
from quantkit.chat_template.probe import without_cut_mark
from quantkit.errors import ChatFormatError
from quantkit.system.overlap import common_start

VALUES = ("SentinelA", "SentinelB")
"""The values of the first and the second argument."""

_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_CUT_START = re.compile(r"\A[^<>\[\]]*[>\]]")


class NoCallsError(ChatFormatError):
    """Why calls of tools cannot be read."""


class CallKinds:
    """The search in one template, with arguments as values or as JSON text."""

    def __init__(self, body: Callable[[Sequence[Mapping[str, Any]]], str], *, as_text: bool) -> None:
        """Prepare.

        Args:
            body: renders an answer of calls with these arguments.
            as_text: whether the arguments are given as JSON text.
        """
        self._body, self._as_text = body, as_text

    def find(self, one: str, two: str | None) -> CallFormat | None:
        """The first way that fits."""
        kinds = (self._json, self._named, self._python, self._tagged, self._quoted)
        return next((found for kind in kinds if (found := kind(one, two)) is not None), None)

    def _json(self, one: str, two: str | None) -> CallFormat | None:
        spans = list(json_spans(one, NAMES[0]))
        found = next(((start, end, value) for start, end, value in spans if VALUES[0] in json.dumps(value)), None)
        if found is None:
            return None
        start, end, value = found
        if isinstance(value, list):
            if len(value) != 1:
                return None
            value = value[0]
        name, arguments = path_of(value, NAMES[0]), path_of(value, {KEYS[0]: VALUES[0]})
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
            layout=layout_of(found[2], {KEYS[0]: VALUES[0]}),
            between=between,
        )  # fmt: skip

    def _named(self, one: str, two: str | None) -> CallFormat | None:
        at = one.find(NAMES[0])
        found = next((span for span in json_spans(one, KEYS[0]) if span[0] > at), None)
        if at < 0 or found is None or found[2] != {KEYS[0]: VALUES[0]}:
            return None
        start, end, _ = found
        middle, before, marks = one[at + len(NAMES[0]) : start], one[:at], None
        count = re.fullmatch(r"(\W+)0(\D.*)", middle, re.DOTALL)
        numbered = count is not None and two is not None and f"{NAMES[1]}{count[1]}1{count[2]}" in two
        if numbered and count is not None:
            marks, middle = Wrapper(count[1].strip(), count[2].strip()), count[2]
        elif IDS[0] in middle:
            opened, _, behind = middle.partition(IDS[0])
            marks, middle = Wrapper(opened.strip(), behind.strip()), behind
        section, call, between, id_first = Wrapper(), self._around(before, one[end:]), "", ""
        if two is not None:
            apart = (text_between(two, named_spans) or "").replace(IDS[1], IDS[0])
            section, call, between = self._divided(before, one[end:], apart or None)
            if IDS[0] in call.open:
                opened, _, id_first = call.open.partition(IDS[0])
                call = Wrapper(opened.strip(), call.close)
        return CallFormat(
            CallKind.NAMED, section, call, two is not None, False,
            after_name=middle.strip(),
            id_marks=marks,
            numbered=numbered,
            id_first=id_first.strip(),
            between=between,
        )  # fmt: skip

    def _python(self, one: str, two: str | None) -> CallFormat | None:
        def call(number: int) -> str:
            return rf"{NAMES[number]}\({KEYS[number]}=(['\"]){VALUES[number]}['\"]\)"

        cut = re.fullmatch(rf"(.*?)\[{call(0)}\](.*)", one, re.DOTALL)
        if cut is None:
            return None
        before, quote, after = cut.groups()
        several = two is not None and re.search(rf"\[{call(0)}, {call(1)}\]", two) is not None
        return CallFormat(CallKind.PYTHON, self._around(before, after), Wrapper(), several, False, value=quote)

    def _tagged(self, one: str, two: str | None) -> CallFormat | None:
        both = self._body([{KEYS[0]: VALUES[0], KEYS[1]: VALUES[1]}])
        cut = re.search(
            "(.*?)" + "(.*?)".join(map(re.escape, (NAMES[0], KEYS[0], VALUES[0], KEYS[1], VALUES[1]))) + "(.*)",
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
            between = re.search(re.escape(VALUES[0]) + re.escape(value_close) + f"(.*?){NAMES[1]}", two, re.DOTALL)
            if between is None:
                return None
            section, call, apart = self._divided(before, rest, between[1])
        if not call.close:
            return None
        other = re.search(
            f"{re.escape(key_open)}count(.*?)3{re.escape(value_close)}",
            self._body([{KEYS[0]: VALUES[0], "count": 3}]),
            re.DOTALL,
        )
        if other is None:
            return None
        return CallFormat(
            CallKind.TAGGED, section, call, two is not None, False,
            after_name=to_key.removesuffix(key_open).strip(),
            key=Wrapper(key_open.strip(), to_value.strip()),
            value=value_close.strip(),
            lines=to_value.endswith("\n") and value_close.startswith("\n"),
            other_key="" if other[1].strip() == to_value.strip() else other[1].strip(),
            between=apart,
        )  # fmt: skip

    def _quoted(self, one: str, two: str | None) -> CallFormat | None:
        def arguments(number: int) -> str:
            return rf"\{{{KEYS[number]}:(?P<quote>{_MARK.pattern}){VALUES[number]}(?P=quote)\}}"

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
