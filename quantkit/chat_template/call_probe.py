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
from quantkit.chat_template.call_kinds import VALUES, CallKinds, NoCallsError
from quantkit.chat_template.call_reader import Call
from quantkit.chat_template.call_spans import IDS, KEYS, NAMES, PARAMETERS, PROOFS, TOOLS
from quantkit.chat_template.prober import USER, Prober
from quantkit.errors import ChatFormatError

_RESULT = "SentinelResult"
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_CDATA = "<![CDATA["
_TRIGGER = re.compile(r"[<\[][^<\[]+")


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
        one = self._body([{KEYS[0]: VALUES[0]}])
        if NAMES[0] not in one:
            raise NoCallsError("it leaves out the calls of a past answer")
        if repr(KEYS[0]) in one and not self._as_text:
            raise ChatFormatError("it writes arguments as Python does")
        try:
            two: str | None = self._body([{KEYS[0]: VALUES[0]}, {KEYS[1]: VALUES[1]}])
        except ChatFormatError:
            two = None  # one call at most
        if two is not None and NAMES[1] not in two:
            two = None
        found = CallKinds(self._body, as_text=self._as_text).find(one, two)
        if found is None:
            raise NoCallsError("its format of calls cannot be derived")
        if found.trigger and not _TRIGGER.fullmatch(found.trigger):
            found = self._addressed(found)
        found = replace(found, text_arguments=self._as_text, cdata=_CDATA in self._prober.template)
        self._prove(found)
        return found

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
        opening = self._thought_over(opening, body)
        parts = AnswerReader(replace(self._answers, answer=Wrapper()), opening)
        body = "".join(part.text for part in [*parts.push(body), *parts.finish()] if isinstance(part, Text))
        wrapper = self._answers.answer
        if wrapper.open and body.lstrip().startswith(wrapper.open):
            body = body.lstrip()[len(wrapper.open) :].lstrip().removeprefix(wrapper.close)
        return body.removesuffix(self._tail)

    def _thought_over(self, opening: str, body: str) -> str:
        """The opening; if only a prompt opens a thought, as a model goes on that has ended it."""
        marks = Wrapper() if self._answers.thoughts is None else self._answers.thoughts.marks
        return opening + marks.close if not marks.open and marks.close not in body else opening

    def _plain_tail(self) -> str:
        body = self._prober.behind([USER, {"role": "assistant", "content": _RESULT}], tools=TOOLS, **self._told)
        return body.rpartition(_RESULT)[2]

    def _addressed(self, found: CallFormat) -> CallFormat:
        """Calls whose header ends as those of thoughts and texts do: the parts of a header may have any order."""
        thoughts, answer, marks = self._answers.thoughts, self._answers.answer, _MARK.findall(found.after_name)
        headers = (answer.open, "" if thoughts is None else thoughts.marks.open)
        alike = bool(marks) and all(header.endswith(marks[-1]) for header in headers)
        if found.kind is CallKind.NAMED and not found.section.open and alike:
            return replace(found, kind=CallKind.ADDRESSED, after_name=marks[-1], layout=found.after_name)
        raise NoCallsError(f"its calls begin with {found.trigger!r}, which is not one marker")

    # -- the proof ----------------------------------------------------------------------------------------------------

    def _prove(self, found: CallFormat) -> None:
        for content, arguments in PROOFS:
            if len(arguments) > 1 and not found.several:
                continue
            opening, body = self._whole(arguments, content)
            try:
                self._prove_answer(found, opening, body, arguments, content)
            except NoCallsError:
                if not content:
                    raise
                # Some templates write a text beside calls as a turn of its own; a model writes it before them.
                opening, body = self._whole(arguments)
                self._prove_answer(found, opening, f"{content}\n\n{body.lstrip()}", arguments, content)
        self._prove_result()

    def _prove_answer(
        self, found: CallFormat, opening: str, body: str, arguments: Sequence[Mapping[str, Any]], content: str
    ) -> None:
        form, tools = replace(self._answers, calls=found), dict.fromkeys(NAMES, PARAMETERS)
        for said in (body, body.removesuffix(self._tail)):
            reader = AnswerReader(form, self._thought_over(opening, body), tools)
            parts = [*reader.push(said), *reader.finish()]
            calls = [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, Call)]
            if calls != list(zip(NAMES, arguments, strict=False)):
                raise NoCallsError(f"calls do not come back as the template writes them: {body[:80]!r}")
            self._prove_text(parts, content)

    def _prove_text(self, parts: Sequence[Part], content: str) -> None:
        first = next(i for i, part in enumerate(parts) if isinstance(part, Call))
        text = "".join(part.text for part in parts[:first] if isinstance(part, Text))
        if content not in text and content:
            return  # some templates drop the text of an answer with calls
        if not text.strip().startswith(content) or (text.strip() and not content):
            raise NoCallsError(f"the text before a call is {text!r}, not {content!r}")

    def _prove_result(self) -> None:
        messages = self._messages([{KEYS[0]: VALUES[0]}])
        messages.append({"role": "tool", "tool_call_id": IDS[0], "name": NAMES[0], "content": _RESULT})
        if _RESULT not in self._prober.write(messages, tools=TOOLS, asked=True, **self._told):
            raise NoCallsError("it leaves out what a tool answered")
