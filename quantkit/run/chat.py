"""The conversation at the terminal: reads a line, streams an answer, remembers both.

Works on streams that are given to it, so the same loop serves a terminal (a prompt, line editing, Ctrl-C handled) and
a pipe (each line of the input is one turn, the answers are the output and nothing else is).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TextIO

from quantkit.errors import QuantkitError
from quantkit.run.options import SamplingOptions, chat_sampling, number
from quantkit.run.package import RunnablePackage
from quantkit.run.session import ChatModel

PROMPT = ">>> "
GREETING = "Ctrl-D or /bye ends the chat, Ctrl-C stops an answer."
HOW_TO_LEAVE = "(Ctrl-D or /bye ends the chat)"
CONTEXT_FULL = "(the context is full, so the answer was cut)"


@dataclass(frozen=True)
class Settings:
    """How answers are generated.

    Attributes:
        sampling: how tokens are chosen.
        max_tokens: the longest answer; None is up to the end of the context.
        stops: texts that end an answer.
    """

    sampling: SamplingOptions
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadOptions:
    """How the model is loaded: tokens of context, CPU threads, layers on the GPU; None leaves it to llama.cpp."""

    n_ctx: int | None
    threads: int | None
    n_gpu_layers: int | None


def load_options(parameters: Mapping[str, str]) -> LoadOptions:
    """What num_ctx, num_thread and num_gpu of a package ask for.

    Raises:
        QuantkitError: a value is not a whole number.
    """

    def value(name: str) -> int | None:
        return int(number(name, parameters[name], integer=True)) if name in parameters else None

    return LoadOptions(n_ctx=value("num_ctx"), threads=value("num_thread"), n_gpu_layers=value("num_gpu"))


def chat_settings(model: ChatModel, package: RunnablePackage) -> Settings:
    """The package's settings, else the model's own, else llama.cpp's defaults.

    Parameters that change how Ollama runs a model but not what it answers (num_batch, main_gpu, num_keep, use_mmap)
    have no meaning here.

    Raises:
        QuantkitError: a parameter is not a number.
    """
    sampling = chat_sampling(model.engine.metadata, package.parameters)
    limit = package.parameters.get("num_predict")
    max_tokens = None if limit is None else int(number("num_predict", limit, integer=True))
    if max_tokens is not None and max_tokens < 0:  # Ollama's way to say: as long as it takes
        max_tokens = None
    return Settings(sampling=sampling, max_tokens=max_tokens, stops=package.stops)


@dataclass
class Conversation:
    """What was said so far. The system prompt stands apart, so that it can outlive the rest."""

    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation as a chat template wants it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns]


class ChatLoop:
    """Turns of a conversation between a person (or a pipe) and a model."""

    def __init__(
        self, model: ChatModel, settings: Settings, conversation: Conversation, *, out: TextIO, err: TextIO
    ) -> None:
        """Prepare a loop.

        Args:
            model: the model that answers.
            settings: how it answers.
            conversation: what was said before; the turns are added to it.
            out: where answers go.
            err: where everything else goes.
        """
        self.model = model
        self.settings = settings
        self.conversation = conversation
        self.out = out
        self.err = err

    def run_terminal(self, read: Callable[[str], str]) -> None:
        """Talk to a person until they leave.

        Args:
            read: shows a prompt and returns a line, as :func:`input` does.
        """
        self._say(GREETING)
        while True:
            try:
                line = read(PROMPT)
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say(f"\n{HOW_TO_LEAVE}")
                continue
            try:
                if not self._handle(line, stoppable=True):
                    return
            except QuantkitError as error:
                self._say(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))

    def run_lines(self, lines: Iterable[str]) -> None:
        """Answer each line in turn, in one conversation.

        Raises:
            QuantkitError: an answer cannot be had.
            KeyboardInterrupt: Ctrl-C ends all of it: there is nobody to go on with.
        """
        for line in lines:
            if not self._handle(line, stoppable=False):
                return

    def _handle(self, line: str, *, stoppable: bool) -> bool:
        text = line.strip()
        if not text:
            return True
        name, _, rest = text.partition(" ")
        if name in COMMANDS and (rest == "" or name in COMMANDS_WITH_ARGUMENT):
            return COMMANDS[name](self, rest.strip())
        self._answer(text, stoppable=stoppable)
        return True

    def _answer(self, text: str, *, stoppable: bool) -> None:
        turns = self.conversation.turns
        turns.append({"role": "user", "content": text})
        parts: list[str] = []
        try:
            for piece in self.model.stream(
                self.conversation.messages,
                max_tokens=self.model.n_ctx if self.settings.max_tokens is None else self.settings.max_tokens,
                stops=self.settings.stops,
                **self.settings.sampling,
            ):
                parts.append(piece)
                self.out.write(piece)
                self.out.flush()
        except KeyboardInterrupt:
            if not stoppable:
                raise
        except QuantkitError:
            turns.pop()
            raise
        self.out.write("\n")
        self.out.flush()
        if parts:
            turns.append({"role": "assistant", "content": "".join(parts)})
        else:
            # A question without an answer would be followed by another question, which templates refuse.
            turns.pop()
        if (stats := self.model.last_stats) and stats.context_full:
            self._say(CONTEXT_FULL)

    def _say(self, text: str) -> None:
        self.err.write(f"{text}\n")
        self.err.flush()


Command = Callable[[ChatLoop, str], bool]
"""Does something with the loop and the text behind the command's name; says whether the chat goes on."""


def _leave(loop: ChatLoop, argument: str) -> bool:
    return False


COMMANDS: dict[str, Command] = {"/bye": _leave, "exit": _leave}
COMMANDS_WITH_ARGUMENT: frozenset[str] = frozenset()
"""Commands that take text; the others are commands only when they stand alone, so "exit strategy?" is a question."""


def enable_line_editing() -> None:
    """Let :func:`input` edit the line with the arrow keys and remember earlier ones, where the system can."""
    with suppress(ImportError):  # Windows has no readline; its console edits lines itself
        import readline  # noqa: F401


def start_conversation(package: RunnablePackage, system: str | None) -> Conversation:
    """A new conversation with the system prompt given, else the package's; "" means none."""
    return Conversation(system=package.system if system is None else system)


__all__: Sequence[str] = (
    "COMMANDS",
    "ChatLoop",
    "Conversation",
    "LoadOptions",
    "Settings",
    "chat_settings",
    "enable_line_editing",
    "load_options",
    "start_conversation",
)
