"""Finds the turns of a chat template by rendering conversations of sentinel texts.

Only prompts that ask for an answer to a question matter: nothing else is ever sent to a model. The text that a template
writes without asking for an answer (some add the end-of-sequence token there) only helps to cut the text between two
messages at a sensible position. The system message and the first question are examined after the later ones, because a
system message may be inside a question. The result is always proven at the end, so a wrong guess becomes a reason why
turns cannot describe the template, and never a wrong package.

White space around contents is proven separately: templates strip it in many ways, Ollama's cannot strip it at all. Such
a difference is recorded (``trims``, ``uneven``) and is not a reason to give up.

All of this runs inside :mod:`quantkit.chat_template.worker`; other code asks through
:mod:`quantkit.chat_template.format`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from quantkit.chat_template.answer_ends import Around, answer_ends
from quantkit.chat_template.render import Message
from quantkit.chat_template.sandbox import render
from quantkit.chat_template.turns import ChatFormat, OwnTemplate, Shape, SystemPlace, Turn
from quantkit.errors import ChatFormatError
from quantkit.system.overlap import common_start

_USER, _ANSWER, _USER_AGAIN, _SYSTEM = "SentinelQuestion", "SentinelAnswer", "SentinelSecond", "SentinelSystem"

_TOOLS = re.compile(r"tool|think", re.IGNORECASE)
_DATES = re.compile("strftime_now|date_string")  # only llama.cpp provides the second
# A mark that was cut in two, at the end and at the start of a text.
_CUT_END, _CUT_START = re.compile(r"(<[^<>]*|\[[^\[\]]*)\Z"), re.compile(r"\A[^<>]*>|\A[^\[\]]*\]")

# (what differs, (system, question, answer, second question)); the first differing one gives the reason
_PROOFS = (
    (
        "its prompts have",
        ("You are a helpful assistant. 你是一个乐于助人的助手。", "你好", "你好！有什么可以帮你？", "再见"),
    ),
    (
        "its prompts have",
        ("Say \"so\".\n\n'Quoted' {{ braces }} {% tags %}", "line one\n\nline three", "`$(x)` \\n", "🦙 ok"),
    ),
    ("tools and thinking in contents have", ("<tools>", "2+2?", "<think>two and two</think>\n\nIt is 4.", "<think>")),
    ("words like /no_think have", ("Be brief. /no_think", "Why? /no_think", "So. /think", "And /think")),
)
_WITH_SYSTEM: tuple[Message, ...] = ({"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER})
_ROUND: tuple[Message, ...] = ({"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER})
_SHAPES: Mapping[Shape, Sequence[Message]] = {
    Shape.EMPTY_SYSTEM: ({"role": "system", "content": ""}, _ROUND[0]),
    Shape.LATE_SYSTEM: (*_ROUND, *_WITH_SYSTEM),
    Shape.SECOND_SYSTEM: (_WITH_SYSTEM[0], *_ROUND, {"role": "system", "content": _USER_AGAIN}, _ROUND[0]),
    Shape.EMPTY_ANSWER: (_ROUND[0], {"role": "assistant", "content": ""}, {"role": "user", "content": _USER_AGAIN}),
    Shape.ANSWER_FIRST: _ROUND[::-1],
    Shape.ANSWER_LAST: _ROUND,
}
_PADDED = ("  padded  ", "\n before and after \t", " answer \n", " more ")
_PLACES = {"system": (0,), "user": (1, 3), "assistant": (2,)}  # in texts as above


class IndescribableError(ChatFormatError):
    """Turns cannot express what a chat template does."""


def describe(template: str, *, bos_token: str, eos_token: str) -> ChatFormat | OwnTemplate:
    """The proven turns of a chat template, with the name "generic", or an OwnTemplate if turns cannot describe it.

    Args:
        template: the Jinja text.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.

    Raises:
        ChatFormatError: it cannot write a plain conversation, or nothing ends an answer.
    """
    try:
        return _probe(_Writer(template, bos_token, eos_token))
    except IndescribableError as why:
        writer = _Writer(template, bos_token, eos_token, dates=True)
        return OwnTemplate(str(why), writer.ends(), writer.takes_system())


def _probe(writer: _Writer) -> ChatFormat:
    found = writer.find()
    for what, texts in _PROOFS:
        if not _proves(found, writer, texts):
            raise IndescribableError(f"{what} rules of their own")
    # llama.cpp, and Ollama through it, turns thinking on by default.
    if not _proves(found, replace(writer, thinking=True), _PROOFS[0][1]):
        raise IndescribableError("its prompts are others where thinking is switched on")
    unlike = tuple(shape for shape, messages in _SHAPES.items() if not _like(found, writer, messages))
    return replace(found, uneven=_uneven(found, writer), unlike=unlike)


@dataclass(frozen=True)
class _Writer:
    """Renders a template, with the tokens that it may write."""

    template: str
    bos_token: str
    eos_token: str
    dates: bool = False
    thinking: bool | None = None

    def find(self) -> ChatFormat:
        opening, tail = self._first_prompt()
        first, between, back, last = self.cut(_talk(_USER, _ANSWER, _USER_AGAIN))
        if (first, last) != (opening, tail):
            raise IndescribableError("a question is written otherwise when more follows")
        user_suffix = self._common(self.closing(_talk(_USER)), between, tail)
        closing = self.closing(_talk(_USER, _ANSWER))
        answer_suffix = self._common(closing, back)
        stops = answer_ends(Around(closing, back, answer_suffix, opening), self.eos_token, self.write)
        user_prefix = back[len(answer_suffix) :]
        bos = self.bos_token if opening.startswith(self.bos_token) else ""
        if bos and user_prefix.startswith(bos):  # a sequence per round: the BOS here belongs to the earlier rounds
            answer_suffix, user_prefix = answer_suffix + bos, user_prefix[len(bos) :]
        before = opening[len(bos) :]
        system, place = self._system(bos, user_prefix, tail)
        if place is SystemPlace.TURN and not before.endswith(user_prefix):
            user_prefix = _common_end(before, user_prefix)
            answer_suffix = back[: len(back) - len(user_prefix)]
            system, place = self._system(bos, user_prefix, tail)
        return ChatFormat(
            name="generic",
            bos=bos,
            system=system,
            user=Turn(user_prefix, user_suffix),
            assistant=Turn(between[len(user_suffix) :], answer_suffix),
            generation=tail[len(user_suffix) :],
            stops=stops,
            trims=tuple(self._trims(takes_system=system is not None)),
            default_system=_default_system(before, user_prefix, system, place),
            system_place=place,
            mentions_tools=_TOOLS.search(self.template) is not None,
            dated=_DATES.search(self.template) is not None,
        )

    def _first_prompt(self) -> tuple[str, str]:
        """The text before and after a first question; raises an error if the template does not work at all."""
        try:
            text = self.write(_talk(_USER))
        except ChatFormatError as error:
            if _DATES.search(self.template):
                replace(self, dates=True).write(_talk(_USER))  # raises again if the reason is another one
                raise IndescribableError("it writes today's date and has none to fall back to") from error
            raise
        if text.count(_USER) != 1:
            raise ChatFormatError("the chat template does not write a question exactly once and unchanged")
        opening, tail = text.split(_USER)
        return opening, tail

    def _system(self, bos: str, user_prefix: str, tail: str) -> tuple[Turn | None, SystemPlace]:
        if not self.takes_system():
            return None, SystemPlace.TURN
        opening, between, after = self.cut(_WITH_SYSTEM)
        if not opening.startswith(bos) or after != tail:
            raise IndescribableError("a system message changes what is written around it")
        opening = opening[len(bos) :]
        if between.endswith(user_prefix) and not (user_prefix and opening.startswith(user_prefix)):
            return Turn(opening, between[: len(between) - len(user_prefix)]), SystemPlace.TURN
        if not opening.startswith(user_prefix):
            raise IndescribableError("a system message changes how the first question begins")
        longer = self.cut([_WITH_SYSTEM[0], *_talk(_USER, _ANSWER, _USER_AGAIN)], ordered=False)
        place = SystemPlace.FIRST if longer[:2] == (bos + opening, between) else SystemPlace.LAST
        return Turn(opening, between), place

    def takes_system(self) -> bool:
        """Whether a system message can start a conversation; some templates refuse it, some ignore it."""
        try:
            return _SYSTEM in self.write(_WITH_SYSTEM)
        except ChatFormatError:
            return False

    def ends(self) -> tuple[str, ...]:
        """The texts that end an answer, where turns are not known."""
        text = self.write(_talk(_USER, _ANSWER, _USER_AGAIN))
        between = re.search(f"{_ANSWER}(.*?){_USER_AGAIN}", text, re.DOTALL)
        back, closing = between[1] if between else "", self.closing(_talk(_USER, _ANSWER))
        after = self._common(closing, back) if between else ""
        return answer_ends(Around(closing, back, after, text.partition(_USER)[0]), self.eos_token, self.write)

    def closing(self, messages: Sequence[Message]) -> str:
        """The text after the last content when no answer is asked for; "" if it cannot be found."""
        content = messages[-1]["content"]
        return self.write(messages, asked=False).rpartition(content)[2]

    def _trims(self, *, takes_system: bool) -> Iterator[str]:
        messages = [*_WITH_SYSTEM[: 1 if takes_system else 0], *_talk(_USER, _ANSWER, _USER_AGAIN)]
        plain = self.write(messages)
        for role in dict.fromkeys(message["role"] for message in messages):
            padded = [{**m, "content": f" \n{m['content']}\n "} if m["role"] == role else m for m in messages]
            if self.write(padded) == plain:
                yield role

    def cut(self, messages: Sequence[Message], *, ordered: bool = True) -> tuple[str, ...]:
        """The texts before, between and after the contents, in the order in which they are written."""
        text = self.write(messages)
        contents = [message["content"] for message in messages]
        if any(text.count(content) != 1 for content in contents):
            raise IndescribableError("a message is left out or repeated")
        written = sorted(contents, key=text.index)
        if ordered and written != contents:
            raise IndescribableError("messages are written out of order")
        return tuple(re.split("|".join(contents), text))

    def write(self, messages: Sequence[Message], *, asked: bool = True) -> str:
        return render(
            self.template,
            messages,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            add_generation_prompt=asked,
            dates=self.dates,
            thinking=self.thinking,
        )

    def _common(self, closing: str, *others: str) -> str:
        """The text that closes a turn: the common start of all texts, without a mark that was cut in two."""
        common = common_start(closing, *others)
        return common if common == closing else without_cut_mark(common)


def _talk(*contents: str) -> list[Message]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def without_cut_mark(text: str) -> str:
    """A text without the beginning of a mark at its end."""
    return _CUT_END.sub("", text)


def _common_end(one: str, other: str) -> str:
    common = common_start(one[::-1], other[::-1])[::-1]
    return common if common in (one, other) else _CUT_START.sub("", common)


def _default_system(before: str, user_prefix: str, system: Turn | None, place: SystemPlace) -> str | None:
    """The template's own system text before the first question, given all text there after the BOS."""
    if place is not SystemPlace.FIRST:
        before = before[: len(before) - len(user_prefix)]
    if before == (user_prefix if place is SystemPlace.FIRST else ""):
        return None
    if (
        system is None
        or place is SystemPlace.LAST
        or len(before) < len(system.prefix) + len(system.suffix)
        or not before.startswith(system.prefix)
        or not before.endswith(system.suffix)
    ):
        raise IndescribableError(f"it opens a conversation with {before[:60]!r}, which is not a system turn")
    return before[len(system.prefix) : len(before) - len(system.suffix)]


