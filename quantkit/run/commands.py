"""The commands of a chat, such as /save: lines that begin with a slash."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.run.chat_state import ChatState
from quantkit.run.placement import placement
from quantkit.run.prompt_input import QUOTES
from quantkit.run.settings import ANSWERING, change, check_system, require_answering
from quantkit.run.transcript import Conversation, load_conversation, save_conversation
from quantkit.system.did_you_mean import did_you_mean


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        run: carries it out, given the text after its name; returns whether the chat continues.
        help: its line in /help.
        takes: its argument as shown to people, "" for none; optional parts in brackets.
    """

    run: Callable[[ChatState, str], bool]
    help: str
    takes: str = ""


def run_command(chat: ChatState, name: str, text: str) -> bool:
    """Carry out a command; returns whether the chat continues.

    Raises:
        QuantkitError: there is no such command, or it fails.
    """
    command = COMMANDS.get(name)
    if command is None:
        meant = did_you_mean(name, COMMANDS)
        raise QuantkitError(
            f"there is no command {name}" + (f"; {meant}" if meant else ""),
            hint="/help lists the commands; to send the line as a question, begin it with a space",
        )
    if text and not command.takes:
        raise QuantkitError(f"{name} takes no argument", hint="/help lists the commands")
    if not text and command.takes and not command.takes.startswith("["):
        raise QuantkitError(f"{name} needs a {command.takes.lower()}", hint=f"{name} {command.takes}")
    return command.run(chat, text)


def _leave(chat: ChatState, text: str) -> bool:
    return False


def _system(chat: ChatState, text: str) -> bool:
    if text:
        system = "" if text == '""' else text
        check_system(chat.model, system)
        chat.conversation.system = system
    chat.screen.say(chat.conversation.system or "(no system prompt)")
    return True


def _reset(chat: ChatState, text: str) -> bool:
    chat.begin(Conversation(system=chat.conversation.system))
    chat.screen.say("(started a new conversation)")
    return True


def _save(chat: ChatState, text: str) -> bool:
    path = _path(text)
    save_conversation(path, chat.conversation, chat.model.path.name)
    chat.screen.say(f"(saved {_exchanges(chat.conversation)} to {path})")
    return True


def _load(chat: ChatState, text: str) -> bool:
    conversation = load_conversation(_path(text))
    check_system(chat.model, conversation.system)
    chat.begin(conversation)
    chat.screen.say(f"(loaded {_exchanges(conversation)}; system prompt: {conversation.system or 'none'})")
    return True


def _path(text: str) -> Path:
    if "\0" in text:
        raise QuantkitError("a file name cannot contain a NUL character", hint="choose another name")
    return Path(os.path.expanduser(text))


def _set(chat: ChatState, text: str) -> bool:
    name, value = (*text.split(None, 1), "", "")[:2]
    if value:
        chat.settings = change(chat.settings, chat.initial, name, value)
    elif name:
        require_answering(name)
    shown = chat.settings.shown()
    chat.screen.say(_table([(key, shown[key]) for key in ([name] if name else ANSWERING)]))
    return True


def _stats(chat: ChatState, text: str) -> bool:
    model, conversation, stats = chat.model, chat.conversation, chat.last
    used = 0 if stats is None else stats.prompt_tokens + stats.generated_tokens
    context = f"{used} of {model.n_ctx} tokens used, {_exchanges(conversation)}"
    if conversation.forgotten:
        context += f"; the model no longer sees the first {conversation.forgotten // 2}"
    loaded = f"loaded in {model.load_seconds:.2f} s, {placement(model.offload_figure)}"
    rows = [("model", f"{model.path.name}, {loaded}"), ("context", context)]
    if stats is not None:
        reused = f" ({stats.reused_tokens} cached)" if stats.reused_tokens else ""
        ended = stats.stop_reason.replace("stop_text", "stop sequence").replace("_", " ")
        rows += [
            ("question", f"{stats.prompt_tokens} prompt tokens{reused}, {stats.prompt_rate:.1f} tokens/s"),
            ("answer", f"{stats.generated_tokens} tokens, {stats.generation_rate:.1f} tokens/s, ended: {ended}"),
        ]
    chat.screen.say(_table(rows))
    return True


def _help(chat: ChatState, text: str) -> bool:
    rows = [(f"{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items() if name[0] == "/"]
    rows += [
        (f"{QUOTES} ... {QUOTES}", "multi-line text (pasted text needs no quotes)"),
        ("Ctrl-C", "stop an answer"),
        ("Ctrl-D", "leave"),
    ]
    chat.screen.say(_table(rows))
    return True


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)


def _exchanges(conversation: Conversation) -> str:
    count = len(conversation.turns) // 2
    return f"{count} exchange" if count == 1 else f"{count} exchanges"


COMMANDS: dict[str, Command] = {
    "/system": Command(_system, 'show or set the system prompt ("" for none)', "[TEXT]"),
    "/reset": Command(_reset, "start a new conversation"),
    "/save": Command(_save, "save the conversation to a file", "FILE"),
    "/load": Command(_load, "continue a saved conversation", "FILE"),
    "/set": Command(_set, 'show or change parameters: /set temperature 0.2 (or default)',
                    "[NAME [VALUE]]"),
    "/stats": Command(_stats, "show tokens, speed and context"),
    "/help": Command(_help, "show this list"),
    "/bye": Command(_leave, "leave (same as Ctrl-D)"),
    "exit": Command(_leave, "leave"),
}  # fmt: skip
