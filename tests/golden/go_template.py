"""The part of Go's text/template that prompts need, and how Ollama's server feeds it.

It is trusted because it gives every prompt recorded from a real server, see test_modelfiles.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ACTION = re.compile(r'\{\{(-\s)?\s*((?:"(?:\\.|[^"\\])*"|[^}"])*?)(\s-|\s*)\}\}')
_WORD = re.compile(r'"(?:\\.|[^"\\])*"|[()]|[^\s()]+')


def ollama_prompt(template: str, messages: Sequence[Mapping[str, str]], *, system: str = "") -> str:
    """The prompt that the server builds for /api/chat from a TEMPLATE, a SYSTEM and a conversation."""
    if system and (not messages or messages[0]["role"] != "system"):
        messages = [{"role": "system", "content": system}, *messages]
    merged: list[dict[str, str]] = []
    for message in messages:
        if merged and merged[-1]["Role"] == message["role"]:
            merged[-1]["Content"] += "\n\n" + message["content"]
        else:
            merged.append({"Role": message["role"], "Content": message["content"]})
    nodes = parse(template)
    if mentions(nodes, ".Messages"):
        every_system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        return execute(nodes, {"System": every_system, "Messages": merged, "Response": ""})
    if not mentions(nodes, ".Response"):
        nodes = [*nodes, ("print", ".Response")]
    prompt = ""
    turn = {"System": "", "Prompt": "", "Response": ""}
    for message in merged:
        full = {"system": turn["Prompt"] or turn["Response"], "user": turn["Response"], "assistant": ""}
        if full[message["Role"]]:
            prompt += execute(nodes, turn)
            turn = {"System": "", "Prompt": "", "Response": ""}
        turn[{"system": "System", "user": "Prompt", "assistant": "Response"}[message["Role"]]] = message["Content"]
    return prompt + execute(list(until_response(nodes)), turn)


Node = tuple[Any, ...]


def parse(template: str) -> list[Node]:
    """Nodes: ("text", t), ("print", value), ("if", [(condition, nodes), ...]), ("range", name, value, nodes)."""
    tokens = list(_tokens(template))
    nodes, rest = _block(tokens)
    assert not rest
    return nodes


def _tokens(template: str) -> Iterator[tuple[bool, str]]:
    """(False, text) and (True, action) in turns; the dashes of actions trim the texts beside them."""
    position = 0
    trim = False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        text = text.rstrip(" \t\r\n") if match[1] else text
        yield False, text.lstrip(" \t\r\n") if trim else text
        yield True, match[2]
        position, trim = match.end(), match[3].endswith("-")
    tail = template[position:]
    yield False, tail.lstrip(" \t\r\n") if trim else tail


def _block(tokens: list[tuple[bool, str]]) -> tuple[list[Node], list[tuple[bool, str]]]:
    """The nodes up to an end or else, and the tokens from there."""
    nodes: list[Node] = []
    while tokens:
        is_action, text = tokens[0]
        if is_action and (text == "end" or text.startswith("else")):
            break
        tokens = tokens[1:]
        if not is_action:
            nodes.append(("text", text))
        elif text.startswith("if "):
            branches = []
            condition = text[3:]
            while True:
                body, tokens = _block(tokens)
                branches.append((condition, body))
                (_, word), tokens = tokens[0], tokens[1:]
                if word == "end":
                    break
                condition = word.removeprefix("else").removeprefix(" if ") or "true"
            nodes.append(("if", branches))
        elif text.startswith("range "):
            variable, _, expression = text[6:].rpartition(":=")
            body, tokens = _block(tokens)
            assert tokens[0] == (True, "end")
            tokens = tokens[1:]
            nodes.append(("range", variable.split(",")[0].strip(), expression.strip(), body))
        else:
            nodes.append(("print", text))
    return nodes, tokens


def mentions(nodes: Sequence[Node], field: str) -> bool:
    return field in re.sub(r"\$\.", ".", repr([node for node in nodes if node[0] != "text"]))


def until_response(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if node == ("print", ".Response"):
            return


def execute(
    nodes: Sequence[Node], data: Mapping[str, Any], dot: Any = None, names: Mapping[str, Any] | None = None
) -> str:
    dot = data if dot is None else dot
    names = names or {}
    parts: list[str] = []
    for kind, *rest in nodes:
        if kind == "text":
            parts.append(rest[0])
        elif kind == "print":
            parts.append(str(_value(rest[0], data, dot, names)))
        elif kind == "range":
            variable, expression, body = rest
            for index, item in enumerate(_value(expression, data, dot, names)):
                parts.append(execute(body, data, item, {**names, variable: index}))
        else:
            for condition, body in rest[0]:
                if _value(condition, data, dot, names):
                    parts.append(execute(body, data, dot, names))
                    break
    return "".join(parts)


def _value(expression: str, data: Mapping[str, Any], dot: Any, names: Mapping[str, Any]) -> Any:
    words = _WORD.findall(expression)

    def operand() -> Any:
        word = words.pop(0)
        if word == "(":
            value = call()
            assert words.pop(0) == ")"
            return value
        if word.startswith('"'):
            return ast.literal_eval(word)  # Go's escapes used here mean the same in Python
        if word.startswith("$."):
            return data.get(word[2:], "")
        if word.startswith("$"):
            return names[word]
        if word.startswith("."):
            return dot.get(word[1:], "")
        return {"true": True}[word] if word == "true" else int(word)

    def call() -> Any:
        if words[0] in ("eq", "ne", "and"):
            name, left, right = words.pop(0), operand(), operand()
            return {"eq": left == right, "ne": left != right, "and": left and right}[name]
        if words[0] == "len":
            words.pop(0)
            return len(operand())
        if words[0] == "slice":
            words.pop(0)
            return operand()[operand() :]
        return operand()

    value = call()
    assert not words, expression
    return value
