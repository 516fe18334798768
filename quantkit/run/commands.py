"""The commands of a chat: what begins with a slash."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.errors import QuantkitError
from quantkit.run.prompt_input import QUOTES
from quantkit.run.settings import ANSWERING, change, check_system, require_answering
from quantkit.run.transcript import Conversation, load_conversation, save_conversation

if TYPE_CHECKING:
    from quantkit.run.chat import ChatLoop


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        run: does it, with the text behind its name; says whether the chat goes on.
        help: what it does, for people.
        takes: the text behind it, "" for none; in brackets what may be left out.
    """

    run: Callable[[ChatLoop, str], bool]
    help: str
    takes: str = ""


def run_command(loop: ChatLoop, name: str, text: str) -> bool:
    """Do what a command says; returns whether the chat goes on.

    Raises:
        QuantkitError: there is no such command, or it cannot do what it is asked to.
    """
    command = COMMANDS.get(name)
    if command is None:
        close = difflib.get_close_matches(name.lower(), COMMANDS, n=1)
        raise QuantkitError(
            f"there is no command {name}" + (f"; did you mean {close[0]}?" if close else ""),
            hint="/help lists them; a line that begins with a space is a question",
        )
    if text and not command.takes:
        raise QuantkitError(f"{name} takes nothing behind it", hint="/help lists the commands")
    if not text and command.takes and not command.takes.startswith("["):
        raise QuantkitError(f"{name} needs a {command.takes.lower()}", hint=f"{name} {command.takes}")
    return command.run(loop, text)


def _leave(loop: ChatLoop, text: str) -> bool:
    return False


def _system(loop: ChatLoop, text: str) -> bool:
    if text:
        system = "" if text == '""' else text
        check_system(loop.model, system)
        loop.conversation.system = system
    loop.screen.say(loop.conversation.system or "(no system prompt)")
    return True


def _reset(loop: ChatLoop, text: str) -> bool:
    loop.begin(Conversation(system=loop.conversation.system))
    loop.screen.say("(a new conversation)")
    return True


def _save(loop: ChatLoop, text: str) -> bool:
    path = _path(text)
    save_conversation(path, loop.conversation, loop.model.path.name)
    loop.screen.say(f"(saved {_exchanges(loop.conversation)} as {path})")
    return True


def _load(loop: ChatLoop, text: str) -> bool:
    conversation = load_conversation(_path(text))
    check_system(loop.model, conversation.system)
    loop.begin(conversation)
    loop.screen.say(f"(loaded {_exchanges(conversation)}; system prompt: {conversation.system or 'none'})")
    return True


def _path(text: str) -> Path:
    if "\0" in text:
        raise QuantkitError("a file name holds no NUL", hint="give another name")
    return Path(os.path.expanduser(text))


def _set(loop: ChatLoop, text: str) -> bool:
    name, value = (*text.split(None, 1), "", "")[:2]
    if value:
        loop.settings = change(loop.settings, loop.initial, name, value)
    elif name:
        require_answering(name)
    shown = loop.settings.shown()
    loop.screen.say(_table([(key, shown[key]) for key in ([name] if name else ANSWERING)]))
    return True


def _stats(loop: ChatLoop, text: str) -> bool:
    model, conversation, stats = loop.model, loop.conversation, loop.last
    used = "none" if stats is None else stats.prompt_tokens + stats.generated_tokens
    context = f"{used} of {model.n_ctx} tokens used, {_exchanges(conversation)}"
    if conversation.forgotten:
        context += f", the first {conversation.forgotten // 2} no longer given to the model"
    loaded = f"loaded in {model.load_seconds:.2f} s, layers on the GPU {model.offload_figure}"
    rows = [("model", f"{model.path.name}, {loaded}"), ("context", context)]
    if stats is not None:
        reused = f", {stats.reused_tokens} known from before" if stats.reused_tokens else ""
        ended = stats.stop_reason.replace("_", " ")
        rows += [
            ("question", f"{stats.prompt_tokens} prompt tokens{reused}, {stats.prompt_rate:.1f} tokens/s"),
            ("answer", f"{stats.generated_tokens} tokens, {stats.generation_rate:.1f} tokens/s, ended: {ended}"),
        ]
    loop.screen.say(_table(rows))
    return True


def _help(loop: ChatLoop, text: str) -> bool:
    rows = [(f"{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items() if name[0] == "/"]
    rows += [
        (f"{QUOTES} ... {QUOTES}", "a text of several lines (a pasted one needs no quotes)"),
        ("Ctrl-C", "stop an answer"),
        ("Ctrl-D", "leave"),
    ]
    loop.screen.say(_table(rows))
    return True


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)


def _exchanges(conversation: Conversation) -> str:
    count = len(conversation.turns) // 2
    return f"{count} exchange" if count == 1 else f"{count} exchanges"


COMMANDS: dict[str, Command] = {
    "/system": Command(_system, 'show the system prompt, or set it; "" is none', "[TEXT]"),
    "/reset": Command(_reset, "begin a new conversation"),
    "/save": Command(_save, "write the conversation to a file", "FILE"),
    "/load": Command(_load, "go on with a conversation from a file", "FILE"),
    "/set": Command(_set, 'show the parameters, or set one: /set temperature 0.2 (or default)',
                    "[NAME [VALUE]]"),
    "/stats": Command(_stats, "tokens, speed, context"),
    "/help": Command(_help, "this list"),
    "/bye": Command(_leave, "leave, as Ctrl-D does"),
    "exit": Command(_leave, "leave"),
}  # fmt: skip
