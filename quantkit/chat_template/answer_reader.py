"""Divides what a model says into thoughts, text and calls of tools, while it arrives.

The pieces may split a marker anywhere: an end that may still become one is held back. What is neither a marker nor a
thought nor a call is text, so nothing that a model says is lost but the white space around its thoughts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from quantkit.chat_template.answer_format import AnswerFormat, CallKind, Wrapper
from quantkit.chat_template.call_reader import Call, Tools, read_calls
from quantkit.system.overlap import common_start, overlap


@dataclass(frozen=True)
class Thought:
    """A piece of a thought."""

    text: str


@dataclass(frozen=True)
class Text:
    """A piece of the answer itself."""

    text: str


Part = Thought | Text | Call


class _State(Enum):
    START = auto()
    THOUGHT = auto()
    AFTER_THOUGHT = auto()
    TEXT = auto()
    CALLS = auto()
    END = auto()


class AnswerReader:
    """Reads one answer."""

    def __init__(self, form: AnswerFormat, opening: str = "", tools: Tools | None = None) -> None:
        """Prepare.

        Args:
            form: how the template lets a model answer.
            opening: what the prompt wrote of the answer already: a model continues a thought that it opened.
            tools: the tools that were offered; None or none for no calls.
        """
        self._form, self._tools = form, tools or {}
        self._calls = form.calls if self._tools else None
        self._marks = Wrapper() if form.thoughts is None else form.thoughts.marks
        # What ends a header, where calls are addressed in one.
        addressed = self._calls is not None and self._calls.kind is CallKind.ADDRESSED
        self._header = self._calls.after_name if self._calls is not None and addressed else ""
        self._trigger = "" if self._calls is None or addressed else self._calls.trigger
        self._held = self._told = ""
        self._made = 0
        self._spoken = False
        self._state = self._opened(opening)
        self._wrapped = self._state is _State.TEXT

    def resume(self, said: str) -> None:
        """Go on behind what was said of the answer before; nothing of that is told again."""
        self.push(said)
        self._told = self._held

    def push(self, piece: str) -> list[Part]:
        """Take the next piece; returns what is certain."""
        self._held += piece
        return list(self._untold(self._read(final=False)))

    def finish(self) -> list[Part]:
        """The rest, at the end of the answer."""
        return list(self._untold(self._read(final=True)))

    @property
    def thinking(self) -> bool:
        """Whether a thought is open."""
        return self._state is _State.THOUGHT

    @property
    def at_start(self) -> bool:
        """Whether nothing of the answer is there yet, and it may begin with a thought."""
        return self._state is _State.START

    @property
    def wrapped(self) -> bool:
        """Whether the marker before the answer's text is there already."""
        return self._wrapped

    def _untold(self, parts: Iterator[Part]) -> Iterator[Part]:
        """Parts without the text that was told before it was certain, because the answer ended there."""
        for part in parts:
            if self._told and not isinstance(part, Call):
                known = len(common_start(part.text, self._told))
                self._told = self._told[known:] if known == len(part.text) else ""
                part = replace(part, text=part.text[known:])
            if isinstance(part, Call) or part.text:
                yield part

    def _opened(self, opening: str) -> _State:
        thought = self._form.thoughts is not None
        ends = (
            (self._marks.open, _State.THOUGHT),
            (self._marks.close, _State.AFTER_THOUGHT),
            (self._form.answer.open, _State.TEXT),
        )
        found = [(opening.rfind(mark) + len(mark), state) for mark, state in ends if mark and mark in opening]
        if found:
            return max(found, key=lambda one: one[0])[1]
        return _State.THOUGHT if thought and not self._marks.open else _State.START

    def _read(self, *, final: bool) -> Iterator[Part]:
        steps = {
            _State.START: self._start,
            _State.THOUGHT: self._thought,
            _State.AFTER_THOUGHT: self._after_thought,
            _State.TEXT: self._text,
            _State.CALLS: self._read_calls,
            _State.END: self._end,
        }
        while True:
            state = self._state
            yield from steps[state](final)
            if self._state is state:
                return

    def _start(self, final: bool) -> Iterator[Part]:
        marks = [(self._marks.open, _State.THOUGHT), (self._marks.close, _State.AFTER_THOUGHT)]
        if not self._enter([*marks, (self._form.answer.open, _State.TEXT)], final):
            if self._form.thoughts is not None or self._calls is not None:
                self._held = self._held.lstrip()  # as llama.cpp does
                if not self._held and not final:
                    return  # more of it may come
            self._state = _State.TEXT
        yield from ()

    def _after_thought(self, final: bool) -> Iterator[Part]:
        self._held = self._held.lstrip()
        marks = [(self._form.answer.open, _State.TEXT)]
        if self._form.answer.open:
            marks.append((self._marks.open, _State.THOUGHT))  # several thoughts, each in a section
        if (self._held or final) and not self._enter(marks, final):
            self._state = _State.TEXT
        yield from ()

    def _enter(self, marks: Sequence[tuple[str, _State]], final: bool) -> bool:
        """Go on behind a marker at the beginning; False if there is none and none can be any more."""
        said = self._held.lstrip()
        if self._header:
            return self._enter_message(said, final)
        for mark, state in marks:
            if mark and said.startswith(mark):
                self._held, self._state = said[len(mark) :], state
                self._wrapped = state is _State.TEXT
                return True
        return not final and any(mark and mark.startswith(said) for mark, _ in marks)

    def _enter_message(self, said: str, final: bool) -> bool:
        """Go on behind a header, of a thought or of a text; a call needs its own."""
        head, mark, rest = said.partition(self._header)
        if not mark:
            return not final
        assert self._calls is not None
        if self._calls.call.open in head:
            self._held, self._state = said, _State.CALLS
            return True
        thinks = (head + mark).endswith(self._marks.open)
        self._held, self._state = rest, _State.THOUGHT if thinks else _State.TEXT
        return True

    def _thought(self, final: bool) -> Iterator[Part]:
        if not self._spoken:
            self._held = self._held.lstrip()
        thought, mark, rest = self._held.partition(self._marks.close) if self._marks.close else (self._held, "", "")
        if not mark:
            keep = 0 if final else overlap(self._held, self._marks.close)
            thought = self._held[: len(self._held) - keep]
        whole = thought.rstrip()
        if whole:
            self._spoken = True
            yield Thought(whole)
        self._held = rest if mark else "" if final else self._held[len(whole) :]
        if mark:
            self._spoken, self._state = False, _State.AFTER_THOUGHT

    def _text(self, final: bool) -> Iterator[Part]:
        if self._calls is not None and not (self._trigger or self._header or self._spoken):  # calls are bare JSON
            first = self._held.lstrip()[:1]
            if first and first in "{[":
                self._state = _State.CALLS
                return
            if not first and not final:
                return
        close = self._form.answer.close if self._wrapped else ""
        close = self._marks.close if self._header else close
        marks = [close, self._trigger]
        found = min(((at, mark) for mark in marks if mark and (at := self._held.find(mark)) >= 0), default=None)
        if found is None:
            keep = 0 if final else max((overlap(self._held, mark) for mark in marks), default=0)
            said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        else:
            at, mark = found
            said = self._held[:at]
            closed = mark == close
            self._held = self._held[at + len(mark) :] if closed else self._held[at:]
            ended = _State.AFTER_THOUGHT if self._header else _State.END
            self._state = ended if closed else _State.CALLS
        if said:
            self._spoken = True
            yield Text(said)

    def _read_calls(self, final: bool) -> Iterator[Part]:
        assert self._calls is not None
        found = read_calls(self._calls, self._held, self._tools)
        yield from found.calls[self._made :]
        self._made = len(found.calls)
        if final:
            rest = self._held[found.end :]
            self._held, self._state = "", _State.END
            closing = (self._calls.section.close, self._calls.call.close)
            if not found.calls or not any(close.startswith(rest.strip()) for close in closing):
                yield Text(rest)

    def _end(self, final: bool) -> Iterator[Part]:
        """Behind the end of the text there are calls, if anything."""
        at = self._held.find(self._trigger) if self._trigger else -1
        if at >= 0:
            self._held, self._state = self._held[at:], _State.CALLS
        elif final and self._held.strip():
            said, self._held = self._held, ""
            yield Text(said)
