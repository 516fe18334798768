"""The commands of a chat, such as /save: lines that begin with a slash."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import ChatFormatError, QuantkitError
from quantkit.run.chat_state import ChatState
from quantkit.run.copy_command import copy_answer
from quantkit.run.generation_stats import used
from quantkit.run.lora_command import switch_loras
from quantkit.run.placement import placement
from quantkit.run.prompt_input import QUOTES
from quantkit.run.set_command import named_value, parameter_rows
from quantkit.run.settings import change, check_system, require_answering
from quantkit.run.tool_file import read_tools
from quantkit.run.transcript import Conversation, load_conversation, save_conversation
from quantkit.system.did_you_mean import did_you_mean

_SHOWN = 40  # characters of a question that was removed


@dataclass(frozen=True)
class Then:
    """How a chat continues after a command.

    Attributes:
        going: whether it does.
        again: a question to ask in place of the last one, whose exchange stays if there is no answer.
        result: what a tool returned that the model called.
        continues: whether the last answer goes on.
    """

    going: bool = True
    continues: bool = False
    again: str | None = None
    result: str | None = None


GO_ON, LEAVE = Then(), Then(going=False)


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        run: carries it out, given the text after its name; returns how the chat continues.
        help: its line in /help, "" for another name of a command.
        takes: its argument as shown to people, "" for none; optional parts in brackets.
    """

    run: Callable[[ChatState, str], Then]
    help: str
    takes: str = ""


