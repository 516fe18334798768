"""What happens in a farm, as it happens: for a table, and for a log of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from quantkit.errors import OutputError
from quantkit.farm.values import Failure, Item, Needs, Outcome


class Events:
    """Hears of everything, and says nothing."""

    def start(self, items: Sequence[Item], nodes: Sequence[str]) -> None:
        """The farm begins."""

    def nodes(self, present: Sequence[str], gone: Sequence[str]) -> None:
        """Nodes came or went."""

    def planned(self, item: Item, needs: Needs) -> None:
        """A build waits for its node."""

    def begun(self, item: Item, node: str, attempt: int) -> None:
        """A node begins a build."""

    def phase(self, item: Item, name: str, share: float) -> None:
        """A build goes on; *share* from 0 to 1."""

    def retried(self, item: Item, node: str, failure: Failure) -> None:
        """An attempt failed, and another follows."""

    def ended(self, outcome: Outcome) -> None:
        """A build has ended."""


class Both(Events):
    """Several that hear the same."""

    def __init__(self, *others: Events) -> None:
        self._others = others

    def start(self, items: Sequence[Item], nodes: Sequence[str]) -> None:
        for other in self._others:
            other.start(items, nodes)

    def nodes(self, present: Sequence[str], gone: Sequence[str]) -> None:
        for other in self._others:
            other.nodes(present, gone)

    def planned(self, item: Item, needs: Needs) -> None:
        for other in self._others:
            other.planned(item, needs)

    def begun(self, item: Item, node: str, attempt: int) -> None:
        for other in self._others:
            other.begun(item, node, attempt)

    def phase(self, item: Item, name: str, share: float) -> None:
        for other in self._others:
            other.phase(item, name, share)

    def retried(self, item: Item, node: str, failure: Failure) -> None:
        for other in self._others:
            other.retried(item, node, failure)

    def ended(self, outcome: Outcome) -> None:
        for other in self._others:
            other.ended(outcome)


class Log(Events):
    """A file to which every event is added as a line of JSON, and which is complete up to the last one at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: IO[str] = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error})", hint="choose another file with --log"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, event: str, **values: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror or error})", hint="choose another file with --log"
            ) from None

    def start(self, items: Sequence[Item], nodes: Sequence[str]) -> None:
        self._write("start", schema=1, builds=len(items), nodes=list(nodes))

    def nodes(self, present: Sequence[str], gone: Sequence[str]) -> None:
        self._write("nodes", nodes=list(present), gone=list(gone))

    def planned(self, item: Item, needs: Needs) -> None:
        wanted = {"threads": needs.threads, "memory": needs.memory, "cards": needs.cards, "disk": needs.disk}
        self._write("planned", build=item.label, **wanted)

    def begun(self, item: Item, node: str, attempt: int) -> None:
        self._write("begun", build=item.label, node=node, attempt=attempt)

    def retried(self, item: Item, node: str, failure: Failure) -> None:
        self._write("retried", build=item.label, node=node, error=failure.to_json())

    def ended(self, outcome: Outcome) -> None:
        self._write(outcome.state, **outcome.to_json())
