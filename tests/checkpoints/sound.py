"""The sound folders that recipes break."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from quantkit.jobs.convert import convert
from tests.checkpoints.case import Case, write_adapter
from tests.checkpoints.defect import Base

_TINY = {"hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2}


def make_sound(root: Path, base: Base, checkpoint: Callable[..., Path]) -> Case:
    """A tiny checkpoint, an adapter of it, and its F16 file.

    Args:
        root: an empty folder.
        base: which checkpoint.
        checkpoint: makes one of a kind, with ``make_checkpoint``'s options.
    """
    case = Case(root)
    shutil.copytree(checkpoint(base.kind, **{**_TINY, **base.options}), case.model)
    write_adapter(case.adapter, case.model)
    convert(case.model, case.gguf, device="cpu")
    return case


def copy_of(sound: Case, root: Path) -> Case:
    """A copy that may be broken."""
    case = Case(root)
    shutil.copytree(sound.root, case.root)
    case.outputs.mkdir()
    return case
