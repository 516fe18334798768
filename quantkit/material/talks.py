"""Conversations as people have them for training: what LLaMA-Factory, Unsloth and ms-swift read, by their keys.

Three shapes: ``messages`` with role and content, ``conversations`` with from and value (ShareGPT), and ``instruction``,
``input`` and ``output`` (Alpaca). What a chat template would not get as text, such as calls of tools and images, is
refused: leaving it out would make another conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Talk = tuple[Mapping[str, str], ...]
"""Messages with ``role``, ``content`` and, if the model thought first, ``reasoning_content``."""

SHAPES = (
    '{"messages": [{"role": "user", "content": ...}, ...]}, {"conversations": [{"from": "human", "value": ...}, ...]} '
    'or {"instruction": ..., "input": ..., "output": ...}'
)
_ROLES = ("system", "user", "assistant")
_SHAREGPT = {"human": "user", "gpt": "assistant", **{role: role for role in _ROLES}}
# Keys whose values are part of a conversation and have no place in a plain one, if they are not empty.
_BESIDES = ("tools", "images", "videos", "audios")
_IN_A_MESSAGE = ("tool_calls", "function_call")


class TalkError(ValueError):
    """Not a conversation in one of the three shapes; the message says what is wrong."""


def read_talk(entry: Any) -> Talk:
    """One conversation.

    Args:
        entry: a JSON value.

    Returns:
        At least one message.

    Raises:
        TalkError: it is something else.
    """
    if not isinstance(entry, dict):
        raise TalkError(f"not an object but {_shown(entry)}")
    for key in _BESIDES:
        if entry.get(key):
            raise TalkError(f"has {key!r}, which only a conversation without them can be rendered without")
    if "messages" in entry:
        found = _listed(entry, "messages", "role", "content", {role: role for role in _ROLES})
    elif "conversations" in entry:
        found = _listed(entry, "conversations", "from", "value", _SHAREGPT)
    elif "instruction" in entry and "output" in entry:
        found = _alpaca(entry)
    else:
        raise TalkError(f"has the keys {', '.join(map(repr, entry)) or 'of nothing'}")
    if entry.get("system") and found[0]["role"] != "system":
        found.insert(0, {"role": "system", "content": _text(entry["system"], "system")})
    return tuple(found)


def _listed(
    entry: Mapping[str, Any], key: str, who: str, what: str, roles: Mapping[str, str]
) -> list[Mapping[str, str]]:
    messages = entry[key]
    if not isinstance(messages, list) or not messages:
        raise TalkError(f"{key!r} is {_shown(messages)}, not a list of messages")
    return [_message(message, f"{key}[{number}]", who, what, roles) for number, message in enumerate(messages)]


def _message(message: Any, where: str, who: str, what: str, roles: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(message, dict):
        raise TalkError(f"{where} is {_shown(message)}, not an object")
    for key in _IN_A_MESSAGE:
        if message.get(key):
            raise TalkError(f"{where} has {key!r}; only text can be rendered")
    role = message.get(who)
    if not isinstance(role, str) or role not in roles:
        raise TalkError(f"{where}: {who!r} is {_shown(role)}; expected one of {', '.join(roles)}")
    found = {"role": roles[role], "content": _content(message.get(what), f"{where}: {what!r}")}
    if message.get("reasoning_content"):
        found["reasoning_content"] = _text(message["reasoning_content"], f"{where}: 'reasoning_content'")
    return found


def _content(value: Any, where: str) -> str:
    """A text, or a list of parts that are all texts."""
    if not isinstance(value, list):
        return _text(value, where)
    parts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise TalkError(f"{where} has a part that is not a text: {_shown(part)}")
        parts.append(_text(part.get("text"), f"{where}: 'text'"))
    return "".join(parts)


def _alpaca(entry: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Instruction and input are one question, with a line break between them, as LLaMA-Factory joins them."""
    found: list[Mapping[str, str]] = []

    def turn(question: str, answer: str) -> None:
        found.extend(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))

    for number, pair in enumerate(entry.get("history") or ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise TalkError(f"history[{number}] is {_shown(pair)}, not a question and its answer")
        turn(_text(pair[0], f"history[{number}][0]"), _text(pair[1], f"history[{number}][1]"))
    question = [_text(entry["instruction"], "instruction")]
    if entry.get("input"):
        question.append(_text(entry["input"], "input"))
    turn("\n".join(question), _text(entry["output"], "output"))
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TalkError(f"{where} is {_shown(value)}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TalkError(f"{where} is not valid Unicode: it has half of a surrogate pair") from None
    return value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
