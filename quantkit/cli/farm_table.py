"""A farm at work, on stderr: a table that is drawn again and again in a terminal, lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quantkit.farm.events import Events
from quantkit.farm.values import BUILT, FAILED, KEPT, Failure, Item, Needs, Outcome
from quantkit.system.terminal_text import one_line
from quantkit.system.units import size

# Rows besides those of running builds: the last that ended.
_LAST = 8
_STYLES = {BUILT: "green", KEPT: "cyan", FAILED: "bold red"}


class Lines(Events):
    """A line for what people wait for."""

    def __init__(self) -> None:
        self._left = 0

    def start(self, items: Sequence[Item], nodes: Sequence[str]) -> None:
        self._left = len(items)
        _say(f"{len(items)} builds on {', '.join(nodes)}")

    def nodes(self, present: Sequence[str], gone: Sequence[str]) -> None:
        _say(f"nodes: {', '.join(present)}" + (f"; gone: {', '.join(gone)}" if gone else ""))

    def begun(self, item: Item, node: str, attempt: int) -> None:
        _say(f"{item.label}: begun on {node}" + (f", attempt {attempt}" if attempt > 1 else ""))

    def retried(self, item: Item, node: str, failure: Failure) -> None:
        _say(f"{item.label}: again, because {failure.message}")

    def ended(self, outcome: Outcome) -> None:
        self._left -= 1
        why = f": {outcome.failure.message}" if outcome.failure else ""
        _say(f"{outcome.label}: {outcome.state} after {outcome.seconds:.1f} s, {self._left} to go{why}")


def _say(text: str) -> None:
    click.echo(one_line(text), err=True)


@dataclass
class _Row:
    """A build that is running."""

    label: str
    node: str
    begun: float
    phase: str = ""


class LiveTable(Events):
    """The builds that are running and the last that ended; also a value that rich draws."""

    def __init__(self) -> None:
        self._running: dict[int, _Row] = {}
        self._ended: list[Outcome] = []
        self._keys: dict[str, int] = {}
        self._planned = 0
        self._nodes: Sequence[str] = ()

    def start(self, items: Sequence[Item], nodes: Sequence[str]) -> None:
        self._keys = {item.label: item.key for item in items}
        self._nodes = nodes

    def nodes(self, present: Sequence[str], gone: Sequence[str]) -> None:
        self._nodes = present

    def planned(self, item: Item, needs: Needs) -> None:
        self._planned += 1

    def begun(self, item: Item, node: str, attempt: int) -> None:
        self._running[item.key] = _Row(item.label, node, monotonic(), f"attempt {attempt}" if attempt > 1 else "")

    def phase(self, item: Item, name: str, share: float) -> None:
        if (row := self._running.get(item.key)) is not None:
            row.phase = f"{name} {share:.0%}"

    def retried(self, item: Item, node: str, failure: Failure) -> None:
        self._running.pop(item.key, None)

    def ended(self, outcome: Outcome) -> None:
        self._running.pop(self._keys[outcome.label], None)
        self._ended.append(outcome)

    def __rich__(self) -> Table:
        counts = {state: sum(one.state == state for one in self._ended) for state in (BUILT, KEPT, FAILED)}
        total, ended = len(self._keys), len(self._ended)
        words = ", ".join(f"{count} {state}" for state, count in counts.items())
        caption = f"{ended} of {total}: {words}; {self._planned} planned; {len(self._nodes)} nodes"
        table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
        for column in ("build", "state", "node", "seconds"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for outcome in self._ended[-_LAST:]:
            what = outcome.failure.message if outcome.failure else f"{outcome.state}  {size(outcome.size)}"
            style = _STYLES[outcome.state]
            table.add_row(*_cells(outcome.label, what, outcome.node, outcome.seconds, style))
        for row in self._running.values():
            table.add_row(*_cells(row.label, row.phase or "running", row.node, monotonic() - row.begun, ""))
        return table


def _cells(label: str, state: str, node: str, seconds: float, style: str) -> tuple[Text, ...]:
    """As texts, in which nothing is markup."""
    return Text(one_line(label)), Text(one_line(state), style), Text(one_line(node)), Text(f"{seconds:.1f}")


@contextmanager
def live_table() -> Iterator[LiveTable]:
    """A table on stderr, which is gone at the end: the summary follows."""
    table = LiveTable()
    with Live(table, console=Console(stderr=True), refresh_per_second=4, transient=True):
        yield table
