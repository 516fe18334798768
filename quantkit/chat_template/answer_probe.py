"""Finds how a chat template lets a model answer: where a thought begins and ends, and what surrounds the text.

A thought is found where the template writes one of a past answer (``reasoning_content``), where it removes one from a
past answer's text, or where it opens or closes one itself. No list of models or markers is used. What was found is
proven: past answers with a thought, as the template writes them, are divided into their thought and their text.

All of this runs inside :mod:`quantkit.chat_template.worker`; other code asks through
:mod:`quantkit.chat_template.answers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from quantkit.chat_template.answer_format import PART, AnswerFormat, Thoughts, Wrapper, thoughtful
from quantkit.chat_template.answer_reader import AnswerReader, Part, Text, Thought
from quantkit.chat_template.call_probe import find_calls
from quantkit.chat_template.prober import USER, Prober
from quantkit.chat_template.sandbox import variables
from quantkit.chat_template.thinking import find_thinking
from quantkit.errors import ChatFormatError

# What clients and templates call the thoughts of a message; the first is llama.cpp's and OpenAI-compatible servers'.
FIELDS = ("reasoning_content", "reasoning", "thinking", PART)
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
"""The values of ``reasoning_effort`` that clients send."""

_ANSWER, _THOUGHT = "SentinelAnswer", "SentinelThought"
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_/ ]+\]")
_EMPTY = re.compile(rf"((?:{_MARK.pattern})\w*)\s*({_MARK.pattern})\s*\Z")  # an empty thought at the end of a prompt
_PAIR = re.compile(r"<([a-z_]+)></\1>")
_PROOFS = (("Two and two.", "It is 4."), ("第一步：\n\n想一想 {{ x }}", "你好！\n\n- `<b>`"), ("a\nb", "c"))


def find_answers(template: str, *, bos_token: str, eos_token: str) -> AnswerFormat:
    """How a template lets a model answer.

    Args:
        template: the Jinja text.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.

    Raises:
        ChatFormatError: it does not parse.
    """
    prober = Prober(template, bos_token, eos_token)
    try:
        switches = find_thinking(template, bos_token=bos_token, eos_token=eos_token).switches
    except ChatFormatError:  # it refuses a conversation without tools
        switches = ()
    found = replace(
        _with_thoughts(prober, switches),
        switches=switches,
        efforts=_efforts(prober),
        variables=variables(template),
    )
    calls, why = find_calls(prober, found)
    return replace(found, calls=calls, no_calls=why)


def _efforts(prober: Prober) -> tuple[str, ...]:
    """The efforts with which a prompt says what it says with no other one."""
    if "reasoning_effort" not in prober.template:
        return ()
    prompts: dict[str, str] = {}
    for effort in (*EFFORTS, "of no kind"):
        try:
            prompts[effort] = prober.write([USER], asked=True, reasoning_effort=effort).replace(effort, "")
        except ChatFormatError:
            continue  # it does not know this one
    told = {effort: prober.write([USER], asked=True, reasoning_effort=effort) for effort in prompts}
    if len(set(told.values())) == 1:
        return ()
    return tuple(effort for effort in EFFORTS if effort in told)


def _with_thoughts(prober: Prober, switches: Sequence[str]) -> AnswerFormat:
    for find in (_written, _removed, _opened):
        for found in find(prober, switches):
            if _proven(prober, found, switches):
                return found
    return AnswerFormat()


def _written(prober: Prober, switches: Sequence[str]) -> Iterator[AnswerFormat]:
    """From thoughts that the template writes."""
    for name in FIELDS:
        for told in ({}, dict.fromkeys(switches, True)):
            try:
                opening, body = prober.answer(thoughtful(_ANSWER, _THOUGHT, name), **told)
                _, plain = prober.answer({"content": _ANSWER}, **told)
            except ChatFormatError:
                continue
            before, there, after = body.partition(_THOUGHT)
            between, answered, _ = after.partition(_ANSWER)
            if not there or not answered:
                continue
            opened = plain.partition(_ANSWER)[0].strip()
            close = between.strip()
            marks = (
                _answer_marks(prober, **told) if opened and close.endswith(opened) and opened != close else Wrapper()
            )
            close = close.removesuffix(marks.open).strip()
            start = before.strip() or _last_mark(opening, close)
            if close and not (marks.open and marks.open == start):
                yield AnswerFormat(Thoughts(Wrapper(start, close), name), marks)


def _answer_marks(prober: Prober, **told: Any) -> Wrapper:
    """The markers around an answer's text, where the prompt does not open it."""
    try:
        _, body = prober.answer({"content": _ANSWER}, **told)
        _, without = prober.answer({"content": ""}, **told)
    except ChatFormatError:
        return Wrapper()
    before, there, after = body.partition(_ANSWER)
    marks = _MARK.findall(before)
    if not there or not marks or not before.strip().endswith(marks[-1]) or _empty_thought(before):
        return Wrapper()
    end = _MARK.match(after.strip())
    return Wrapper(before.strip(), end.group() if end and without != body and _closes(end.group(), marks) else "")


