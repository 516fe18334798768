"""All readers, and the inputs that are kept for them."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tests.support.fuzz import readers
from tests.support.fuzz.reader import Reader

CORPUS = Path(__file__).parents[2] / "faults" / "corpus"


def names() -> list[str]:
    """The names of all readers; none is imported."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(readers.__path__))


def load(name: str) -> Reader:
    """A reader by its name."""
    module = importlib.import_module(f"{readers.__name__}.{name.replace('-', '_')}")
    reader: Reader = module.READER
    assert reader.name == name
    return reader


def kept(name: str) -> list[Path]:
    """The files of a reader's corpus."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())
