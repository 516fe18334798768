"""The summary of a campaign."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.campaign.trials import BAD, Row

_COLUMNS = ("kind", "tried", "done", "refused", "ended", "cleared", *BAD)


def table(rows: Sequence[Row], seed: int, seconds: float) -> str:
    """A Markdown table with a row for each kind of fault, over all subjects, and one for each subject's kills."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    lines = [_line(_COLUMNS), _line(("---", *["---:"] * (len(_COLUMNS) - 1)))]
    lines += [_line(_sums(kind, of_kind)) for kind, of_kind in kinds.items()]
    lines.append(_line(_sums("all", rows)))
    return "\n".join([*lines, "", f"seed {seed}, {seconds / 60:.1f} minutes"])


def _sums(kind: str, rows: Sequence[Row]) -> tuple[str, ...]:
    counted = [sum(getattr(row, name) for row in rows) for name in _COLUMNS[1:6]]
    return (kind, *map(str, [*counted, *(sum(row.count(bad) for row in rows) for bad in BAD)]))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
