"""Why one engine writes a prompt otherwise than another: predictions, made from what is known of format and engine.

For a TEMPLATE of Ollama they are what quantkit itself reports of the format (``quantkit.package.differences``), applied
to a conversation. What llama.cpp does with any template, and what it does with token ids, is listed here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from quantkit.chat_template.format import ChatFormat, OwnTemplate, Shape, render_jinja
from quantkit.errors import ChatFormatError
from quantkit.package.differences import Cause, differences
from tests.support.prompt_talks import Message

Causes = Iterator[StrEnum]

_ASCII_SPACE = " \t\n\r\v\f"
# Blanks that special tokens swallow and llama.cpp leaves, in contents with NUL between them.
_SWALLOWED = {
    "phi-3": re.compile(r"\0[ \t\n\r\v\f]*(?![ \t\n\r\v\f])\s"),
    "phi-4": re.compile(r"\0\s|\s\0|\s<\|im_|<\|im_\w+\|>\s"),
}
_NOTHING = re.compile(r"(?!)")
# What llama.cpp tells a template that can think. It does not see that the one excepted can.
_THINKING = {
    "enable_thinking": True,
    "preserve_thinking": True,
    "clear_thinking": False,
    "truncate_history_thinking": False,
    "drop_thinking": False,
}
_HIDDEN_THINKING = "Deliberation: "
# Before its templates, llama.cpp strips all messages itself.
_STRIPPED = "You have access to the following functions in JSONSchema format"


class LlamaCause(StrEnum):
    """What a conversation has that llama.cpp renders otherwise than transformers."""

    WIDE_SPACE = "white space around a message that is not ASCII, which it does not strip"
    SPACE = "white space around a message, which it strips before the template sees it"
    DATE = "today's date, which it tells the template"
    THINKING = "thinking, which it tells the template to do"
    SYSTEM = "a system message that the template does not take, which it puts into the first question"
    EMPTY_ANSWER = "an empty answer, which the template refuses and it does not"
    ANSWER_FIRST = "an answer as the first message, before which the template has no BOS and it has"
    ANSWER_LAST = "an answer as the last message, which it goes on with"


class AnswerCause(StrEnum):
    """Why a prompt with thoughts or tools differs."""

    THOUGHT = "a thought, which a TEMPLATE leaves out"
    ESCAPED = "the tools, which transformers escapes as HTML"
    FIELD = "a thought, which llama.cpp does not put into the field that the template reads"
    REWRITTEN = "results of tools, which it rewrites for an older template of Gemma 4"


class IdCause(StrEnum):
    """What makes token ids differ though the prompt is the same."""

    BOS = "the BOS token, which llama.cpp adds and the template does not write"
    BLANKS = "blanks beside special tokens, which the tokenizer's special tokens swallow"
    COMPOSED = "characters that the tokenizer composes"
    TAKEN_FOR = "an ordinary token that llama.cpp takes for a special one by its name"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's folder, the GGUF file made from it, the tokens around prompts, and ordinary ones named as such."""

    name: str
    folder: Path
    gguf: Path
    bos: str
    eos: str
    adds_bos: bool
    mistaken: tuple[str, ...]

    @property
    def tokens(self) -> dict[str, str]:
        """For a chat template."""
        return {"bos_token": self.bos, "eos_token": self.eos}


