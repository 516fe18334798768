"""Sums on their way between two processes: exact, with whole counts, which the file of a matrix keeps as floats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.calibrate.sums import Sums

_VALUES, _COUNTS = "values/", "counts/"


def write_sums_file(path: Path, sums: Mapping[str, Sums]) -> None:
    """Write sums by tensor name as .npz, whose name *path* ends with.

    Raises:
        OSError: the disk is full.
    """
    tables: dict[str, Any] = {_VALUES + name: one.values for name, one in sums.items()}
    tables |= {_COUNTS + name: one.counts for name, one in sums.items()}
    np.savez(path, **tables)


def read_sums_file(path: Path) -> dict[str, Sums]:
    """What :func:`write_sums_file` wrote."""
    with np.load(path) as tables:
        names = [key.removeprefix(_VALUES) for key in tables.files if key.startswith(_VALUES)]
        return {name: Sums(tables[_VALUES + name], tables[_COUNTS + name]) for name in names}
