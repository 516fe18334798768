"""A chat whose typing and streams are a test's."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

from quantkit.run.chat import GREETING, ChatLoop
from quantkit.run.history import History
from quantkit.run.prompt_input import MORE, PROMPT
from quantkit.run.screen import Screen
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.run.transcript import Conversation

GREEDY = Settings(sampling={"temperature": 0.0})


class Loop(ChatLoop):
    """A loop whose streams are looked at."""

    def __init__(
        self,
        model: ChatModel,
        settings: Settings = GREEDY,
        system: str | None = None,
        out: io.StringIO | None = None,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        self.out, self.err = out or io.StringIO(), io.StringIO()
        super().__init__(model, settings, Conversation(system=system), Screen(self.out, self.err), origins)

    def terminal(self, *lines: str | BaseException) -> str:
        """Has *lines* typed, then Ctrl-D; returns what was said besides answers."""
        before = len(self.err.getvalue())
        self.run_terminal(typing(*lines), History(None).add)
        return self.err.getvalue()[before:].removeprefix(GREETING + "\n").removesuffix("\n")


def typing(*lines: str | BaseException) -> Callable[[str], str]:
    """What input() would return or raise, in turn; Ctrl-D when there is no more."""
    rest = list(lines)

    def read(prompt: str) -> str:
        assert prompt in (PROMPT, MORE)
        if not rest:
            raise EOFError
        line = rest.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    return read


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


class CtrlCAfter(io.StringIO):
    """A terminal whose user presses Ctrl-C when a text was shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def flush(self) -> None:
        if self.getvalue() == self._text:
            self._text = "never again"
            raise KeyboardInterrupt
