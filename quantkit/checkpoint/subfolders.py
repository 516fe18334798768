"""What a folder in the folder of a model or an adapter is: by its name, or by the files in it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from quantkit.checkpoint.file_entry import Asked, FileEntry
from quantkit.checkpoint.known_files import Known, known
from quantkit.hub.tokenizer_files import VOCABULARIES, matches
from quantkit.system.shell import command

START_FOLDERS = ("pissa_init", "loftq_init", "olora_init", "corda_init", "eva_init", "lora_ga_init")
"""Adapters that training begins with: they are merged only as a part of what was trained from them."""
# Adapters that TRL compares with in training.
_REFERENCES = ("reference", "ref")
_STEPS = ("checkpoint-", "checkpoint_", "step-", "step_", "epoch-", "epoch_", "epoch")
_TEMPLATES = ("*.jinja", "chat_template*")


def folder_entry(folder: Asked, name: str) -> FileEntry:
    """The entry of a folder.

    Args:
        folder: the folder that it is in.
        name: its name.
    """
    path, label = folder.path / name, f"{name}/"
    row = known(label, folder.place)
    if row is not None:
        if name == "._____temp" and not any(file.is_file() for file in path.rglob("*")):
            return FileEntry(label, "harmless", "an empty folder of ModelScope")
        if name == ".cache" and (left := next(path.rglob("*.incomplete"), None)) is not None:
            return FileEntry(
                f"{left.relative_to(folder.path).as_posix()}",
                "refused",
                "an unfinished download of Hugging Face's client",
                "run hf download again; if the folder is complete, delete this file",
                cut_off=True,
            )
        return FileEntry(label, row.role, row.what, row.hint, cut_off=row.cut_off)
    try:
        inner = [one.name for one in path.iterdir() if not one.name.startswith(".") and one.is_file()]
    except OSError:
        return FileEntry(label, "unknown", "a folder that cannot be read")
    return _by_content(folder, label, path, inner)


def _by_content(folder: Asked, label: str, path: Path, inner: Collection[str]) -> FileEntry:
    if path.resolve() in folder.given:
        return FileEntry(label, "read", "an adapter that is merged")
    weights = [name for name in inner if (row := known(name, "model")) and _is_tensors(name, row)]
    step = label.lower().startswith(_STEPS)
    if "adapter_config.json" in inner:
        return _adapter_below(folder, label, path, step)
    if "config.json" in inner and weights:
        what = "a checkpoint of the same training" if step else "a model of its own"
        return FileEntry(label, "harmless", what, note=f"{label} has {what}, which is passed over")
    if weights:
        return FileEntry(
            label,
            "refused",
            f"a folder with tensors that would be passed over ({min(weights)})",
            "if they belong to the model, save it again with save_pretrained, which writes them into one folder",
        )
    if any((row := known(name, "model")) is not None and row.role == "alone" for name in inner):
        return FileEntry(label, "alone", "other formats or training state")
    if found := [name for name in inner if matches(name, VOCABULARIES)]:
        return _tokenizer_below(folder, label, path, found)
    if found := [name for name in inner if matches(name, _TEMPLATES)]:
        return FileEntry(
            label,
            "refused",
            f"a folder with a chat template that would be passed over ({min(found)})",
            "if the model was trained with it, pass --template FILE",
        )
    return FileEntry(label, "harmless", "a folder without weights, tokenizers and adapters")


def _is_tensors(name: str, row: Known) -> bool:
    return row.role == "refused" and name.endswith((".safetensors", ".bin"))


def _adapter_below(folder: Asked, label: str, path: Path, step: bool) -> FileEntry:
    name = label.rstrip("/")
    if step and (folder.place == "adapter" or folder.merges_own):
        return FileEntry(label, "harmless", "an earlier step of the adapter's training")
    if folder.place == "adapter" and (name in _REFERENCES or name.startswith("pissa_") or name in START_FOLDERS):
        return FileEntry(label, "harmless", "an adapter that training began with or compared with")
    if folder.given and name in START_FOLDERS:
        return FileEntry(label, "harmless", "the adapter that training began with")
    return FileEntry(
        label,
        "refused",
        "an adapter that would be passed over",
        f"pass {command('--adapter', path)} to merge it; if it is merged already or not meant, pass "
        f"{command('--ignore', name)}",
    )


def _tokenizer_below(folder: Asked, label: str, path: Path, found: Collection[str]) -> FileEntry:
    """A folder with a tokenizer: harmless if it is a copy of the one that is read."""
    for name in found:
        own = folder.path / name
        if not own.is_file() or own.read_bytes() != (path / name).read_bytes():
            return FileEntry(
                label,
                "refused",
                f"a folder with a tokenizer that would be passed over ({name})",
                f"if it is the model's, copy its files into {command(folder.path)}",
            )
    return FileEntry(label, "harmless", "a copy of the tokenizer")
