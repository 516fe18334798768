"""Progress of long work: silent by default, a progress bar on stderr in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from quantkit.system.terminal_text import fitted, one_line
from quantkit.system.units import count


class Reporter:
    """A silent reporter that keeps the notes; the default for library callers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @property
    def draws(self) -> bool:
        """Whether there is a terminal, in which a library may draw its own bars."""
        return False

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        """A phase of *total* units of work; call the value with each amount done, from any thread."""
        yield lambda amount: None

    def note(self, text: str) -> None:
        """Report a decision that the user should see."""
        self.notes.append(text)


# Seconds in a pipe: short work says nothing there, and long work should not fill a log.
_FIRST_LINE, _NEXT_LINE = 10.0, 30.0


class TerminalReporter(Reporter):
    """Notes on stderr, with a rich progress bar in a terminal and lines for phases that last long in a pipe."""

    def __init__(self, *, bar: bool) -> None:
        super().__init__()
        self.bar = bar

    @property
    def draws(self) -> bool:
        return self.bar

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        if not self.bar:
            lines = _Lines(name, total, unit)
            yield lines.advance
            lines.end()
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[done]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=total, done="")

            def advance(amount: int) -> None:
                bar.advance(task, amount)
                finished = bar.tasks[task].completed
                bar.update(task, done=f"{count(finished)} of {count(total)} {unit}")

            yield advance

    def note(self, text: str) -> None:
        super().note(text)
        width = shutil.get_terminal_size().columns if self.bar else None
        _say(fitted(f"note: {text}", width, "  "))


class _Lines:
    """What a log shows of a phase."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._begun = monotonic()
        self._next = _FIRST_LINE
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, amount: int) -> None:
        """Count what was done, from any thread, and print a line if it is time."""
        with self._lock:
            self._done += amount
            if (seconds := monotonic() - self._begun) >= self._next:
                self._next = seconds + _NEXT_LINE
                self._print(f"{count(self._done)} of {count(self._total)} {self._unit} after {seconds:.0f} s")

    def end(self) -> None:
        """Print the last line of a phase that lasted long."""
        if (seconds := monotonic() - self._begun) >= _FIRST_LINE:
            self._print(f"{count(self._total)} {self._unit} in {seconds:.0f} s")

    def _print(self, text: str) -> None:
        _say(one_line(f"{self._name}: {text}"))


def _say(text: str) -> None:
    """Print a line on stderr; where that cannot be written (a log on a full disk), the work goes on without it."""
    import click

    with suppress(OSError):
        click.echo(text, err=True)
