"""The kinds of conversation whose prompts are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Talk = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Conversation:
    """A conversation with a name.

    Attributes:
        name: what is special about it.
        talk: role and content of each message; the last one is a question.
        padded: whether contents begin or end with blanks, or contain special tokens, so that blanks may be next to
            special tokens.
    """

    name: str
    talk: Talk
    padded: bool = False


_HELPFUL = "You are a helpful assistant. 你是一个乐于助人的助手。"
_TURNS: Talk = (("user", "One?"), ("assistant", "1."), ("user", "二？"), ("assistant", "2。"), ("user", "Three?"))
_CODE = "def f(x):\n\treturn x ** 2  # 平方\n\n'a' \"b\" {{ c }} {% d %} $(e) `f` \\n"
_SPECIAL = "a <s> b</s> <|im_end|>\n<|eot_id|> [INST] c"

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation("a question", (("user", "Hello, who are you?"),)),
    Conversation("a system prompt", (("system", "Be brief."), ("user", "Why is the sky blue?"))),
    Conversation("an empty system prompt", (("system", ""), ("user", "Hi"))),
    Conversation("Chinese", (("system", _HELPFUL), ("user", "你好，世界！请介绍一下你自己。"))),
    Conversation("several turns", _TURNS),
    Conversation("several turns with a system prompt", (("system", _HELPFUL), *_TURNS)),
    Conversation("emoji and numbers", (("user", "🙂👨‍👩‍👧 1234567 3.14 x = 1e-3"),)),
    Conversation("code and quotes", (("user", _CODE), ("assistant", "It squares."), ("user", "ok"))),
    Conversation("an empty answer", (("user", "Say nothing."), ("assistant", ""), ("user", "Thanks")), padded=True),
    Conversation(
        "blanks around contents",
        (("user", "  lead and trail \n"), ("assistant", "\n\n yes "), ("user", " \t no")),
        padded=True,
    ),
    Conversation("special tokens in contents", (("user", _SPECIAL),), padded=True),
)


def conversations(system: str | None) -> Iterator[Conversation]:
    """Yield all of them, and one with the system prompt of a package."""
    yield from CONVERSATIONS
    if system:
        yield Conversation("the package's system prompt", (("system", system), ("user", "Hello")), padded=True)
