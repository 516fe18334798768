"""llama.cpp's own programs, and how its server renders and tokenizes a conversation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[2]

Conversation = Sequence[Mapping[str, Any]]


class LlamaToolsError(RuntimeError):
    """A program could not be built, or could not do its work."""


@dataclass(frozen=True)
class Rendering:
    """What llama-server makes of a conversation.

    Attributes:
        prompt: the text, without the BOS token that the tokenizer adds; None if the template refused.
        tokens: the ids that are evaluated for it, BOS included.
        error: why the template refused, None if it did not.
        messages: how it reads the answers that were given; an object with "error" for one that it cannot read.
    """

    prompt: str | None
    tokens: tuple[int, ...]
    error: str | None
    messages: tuple[Mapping[str, Any], ...] = ()


@cache
def llama_tools() -> Path:
    """The folder of the programs, built by ``scripts/llama_tools`` on the first call.

    It holds ``llama-cli``, ``llama-server``, ``llama-completion`` and ``render-chats``.
    """
    command = [sys.executable, str(_REPOSITORY / "scripts" / "llama_tools")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LlamaToolsError("scripts/llama_tools failed; its messages are above")
    return Path(done.stdout.strip())


def apply_template(
    gguf: Path, conversations: Sequence[Conversation], template: str | None = None, **request: Any
) -> list[Rendering]:
    """What llama-server, started on *gguf*, answers at ``/apply-template`` to each of the conversations.

    No weight is read and no server is started, so this takes milliseconds; see ``native/render_chats.cpp``.

    Args:
        gguf: the model: its vocabulary, and its chat template.
        conversations: lists of messages, each with "role" and "content" (and "tool_calls").
        template: a Jinja template instead of the model's own, as with ``--chat-template-file``.
        request: further fields of each request's body, such as ``tools`` or ``add_generation_prompt``; ``answers`` are
            texts that a model might say to it.

    Raises:
        LlamaToolsError: the model does not load, or the template does not parse.
    """
    bodies = [{"messages": list(messages), **request} for messages in conversations]
    job = json.dumps({"model": str(gguf), "template": template, "bodies": bodies})
    command = [str(llama_tools() / "render-chats")]
    done = subprocess.run(command, input=job, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise LlamaToolsError(done.stderr.strip() or f"render-chats ended with {done.returncode}")
    return [
        Rendering(
            answer.get("prompt"),
            tuple(answer.get("tokens", ())),
            answer.get("error"),
            tuple(answer.get("messages", ())),
        )
        for answer in json.loads(done.stdout)
    ]
