"""Errors for files and folders that are not a Hugging Face checkpoint: which format was found, and what to do.

Publishers put several formats of one model into one folder. If the folder has weights in Hugging Face's format, those
are read and the others ignored; if not, the error names the format that was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantkit.checkpoint.copies import copy_of
from quantkit.checkpoint.known_files import Place, matches, rows
from quantkit.checkpoint.weight_sets import weight_sets
from quantkit.errors import CheckpointError
from quantkit.files.visible import visible
from quantkit.system.shell import command

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_SHOWN = 5  # names of folders in a message
# llama3:8b, library/llama3:8b; a single letter before the colon is a drive of Windows.
_OLLAMA_NAME = re.compile(r"(?:[\w.-]+/)*[\w.-]{2,}:[\w.-]+")


def refuse_file(path: Path) -> CheckpointError:
    """The error for a file where a model folder is expected."""
    if path.suffix == ".gguf":
        return CheckpointError(
            f"{path}: this is a GGUF file, not a checkpoint folder",
            hint=f"{_quantize(path)}, or {command('quantkit', 'package', path, '-o', 'DIR')}",
        )
    return CheckpointError(
        f"{path}: this is a file, not a checkpoint folder",
        hint=folder_of_file(path, "config.json"),
    )


def folder_of_file(path: Path, config: str) -> str:
    """The hint for a file where a folder with a file *config* is expected."""
    if path.name.lower().endswith(_ARCHIVES):
        return "unpack it first, and give the folder"
    if (path.parent / config).is_file():
        return f"give the folder {command(path.parent)}"
    return f"give the folder that contains {config}"


def refuse_missing(path: Path) -> CheckpointError:
    """The error for a path where there is nothing, neither here nor, by its form, on a hub."""
    if _OLLAMA_NAME.fullmatch(str(path)):
        return CheckpointError(
            f"{path}: no such folder; it looks like the name of a model in Ollama, which has quantized files only",
            hint="give the Hugging Face checkpoint of that model, its folder or its id such as Qwen/Qwen2.5-0.5B",
        )
    return CheckpointError(
        f"{path}: no such folder",
        hint="give the folder that contains config.json and the .safetensors files, or a Hugging Face id such as "
        "Qwen/Qwen2.5-0.5B",
    )


def refuse_format(path: Path, missing: str, hint: str) -> CheckpointError:
    """The error for a folder that does not have the files of a checkpoint.

    Args:
        path: the folder.
        missing: what is missing.
        hint: the hint if the folder has no other format either.
    """
    if not (path / "config.json").is_file() and (below := folders_below(path, "config.json")):
        return CheckpointError(f"{path}: {missing}; {_listed(path, below)}", hint=_give(below))
    if not weight_sets(path) and (other := other_format(path, "model")) is not None:
        return CheckpointError(f"{path}: {missing}; the folder has only {other[0]}", hint=other[1])
    return CheckpointError(f"{path}: {missing}", hint=give_hint(path, "config.json", hint))


def other_format(path: Path, place: Place) -> tuple[str, str] | None:
    """What a folder without weights has in their place, with the name of a file, and what to do; None if nothing."""
    names = _names(path)
    for row in rows(place):
        if row.role not in ("alone", "refused"):
            continue
        if found := [name for name in names if any(matches(names[name], pattern) for pattern in row.patterns)]:
            name = next(_inside(path, found[0]), found[0])
            hint = row.hint.replace("{quantize}", _quantize(path / name)).replace("{folder}", command(path))
            # the parts may be in a folder of their own
            return f"{row.what} ({name})", hint.replace("{state}", command((path / name).parent))
    return None


def _names(path: Path) -> dict[str, str]:
    """The files and folders, hidden ones last, and the files one level down; each with its bare name to match."""
    here = sorted(path.iterdir(), key=lambda one: (one.name.startswith("."), one.name))
    names = {one.name + "/" * one.is_dir(): one.name + "/" * one.is_dir() for one in here}
    below = (file for one in here if one.is_dir() for file in visible(one, "*") if file.is_file())
    return names | {str(file.relative_to(path)): file.name for file in below}


def _inside(path: Path, name: str) -> Iterator[str]:
    """The files of a folder *name* in *path*, relative to *path*; none if it is a file."""
    if name.endswith("/"):
        yield from (str(file.relative_to(path)) for file in visible(path / name, "*") if file.is_file())


def folders_below(path: Path, config: str) -> list[Path]:
    """The folders with a file *config* one level down, or in the snapshots of a hub client's cache."""
    snapshots = path / "snapshots"
    above = snapshots if snapshots.is_dir() else path
    # checkpoint-500 comes before checkpoint-1000
    order = sorted(visible(above, "*"), key=lambda one: re.sub(r"\d+", lambda n: n[0].zfill(12), one.name))
    return [one for one in order if (one / config).is_file()]


def give_hint(path: Path, config: str, hint: str) -> str:
    """The hint for a folder without *config*: a copy of it, the folders below that have it, else *hint*."""
    if (copy := copy_of(config, (file.name for file in visible(path, "*")))) is not None:
        return f"{copy} is there: name it {config}, if it is the one that was saved with the weights"
    below = folders_below(path, config)
    return _give(below) if below else hint


def _listed(path: Path, below: Sequence[Path]) -> str:
    return "there is one in " + ", ".join(str(one.relative_to(path)) for one in below[:_SHOWN])


def _give(below: Sequence[Path]) -> str:
    """The last one is the newest of a training."""
    others = "" if len(below) == 1 else f" (or another of the {len(below)} folders)"
    return f"give {command(below[-1])}{others}"


def _quantize(gguf: Path) -> str:
    return command("quantkit", "quantize", gguf, "--quant", "q4_0", "-o", "OUT.gguf")
