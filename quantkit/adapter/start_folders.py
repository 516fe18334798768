"""Adapters that PiSSA, LoftQ and their like leave beside the one to merge, known by the names of their folders.

Such a training splits the base's weights: a part goes into the adapter, the rest into a residual base. What is saved
in between (``pissa_init``, ``pissa_backup``) is a plain adapter for the residual base. On the original base the part in
the adapter would count twice. Scripts that make the residual base save it in the folder above (``loftq_init`` in it).
"""

from __future__ import annotations

from pathlib import Path

from quantkit.checkpoint.subfolders import START_FOLDERS
from quantkit.errors import AdapterError
from quantkit.system.shell import command

CONVERTED = "pissa_converted"
"""The folder in which LLaMA-Factory saves the adapter for the original base."""
RESIDUAL_FOLDERS = ("pissa_backup", *START_FOLDERS)
CONVERT_HINT = "save it as plain LoRA with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"


def refuse_start(adapter: Path, model: Path) -> None:
    """Refuse an adapter that belongs to a residual base, unless the model is the folder that it lies in.

    Raises:
        AdapterError: its folder's name says so.
    """
    name = adapter.resolve().name
    if name not in RESIDUAL_FOLDERS or adapter.resolve().parent == model.resolve():
        return
    above = adapter.parent
    if converted_beside(adapter) is None and (above / "config.json").is_file():
        hint = f"give the residual base as the model: {command('quantkit', 'build', above, '--adapter', adapter)}"
    else:
        hint = convert_hint(adapter)
    raise AdapterError(
        f"{adapter}: by its name this adapter belongs to a residual base model, and merged into another one its first "
        "values would count twice",
        hint=f"{hint}; if {command(model)} is the residual base, pass {command('--ignore', name)}",
    )


def convert_hint(adapter: Path) -> str:
    """What to do with an adapter for a residual base: the converted one beside it or in it, if there is one."""
    if (converted := converted_beside(adapter)) is not None:
        return f"use the converted adapter: {command('--adapter', converted)}"
    return CONVERT_HINT


def converted_beside(adapter: Path) -> Path | None:
    """The adapter for the original base, beside an adapter or in its folder."""
    for above in (adapter, adapter.parent):
        if (above / CONVERTED / "adapter_config.json").is_file():
            return above / CONVERTED
    return None