@dataclass(frozen=True)
class Format:
    """A chat format: what quantkit derives from its Jinja, with the vocabulary it is rendered with."""

    chat: ChatFormat | OwnTemplate
    template: str
    vocabulary: Vocabulary

    def theirs(self, messages: Sequence[Message], **variables: Any) -> str | None:
        """What ``apply_chat_template`` writes; None where the template refuses the conversation."""
        try:
            (text,), _ = render_jinja_template(
                [list(messages)],
                chat_template=self.template,
                add_generation_prompt=True,
                **self.vocabulary.tokens,
                **variables,
            )
        except (TemplateError, TypeError):  # some cannot write it rather than refuse it
            return None
        return str(text)

    def told(self, messages: Sequence[Message], **variables: Any) -> str | None:
        """The same of a template that is told what llama.cpp tells it: the date, and to think."""
        thinking = {} if _HIDDEN_THINKING in self.template else _THINKING
        return self.theirs(messages, date_string=datetime.now().strftime("%d %b %Y"), **thinking, **variables)

    def fixed(self, messages: Sequence[Message]) -> str | None:
        """The same of a template that is told no date, where quantkit reports that it writes one."""
        if not isinstance(self.chat, ChatFormat) or not self.chat.dated:
            return self.theirs(messages)
        try:
            return render_jinja(self.template, messages, **self.vocabulary.tokens, dates=False)
        except ChatFormatError:
            return None

    @property
    def bos(self) -> str:
        """What its prompts open with."""
        if isinstance(self.chat, ChatFormat):
            return self.chat.bos
        bos, text = self.vocabulary.bos, self.theirs([{"role": "user", "content": ""}]) or ""
        return bos if text.startswith(bos) else ""


def ollama_causes(row: Format, messages: Sequence[Message]) -> Causes:
    """Why a TEMPLATE writes a conversation otherwise than with a fixed date, as far as quantkit reports it."""
    assert isinstance(row.chat, ChatFormat)
    shown = _shown(row.chat, messages)
    yield from (found.cause for found in differences(row.chat) if found.cause is not None and shown.get(found.cause))


def _shown(chat: ChatFormat, messages: Sequence[Message]) -> Mapping[Cause | Shape, bool]:
    written = [message for message in messages if chat.takes_system or message["role"] != "system"]
    roles = [message["role"] for message in written]
    later = any(role == "system" != before for before, role in pairwise(roles))
    empty = [message["role"] for message in written if not message["content"]]
    trimmed = {*chat.trims, *chat.uneven}
    return {
        Cause.WHITE_SPACE: any(m["content"] != m["content"].strip() for m in messages if m["role"] in trimmed),
        Cause.ROW: any(before == role for before, role in pairwise(roles)),
        Shape.EMPTY_SYSTEM: "system" in empty,
        Shape.EMPTY_ANSWER: "assistant" in empty,
        Shape.LATE_SYSTEM: later and roles[0] != "system",
        Shape.SECOND_SYSTEM: later and roles[0] == "system",
        Shape.ANSWER_FIRST: roles[0] == "assistant",
        Shape.ANSWER_LAST: roles[-1] == "assistant",
    }


def llama_causes(row: Format, messages: Sequence[Message]) -> Causes:
    """Why llama.cpp renders a conversation otherwise than transformers that tells the template the same."""
    roles, contents = ([message[key] for message in messages] for key in ("role", "content"))
    text = row.told(messages)
    if _STRIPPED in row.template and any(content != content.strip(_ASCII_SPACE) for content in contents):
        yield LlamaCause.SPACE
    if any(content.strip(_ASCII_SPACE) != content.strip() for content in contents):
        stripped = [{**message, "content": message["content"].strip()} for message in messages]
        if row.told(stripped) == text:
            yield LlamaCause.WIDE_SPACE
    if not row.chat.takes_system and roles[:2] == ["system", "user"] and row.told(messages[1:]) is not None:
        yield LlamaCause.SYSTEM
    if text is None and "message['content']|length == 0" in row.template and not all(contents):
        yield LlamaCause.EMPTY_ANSWER
    if text is not None and not text.startswith(row.bos):
        yield LlamaCause.ANSWER_FIRST
    if roles[-1] == "assistant":
        yield LlamaCause.ANSWER_LAST


def id_causes(row: Format, messages: Sequence[Message]) -> Causes:
    """Why the token ids of one prompt differ."""
    vocabulary, contents = row.vocabulary, [message["content"] for message in messages]
    if vocabulary.adds_bos and not row.bos:
        yield IdCause.BOS
    if _SWALLOWED.get(vocabulary.name, _NOTHING).search("\0".join(["", *contents, ""])):
        yield IdCause.BLANKS
    if vocabulary.name == "qwen2" and any(text != unicodedata.normalize("NFC", text) for text in contents):
        yield IdCause.COMPOSED
    if any(token in text for token in vocabulary.mistaken for text in contents):
        yield IdCause.TAKEN_FOR
