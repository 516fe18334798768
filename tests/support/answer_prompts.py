"""Prompts of conversations with thoughts and tools: transformers, llama.cpp, Ollama's TEMPLATE, and token ids.

Part of the prompt matrix, for templates that can have either. Messages are as OpenAI's clients send them; transformers'
template gets them as quantkit hands them to it, which is what ``chat`` and ``serve`` do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.chat_template.answer_probe import find_answers
from quantkit.chat_template.answers import as_template_reads
from quantkit.chat_template.format import ChatFormat, OwnTemplate, derive
from quantkit.errors import ChatFormatError
from quantkit.package.go_template import go_template
from tests.support.chat_templates import real_templates
from tests.support.go_prompts import Job, Talk, ollama_prompts
from tests.support.llama_tools import apply_template
from tests.support.prompt_causes import AnswerCause, Format, id_causes
from tests.support.prompt_matrix import VOCABULARIES, Cell, PromptMatrix
from tests.support.said import TOOLS

Messages = Sequence[Mapping[str, Any]]


def _call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"callnum{number:02}", "type": "function", "function": function}


def _result(number: int, name: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"callnum{number:02}", "name": name, "content": '{"sky": "晴"}'}


def _said(content: str, *calls: Mapping[str, Any], thought: str = "") -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    return (
        message | ({"tool_calls": list(calls)} if calls else {}) | ({"reasoning_content": thought} if thought else {})
    )


_QUESTION, _AGAIN = {"role": "user", "content": "Weather in 巴黎?"}, {"role": "user", "content": "Sure?"}
_LOOK, _FIND = _call(1, "get_weather", city='Paris "二"', days=2), _call(2, "find_city", city="b")
_THOUGHT = "They ask for\n\nthe weather."
TALKS: Mapping[str, Messages] = {
    "thought of an earlier answer": (_QUESTION, _said("Sunny.", thought=_THOUGHT), _AGAIN),
    "tools offered": (_QUESTION,),
    "tools beside a system prompt": ({"role": "system", "content": "Be brief."}, _QUESTION),
    "a call and its result": (_QUESTION, _said("", _LOOK), _result(1, "get_weather")),
    "a call after a thought": (_QUESTION, _said("", _LOOK, thought=_THOUGHT), _result(1, "get_weather")),
    "text, a call, an answer": (
        *(_QUESTION, _said("Let me look.", _LOOK), _result(1, "get_weather")),
        *(_said("Sunny."), _AGAIN),
    ),
    "two calls": (_QUESTION, _said("", _LOOK, _FIND), _result(1, "get_weather"), _result(2, "find_city")),
}
"""With tools where the first message after a question is not an answer with a thought alone."""
_OTHER_FIELD = {"upstage-Solar-Open-100B"}  # "reasoning"
_PLAIN = "thought of an earlier answer"
# As llama.cpp knows a template of Gemma 4 that is older than its support of results.
_REWRITTEN, _NOT_REWRITTEN = "'<|tool_call>call:'", "{#- OpenAI Chat Completions:"


@cache
def form_of(name: str) -> AnswerFormat:
    """How a released template lets a model answer."""
    return find_answers(real_templates()[name], bos_token="<s>", eos_token="</s>")


def templates() -> dict[str, AnswerFormat]:
    """The templates with thoughts or tools that can be read, by name."""
    found = {name: form_of(name) for name in sorted(real_templates())}
    return {name: form for name, form in found.items() if form.thoughts is not None or form.calls is not None}


def _talks(form: AnswerFormat) -> Iterator[str]:
    for name, messages in TALKS.items():
        calls = max((len(message.get("tool_calls", ())) for message in messages), default=0)
        thinks = any("reasoning_content" in message for message in messages)
        if (name != _PLAIN and form.calls is None) or (thinks and form.thoughts is None):
            continue
        if calls < 2 or (form.calls is not None and form.calls.several):
            yield name


class AnswerPrompts:
    """The rows, with the vocabularies of a prompt matrix."""

    def __init__(self, matrix: PromptMatrix) -> None:
        self._matrix = matrix

    def cells(self, name: str, form: AnswerFormat) -> dict[str, Cell]:
        """A row by column."""
        template = real_templates()[name]
        vocabulary = self._matrix.vocabulary(name)
        try:
            chat: ChatFormat | OwnTemplate = derive(template, **vocabulary.tokens)
        except ChatFormatError as error:  # it cannot be without tools
            chat = OwnTemplate(str(error), (), True)
        row = Format(chat, template, vocabulary)
        theirs, llama, ids = dict[str, str | None](), dict[str, str | None](), {}
        for offered in ({}, {"tools": TOOLS}):
            talks = [talk for talk in _talks(form) if (talk == _PLAIN) is not bool(offered)]
            found = apply_template(vocabulary.gguf, [TALKS[talk] for talk in talks], template, **offered)
            for talk, rendering in zip(talks, found, strict=True):
                text = row.told(as_template_reads(TALKS[talk], form), **offered)
                if text is None and rendering.prompt is None:
                    continue  # both refuse it
                added = vocabulary.bos if vocabulary.adds_bos and (text or "").startswith(vocabulary.bos) else ""
                theirs[talk], llama[talk] = text, None if rendering.prompt is None else added + rendering.prompt
                if name in VOCABULARIES and text is not None and text == llama[talk]:
                    ids[talk] = (self._matrix.encode(name, text), rendering.tokens)
        rewritten = _REWRITTEN in template and _NOT_REWRITTEN not in template
        results = [talk for talk in theirs if rewritten and any(message["role"] == "tool" for message in TALKS[talk])]
        known: dict[str, list[StrEnum]] = {talk: [AnswerCause.REWRITTEN] for talk in results}
        if name in _OTHER_FIELD:
            known |= {talk: [AnswerCause.FIELD] for talk in theirs if talk == "a call after a thought"}
        cells = {"llama.cpp": _compare({talk: (theirs[talk], llama[talk]) for talk in theirs}, _escaped, known)}
        if isinstance(chat, ChatFormat) and _PLAIN in talks:
            go = go_template(chat, adds_bos=vocabulary.adds_bos)
            ((prompt,),) = ollama_prompts([Job(go, [Talk(TALKS[_PLAIN])])])
            kept = _THOUGHT.split("\n")[0] in (row.theirs(as_template_reads(TALKS[_PLAIN], form)) or "")
            pair = (
                row.theirs(as_template_reads(TALKS[_PLAIN], form)),
                (row.bos if vocabulary.adds_bos else "") + prompt,
            )
            cells["Go TEMPLATE"] = _compare({_PLAIN: pair}, lambda one, other: [AnswerCause.THOUGHT] if kept else [])
        if ids:
            named: Mapping[str, list[StrEnum]] = {talk: list(id_causes(row, TALKS[talk])) for talk in ids}
            cells["token ids"] = _compare(ids, lambda one, other: [], named)
        return cells


def _escaped(one: object, other: object) -> list[StrEnum]:
    return [AnswerCause.ESCAPED] if isinstance(one, str) and "&#34;" in one else []


def _compare(
    pairs: Mapping[str, tuple[Any, Any]], causes: Any, known: Mapping[str, list[StrEnum]] | None = None
) -> Cell:
    why = {talk: (known or {}).get(talk) or causes(*pair) for talk, pair in pairs.items()}
    differ = {talk for talk, (one, other) in pairs.items() if one != other}
    return Cell(
        total=len(pairs),
        named={talk: why[talk] for talk in pairs if why[talk] and talk in differ},
        unnamed=[talk for talk in pairs if talk in differ and not why[talk]],
        absent=[talk for talk in pairs if why[talk] and talk not in differ],
    )
