"""Progress of long work: silent by default, a progress bar on stderr in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quantkit.system.terminal_text import one_line
from quantkit.system.units import count


class Reporter:
    """A silent reporter that keeps the notes; the default for library callers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        """A phase of *total* units of work; call the value with each amount done, from any thread."""
        yield lambda amount: None

    def note(self, text: str) -> None:
        """Report a decision that the user should see."""
        self.notes.append(text)


class TerminalReporter(Reporter):
    """Notes on stderr and, if stderr is a terminal, a rich progress bar with the remaining time."""

    def __init__(self, *, bar: bool) -> None:
        super().__init__()
        self.bar = bar

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        if not self.bar:
            yield lambda amount: None
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
        import click

        super().note(text)
        click.echo(f"note: {one_line(text)}", err=True)