def _closes(end: str, marks: Sequence[str]) -> bool:
    """Whether a marker is the counterpart of one before: what follows the text is otherwise the end of the turn."""

    def bare(mark: str) -> str:
        return re.sub(r"(?i)start|open|begin|end|close|[^a-z]", "", mark)

    return any(bare(end) == bare(mark) and mark != end for mark in marks)


def _empty_thought(text: str) -> bool:
    marks = _MARK.findall(text)
    return any(mark.startswith(("</", "[/")) for mark in marks)


def _last_mark(text: str, close: str) -> str:
    """The marker at the end of a text, if another one is its counterpart."""
    marks = _MARK.findall(text)
    return marks[-1] if marks and text.rstrip().endswith(marks[-1]) and _closes(close, marks[-1:]) else ""


def _removed(prober: Prober, switches: Sequence[str]) -> Iterator[AnswerFormat]:
    """From thoughts that the template removes from the text of a past answer."""
    for end in dict.fromkeys(_MARK.findall(prober.template)):
        past = {"role": "assistant", "content": f"{_THOUGHT}{end}{_ANSWER}"}
        try:
            text = prober.write([USER, past, {"role": "user", "content": "And?"}])
        except ChatFormatError:
            continue
        if _THOUGHT in text or end + _ANSWER in text or _ANSWER not in text:
            continue
        for start in _starts(end):
            yield AnswerFormat(Thoughts(Wrapper(start, end), ""))


def _starts(end: str) -> tuple[str, ...]:
    return tuple(end.replace(slash, "", 1) for slash in ("</", "[/") for slash in ([slash[1]] if slash in end else []))


def _opened(prober: Prober, switches: Sequence[str]) -> Iterator[AnswerFormat]:
    """From a thought that a prompt opens, or opens and closes, or tells the model to write."""
    for told in ({name: value} for name in switches for value in (False, True)):
        try:
            opening, other = (
                prober.opening(**one) for one in (told, {name: not value for name, value in told.items()})
            )
            prompt = prober.write([USER], asked=True, **told)
        except ChatFormatError:
            continue
        empty = _EMPTY.search(opening)
        if empty and empty[0] not in other and _closes(empty[2], _MARK.findall(empty[1])):
            yield AnswerFormat(Thoughts(Wrapper(empty[1], empty[2]), ""))
        pairs = [(f"<{name}>", f"</{name}>") for name in _PAIR.findall(prompt)]
        if len(pairs) == 2:  # the thought, then the answer
            yield AnswerFormat(Thoughts(Wrapper(*pairs[0]), ""), Wrapper(*pairs[1]))


def _proven(prober: Prober, found: AnswerFormat, switches: Sequence[str]) -> bool:
    assert found.thoughts is not None
    name, marks = found.thoughts.field, found.thoughts.marks
    told = dict.fromkeys(switches, True)
    for thought, text in _PROOFS:
        if name:
            try:
                body = prober.behind([USER, {"role": "assistant", **thoughtful(text, thought, name)}], **told)
            except ChatFormatError:
                return False
            opening = prober.answer(thoughtful(text, thought, name), **told)[0]
        else:
            opening = ""
            body = f"{marks.open}\n{thought}\n{marks.close}\n\n{found.answer.open}{text}{found.answer.close}"
        if not _divides(found, opening, body[len(opening) :], thought, text):
            return False
    # Where the model is told not to think, no thought may be open.
    return not any(AnswerReader(found, prober.opening(**{name: False})).thinking for name in switches)


def _divides(found: AnswerFormat, opening: str, body: str, thought: str, text: str) -> bool:
    at_once, by_piece = AnswerReader(found, opening), AnswerReader(found, opening)
    whole = joined(at_once.push(body) + at_once.finish())
    pieces = [part for character in body for part in by_piece.push(character)] + by_piece.finish()
    return whole == joined(pieces) and whole[0] == thought and whole[1].startswith(text)


def joined(parts: Sequence[Part]) -> tuple[str, str]:
    """The thought and the text of an answer."""
    thought = "".join(part.text for part in parts if isinstance(part, Thought))
    return thought, "".join(part.text for part in parts if isinstance(part, Text))
