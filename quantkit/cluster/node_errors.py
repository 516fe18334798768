"""Errors of a node's own, as answers of its work: a user who reads them sits at another machine."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import QuantkitError


def disk_error(place: Path, error: OSError) -> QuantkitError:
    """Of temporary files on the node.

    Args:
        place: what is shown where the error names no file.
        error: the system's.
    """
    return QuantkitError(
        f"{error.filename or place}: {error.strerror or error}",
        hint="free space on the node's disk, or start Ray there with TMPDIR on another",
    )
