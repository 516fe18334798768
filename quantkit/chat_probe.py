"""Finding the turns of a chat template by rendering conversations of sentinel texts.

The order matters. The text after the last message gives what closes a turn, so that the text between two messages can
be split into the end of one turn and the start of the next; the start of the user's turn then tells what stands
before the first message: beginning of sequence, and perhaps a default system turn. Whatever was found is proven in
the end, so a wrong guess on the way becomes a refusal and never a wrong package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.chat_template import Message, render_jinja
from quantkit.chat_turns import ChatFormat, Turn
from quantkit.errors import ChatFormatError

_USER, _ANSWER, _USER_AGAIN, _SYSTEM = "SentinelQuestion", "SentinelAnswer", "SentinelSecond", "SentinelSystem"

_TOOLS = re.compile(r"tool|think", re.IGNORECASE)
_DATES = "strftime_now"

_PROOF_TEXTS = (
    ("You are a helpful assistant. 你是一个乐于助人的助手。", "你好", "你好！有什么可以帮你？", "再见"),
    ("Say \"so\".\n\n'Quoted' {{ braces }} {% tags %}", "line one\nline two\n\nline four", "`$(x)` \\n", "🦙 ok"),
    ("<tools>", "2+2?", "<think>two and two</think>\n\nIt is 4.", "<think>"),
    ("  padded  ", "\n before and after \t", " answer \n", " more "),
)


def probe(template: str, *, bos_token: str, eos_token: str) -> ChatFormat:
    """The proven turns of a chat template, under the name "generic".

    Raises:
        ChatFormatError: the template is broken, or turns cannot describe what it does.
    """
    found = _Probe(template, bos_token, eos_token).find()
    _prove(found, template, bos_token=bos_token, eos_token=eos_token)
    return found


@dataclass(frozen=True)
class _Probe:
    template: str
    bos_token: str
    eos_token: str

    def find(self) -> ChatFormat:
        opening, question_to_answer, answer_to_question, closing = self._cut(
            (("user", _USER), ("assistant", _ANSWER), ("user", _USER_AGAIN))
        )
        generation = self._generation_prompt()
        user_suffix = closing
        if question_to_answer != user_suffix + generation:
            raise _indescribable("an answer that was given does not begin as one that is asked for")
        answer_suffix = self._cut((("user", _USER), ("assistant", _ANSWER)))[-1]
        if not answer_to_question.startswith(answer_suffix):
            raise _indescribable("the end of an answer depends on what follows it")
        user = Turn(answer_to_question[len(answer_suffix) :], user_suffix)
        if not opening.endswith(user.prefix):
            raise _indescribable("the first question begins otherwise than later ones")
        before = opening[: len(opening) - len(user.prefix)]
        bos = self.bos_token if before.startswith(self.bos_token) else ""
        system = self._system(bos, user)
        return ChatFormat(
            name="generic",
            bos=bos,
            system=system,
            user=user,
            assistant=Turn(generation, answer_suffix),
            stops=self._stops(answer_suffix),
            trims=self._trims(),
            default_system=_default_system(before[len(bos) :], system),
            mentions_tools=_TOOLS.search(self.template) is not None,
            dated=_DATES in self.template,
        )

    def _generation_prompt(self) -> str:
        messages = ({"role": "user", "content": _USER},)
        closed = self._render(messages, add_generation_prompt=False)
        asked = self._render(messages)
        if not asked.startswith(closed):
            raise _indescribable(
                "what it writes when no answer is asked for is not the start of what it writes when one is"
            )
        return asked[len(closed) :]

    def _system(self, bos: str, user: Turn) -> Turn | None:
        messages = ({"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER})
        try:
            text = self._render(messages, add_generation_prompt=False)
        except ChatFormatError:
            return None  # such a template says so itself, for instance Gemma's
        opening, between, _ = _split(text, (_SYSTEM, _USER))
        if not opening.startswith(bos) or not between.endswith(user.prefix):
            raise _indescribable("the system message is folded into the first question")
        return Turn(opening[len(bos) :], between[: len(between) - len(user.prefix)])

    def _stops(self, answer_suffix: str) -> tuple[str, ...]:
        stop = answer_suffix.strip() or self.eos_token
        if not stop:
            raise _indescribable("nothing ends an answer")
        return (stop,)

    def _trims(self) -> bool:
        padded = f" \n{_USER}\n "
        return padded not in self._render(({"role": "user", "content": padded},))

    def _cut(self, conversation: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """The texts before, between and after the contents of a conversation that asks for no answer."""
        messages = [{"role": role, "content": content} for role, content in conversation]
        text = self._render(messages, add_generation_prompt=False)
        return _split(text, tuple(content for _, content in conversation))

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        return render_jinja(
            self.template,
            messages,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            add_generation_prompt=add_generation_prompt,
            dates=False,
        )


def _split(text: str, sentinels: Sequence[str]) -> tuple[str, ...]:
    pieces = []
    for sentinel in sentinels:
        if text.count(sentinel) != 1:
            raise _indescribable("a message is left out, repeated or out of order")
        before, text = text.split(sentinel)
        pieces.append(before)
    return (*pieces, text)


def _default_system(text: str, system: Turn | None) -> str | None:
    """What the template says by itself before the first question, given the text found there."""
    if not text:
        return None
    if (
        system is None
        or len(text) < len(system.prefix) + len(system.suffix)
        or not text.startswith(system.prefix)
        or not text.endswith(system.suffix)
    ):
        raise _indescribable(f"it opens a conversation with {text[:80]!r}, which is no system turn")
    return text[len(system.prefix) : len(text) - len(system.suffix)]


def _prove(found: ChatFormat, template: str, *, bos_token: str, eos_token: str) -> None:
    for system, question, answer, second in _PROOF_TEXTS:
        turns: list[Message] = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": second},
            {"role": "assistant", "content": answer},
        ]
        openings: list[list[Message]] = [[]]
        if found.system is not None:
            openings.append([{"role": "system", "content": system}])
        for opening in openings:
            for length in range(1, len(turns) + 1):
                for asked in (True, False):
                    messages = [*opening, *turns[:length]]
                    expected = render_jinja(
                        template,
                        messages,
                        bos_token=bos_token,
                        eos_token=eos_token,
                        add_generation_prompt=asked,
                        dates=False,
                    )
                    if found.render(messages, add_generation_prompt=asked) != expected:
                        raise _indescribable(_where(messages, asked))


def _where(messages: Sequence[Message], asked: bool) -> str:
    roles = ", ".join(message["role"] for message in messages)
    return f"its prompt for the conversation ({roles}{', an answer asked for' if asked else ''}) has its own rules"


def _indescribable(why: str) -> ChatFormatError:
    return ChatFormatError(f"turns cannot describe the model's chat template: {why}")