def run_command(chat: ChatState, name: str, text: str) -> Then:
    """Carry out a command; returns how the chat continues.

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


def _leave(chat: ChatState, text: str) -> Then:
    return LEAVE


def _system(chat: ChatState, text: str) -> Then:
    if text:
        system = "" if text == '""' else text
        check_system(chat.model, system)
        chat.conversation.system = system
    chat.screen.say(chat.conversation.system or "(no system prompt)")
    return GO_ON


def _reset(chat: ChatState, text: str) -> Then:
    chat.begin(Conversation(system=chat.conversation.system))
    chat.screen.say("(started a new conversation)")
    return GO_ON


def _retry(chat: ChatState, text: str) -> Then:
    question = _last_question(chat)
    if not chat.settings.is_random:
        chat.screen.say("(nothing is random here, so the answer can only be the same; see /set temperature and seed)")
    return Then(again=question)


def _continue(chat: ChatState, text: str) -> Then:
    if chat.unfinished is not None:
        return Then(continues=True)
    _last_question(chat)
    if chat.conversation.pending:
        raise QuantkitError("a call waits for its result", hint="/result TEXT gives it, /undo takes the question back")
    if chat.last is not None and chat.last.stopped:
        raise QuantkitError("the last answer is whole: the model has ended it", hint="ask on, or /regenerate")
    return Then(continues=True)


def _edit(chat: ChatState, text: str) -> Then:
    _last_question(chat)
    return Then(again=text)


def _undo(chat: ChatState, text: str) -> Then:
    question = _last_question(chat)
    chat.conversation.drop_last()
    chat.last = chat.unfinished = None
    shown = question if len(question) <= _SHOWN else f"{question[:_SHOWN]}..."
    chat.screen.say(f"(removed the exchange that began with {shown!r}; {_exchanges(chat.conversation)} left)")
    return GO_ON


def _last_question(chat: ChatState) -> str:
    question = chat.conversation.last_question
    if question is None:
        raise QuantkitError("there is no exchange yet", hint="ask a question first")
    return question


def _save(chat: ChatState, text: str) -> Then:
    path = _path(text)
    save_conversation(path, chat.conversation, chat.model.path.name)
    chat.screen.say(f"(saved {_exchanges(chat.conversation)} to {path})")
    return GO_ON


def _load(chat: ChatState, text: str) -> Then:
    conversation = load_conversation(_path(text))
    check_system(chat.model, conversation.system)
    chat.begin(conversation)
    chat.screen.say(f"(loaded {_exchanges(conversation)}; system prompt: {conversation.system or 'none'})")
    return GO_ON


def _tools(chat: ChatState, text: str) -> Then:
    if text:
        if chat.conversation.pending:
            raise QuantkitError(
                "a call waits for its result", hint="/result TEXT gives it, /undo takes the question back"
            )
        tools = () if text == '""' else read_tools(_path(text))
        if tools and chat.model.answers.calls is None:
            raise ChatFormatError(
                f"tools cannot be used with this model: of its chat template, {chat.model.answers.no_calls}",
                hint="chat without them",
            )
        chat.tools = tools
    names = [tool["function"]["name"] for tool in chat.tools]
    chat.screen.say(f"(tools: {', '.join(names)})" if names else "(no tools)")
    return GO_ON


def _result(chat: ChatState, text: str) -> Then:
    if chat.conversation.waiting_call is None:
        raise QuantkitError("no call waits for a result", hint="/tools FILE offers tools to the model")
    return Then(result=text)


def _path(text: str) -> Path:
    if "\0" in text:
        raise QuantkitError("a file name cannot contain a NUL character", hint="choose another name")
    return Path(os.path.expanduser(text))


def _set(chat: ChatState, text: str) -> Then:
    name, value = named_value(text)
    if value:
        chat.settings = change(chat.settings, chat.initial, name, value)
    elif name:
        require_answering(name)
    if name:
        chat.screen.say(f"{name}  {chat.settings.shown()[name]}")
    else:
        chat.screen.say(_table(parameter_rows(chat.model, chat.settings, chat.initial, chat.origins)))
    return GO_ON


def _copy(chat: ChatState, text: str) -> Then:
    chat.screen.say(copy_answer(chat.conversation, text, chat.screen))
    return GO_ON


def _lora(chat: ChatState, text: str) -> Then:
    chat.screen.say(switch_loras(chat.model, text))
    return GO_ON


def _stats(chat: ChatState, text: str) -> Then:
    if text:
        if text not in ("on", "off"):
            raise QuantkitError(f"/stats takes on or off, not {text!r}", hint="/stats off")
        chat.rates = text == "on"
        chat.screen.say(f"(tokens and speed {'follow each answer' if chat.rates else 'are shown by /stats only'})")
        return GO_ON
    model, conversation, stats = chat.model, chat.conversation, chat.last
    tokens = 0 if stats is None else used(stats, model.n_ctx)
    context = f"{tokens} of {model.n_ctx} tokens used, {_exchanges(conversation)}"
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
    return GO_ON


def _help(chat: ChatState, text: str) -> Then:
    rows = [(f"{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items() if command.help]
    rows += [
        (f"{QUOTES} ... {QUOTES}", "multi-line text (pasted text needs no quotes)"),
        ("Ctrl-C", "stop an answer"),
        ("Ctrl-D", "leave"),
    ]
    chat.screen.say(_table(rows))
    return GO_ON


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows)


def _exchanges(conversation: Conversation) -> str:
    count = len(conversation.turns) // 2
    return f"{count} exchange" if count == 1 else f"{count} exchanges"


COMMANDS: dict[str, Command] = {
    "/system": Command(_system, 'show or set the system prompt ("" for none)', "[TEXT]"),
    "/reset": Command(_reset, "start a new conversation"),
    "/retry": Command(_retry, "answer the last question again (same as /regenerate)"),
    "/regenerate": Command(_retry, ""),
    "/continue": Command(_continue, "go on with the last answer, if it was stopped or cut off"),
    "/edit": Command(_edit, "ask this in place of the last question", "TEXT"),
    "/undo": Command(_undo, "remove the last question and its answer"),
    "/copy": Command(_copy, "copy the last answer, or its last block of code", "[code]"),
    "/save": Command(_save, "save the conversation to a file", "FILE"),
    "/load": Command(_load, "continue a saved conversation", "FILE"),
    "/set": Command(_set, "change a parameter: /set temperature 0.2 (or default)", "[NAME [VALUE]]"),
    "/params": Command(_set, "show the parameters and where they come from (or NAME=VALUE)", "[NAME[=VALUE]]"),
    "/lora": Command(_lora, "show or choose LoRA files: /lora NAME:0.5 (or none)", "[NAME[:SCALE]...]"),
    "/tools": Command(_tools, 'let the model call tools: a JSON list as in OpenAI\'s API ("" for none)', "[FILE]"),
    "/result": Command(_result, "what the tool returned that the model called", "TEXT"),
    "/stats": Command(_stats, "show tokens, speed and context; on or off: after each answer", "[on|off]"),
    "/help": Command(_help, "show this list"),
    "/bye": Command(_leave, "leave (same as Ctrl-D, /exit, /quit, exit, quit)"),
    **{name: Command(_leave, "") for name in ("/exit", "/quit", "exit", "quit")},
}  # fmt: skip
