"""Inputs of a reader that take long to make, kept from session to session while what makes them is the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.fuzz.reader import Reader

SUPPORT = Path(__file__).resolve().parents[1]
PLACE = SUPPORT.parents[1] / "build" / "fuzz-seeds"


def further(reader: Reader, place: Path = PLACE) -> Sequence[bytes]:
    """What ``reader.more`` makes; from a folder in *place*, if it has made it with the same files of tests/support."""
    folder = place / f"{reader.name}-{_sources()}"
    if not folder.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as made:
            inner = Path(made, "made")
            inner.mkdir()
            for number, data in enumerate(reader.more()):
                (inner / f"{number:03d}").write_bytes(data)
            for older in place.glob(f"{reader.name}-{'?' * 16}"):
                shutil.rmtree(older)
            os.replace(inner, folder)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def _sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(SUPPORT.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