def _proves(found: ChatFormat, writer: _Writer, texts: Sequence[str]) -> bool:
    try:
        return all(found.render(messages) == writer.write(messages) for messages in _conversations(found, texts))
    except ChatFormatError:  # the template refuses one of them
        return False


def _uneven(found: ChatFormat, writer: _Writer) -> tuple[str, ...]:
    """The roles whose white space is not treated as ``trims`` says."""
    if _proves(found, writer, _PADDED):
        return ()
    padded = {
        role: [_PADDED[place] if place in places else text.strip() for place, text in enumerate(_PADDED)]
        for role, places in _PLACES.items()
    }
    return tuple(role for role, texts in padded.items() if not _proves(found, writer, texts)) or tuple(_PLACES)


def _like(found: ChatFormat, writer: _Writer, messages: Sequence[Message]) -> bool:
    """Whether the template writes a conversation as its turns would, or refuses it."""
    if not found.takes_system:
        messages = [message for message in messages if message["role"] != "system"]
    try:
        return found.render(messages) == writer.write(messages)
    except ChatFormatError:
        return True


def _conversations(found: ChatFormat, texts: Sequence[str]) -> Iterable[list[Message]]:
    """Prompts of one to three questions, with and without a system message."""
    system, question, answer, second = texts
    turns = _talk(question, answer, second, answer, question)
    for opening in ([], [{"role": "system", "content": system}]) if found.takes_system else ([],):
        for length in range(1, len(turns) + 1, 2):
            yield [*opening, *turns[:length]]
