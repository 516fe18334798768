"""The head of a journal: whatever decides the bytes of a file, so that only the same file is continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantkit.engine.device import Workers
from quantkit.engine.file_source import ReadFiles
from quantkit.files.fileio import blocks, sha256_of
from quantkit.files.journal import Head
from quantkit.package.plan_entries import versions
from quantkit.plan.values import Output, PlannedTensor

_FORMAT = 1
# Of a file of weights so much is read: more than any header has.
_BEGINNING = 1 << 22
# Libraries that decide bytes besides those of every manifest.
_LIBRARIES = ("numba", "peft", "safetensors")


def journal_heads(
    tensors: Sequence[PlannedTensor], outputs: Sequence[Output], reads: ReadFiles, workers: Workers
) -> dict[str, Head]:
    """The head of each file's journal.

    Args:
        tensors: what is streamed.
        outputs: the files.
        reads: what decides the rows.
        workers: the devices may differ in a bit, and divide tensors differently.

    Raises:
        OSError: a file that is read cannot be read.
    """
    shared = {
        "format": _FORMAT,
        "versions": versions(_LIBRARIES),
        "device": workers.kind,
        "ranges": workers.chunk or 0,
        "inputs": [
            *([path.name, _identity(path)] for path in reads.files),
            *([file.path.name, file.sha256] for file in reads.whole),
        ],
        "settings": list(reads.settings),
    }
    return {output.file: {**shared, "plan": _plan_sum(tensors, output)} for output in outputs}


def difference(old: Head, new: Head) -> str:
    """What distinguishes the head of a journal from the one that a file would get now, in a few words."""
    if old.get("format") != _FORMAT:
        return "it was begun with another version of quantkit"
    for name, version in new["versions"].items():
        if (before := _fields(old, "versions").get(name)) != version:
            return f"it was begun with {name} {before}, and this is {version}"
    if old.get("device") != new["device"]:
        return f"it was begun with --device {old.get('device')}, and this is {new['device']}"
    before, now = (_inputs(head) for head in (old, new))
    for entry in now:
        if entry not in before:
            known = any(entry[0] == other[0] for other in before)
            return f"{entry[0]} has changed since it was begun" if known else f"it was begun without {entry[0]}"
    if before != now or old.get("settings") != new["settings"]:
        return "it was begun with other adapters, or with other weights or another order of them"
    return "it was begun with another plan: other types, importances, metadata or vocabulary"


def _fields(head: Head, key: str) -> dict[str, Any]:
    found = head.get(key)
    return found if isinstance(found, dict) else {}


def _inputs(head: Head) -> list[list[str]]:
    """Name and identity of each file; what a damaged head has instead does not count."""
    found = head.get("inputs")
    return (
        [list(map(str, entry)) for entry in found if isinstance(entry, list) and entry]
        if isinstance(found, list)
        else []
    )


def _identity(path: Path) -> str:
    """Size, time of the last change, and how it begins: where a file of weights has its header."""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {sha256_of(blocks(path, 0, _BEGINNING))}"


def _plan_sum(tensors: Sequence[PlannedTensor], output: Output) -> str:
    """Of all that is known of a file before a weight is read. How rows are arranged follows from config.json, which is
    one of the inputs, and from the version."""
    digest = hashlib.sha256(output.header)
    for tensor in tensors:
        if (slot := output.tensors.get(tensor.name)) is None:
            continue
        outtype, unit = tensor.outtype.label, tensor.unit
        what = [tensor.name, tensor.sources, tensor.shape, outtype, unit, slot.type.label, slot.offset, slot.nbytes]
        digest.update(json.dumps(what).encode())
        for values in (tensor.values, output.importance.get(tensor.name)):
            digest.update(b"-" if values is None else values.tobytes())
    digest.update(str(output.nbytes).encode())
    return digest.hexdigest()
