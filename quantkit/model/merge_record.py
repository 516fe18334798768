"""``merged_adapters.json``: a merged folder says which adapters are in it, so that none is merged in twice.

transformers and vLLM do not look at the file. An adapter is known by the sha256 of its weights, under whatever name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.adapter.folder import Adapter
from quantkit.engine.file_source import HashedFile
from quantkit.errors import AdapterError, CheckpointError
from quantkit.files.json_fields import Fields
from quantkit.files.json_file import SCHEMA, read_json, write_json
from quantkit.files.replaceable import Mark
from quantkit.hub.files import MERGED_ADAPTERS
from quantkit.hub.source import source_label
from quantkit.model.adapter_effect import AdapterEffect

MERGED_MARK = Mark(MERGED_ADAPTERS, ("schema", "base", "adapters"))
AGAIN = "to add it all the same, pass --merge-again"


@dataclass(frozen=True)
class MergedAdapter:
    """An adapter in a merged folder. A field is a key of the file.

    Attributes:
        file: name of its weight file.
        size: bytes of the file.
        sha256: of the file.
        effect: what it changed.
    """

    file: str
    size: int
    sha256: str
    effect: AdapterEffect

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"file": self.file, "size": self.size, "sha256": self.sha256, "effect": self.effect.to_json()}

    @classmethod
    def from_json(cls, found: Fields) -> MergedAdapter:
        """What :meth:`to_json` wrote."""
        effect = AdapterEffect.from_json(found.fields("effect"))
        return cls(found.text("file"), found.size("size"), found.text("sha256"), effect)


@dataclass(frozen=True)
class MergeRecord:
    """What was merged into a folder.

    Attributes:
        base: where the first base came from: an id, or the name of a folder; empty if nothing was merged.
        adapters: in the order in which they were merged.
    """

    base: str = ""
    adapters: tuple[MergedAdapter, ...] = ()


def read_merge_record(folder: Path) -> MergeRecord:
    """The record of a folder; an empty one if it has none.

    Raises:
        CheckpointError: the file is not as :func:`write_merge_record` writes it.
    """
    path = folder / MERGED_ADAPTERS
    if not path.exists():
        return MergeRecord()
    try:
        found = Fields(read_json(path))
        return MergeRecord(found.text("base"), tuple(map(MergedAdapter.from_json, found.each("adapters"))))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {error}", hint="take the file of the original folder; without it, nothing is known of merges"
        ) from None


def write_merge_record(
    folder: Path, base: Path, adapters: Sequence[Adapter], effects: Sequence[AdapterEffect]
) -> MergeRecord:
    """Write the record of a new merge: what the base's record has, and these adapters.

    Args:
        folder: the merged folder.
        base: the base's folder.
        adapters: what was merged.
        effects: what they changed.
    """
    before = read_merge_record(base)
    new = tuple(
        MergedAdapter(file.path.name, file.path.stat().st_size, file.sha256, effect)
        for adapter, effect in zip(adapters, effects, strict=True)
        for file in (adapter.weights_file,)
    )
    record = MergeRecord(before.base or source_label(base), (*before.adapters, *new))
    write_json(
        folder / MERGED_ADAPTERS,
        {"schema": SCHEMA, "base": record.base, "adapters": [adapter.to_json() for adapter in record.adapters]},
    )
    return record


def check_merged_before(base: Path, adapters: Sequence[Adapter]) -> None:
    """Refuse an adapter that is given twice, or that the base's record has. One with a negative weight takes away.

    Raises:
        AdapterError: naming it, and where it was merged before.
    """
    adding = [adapter for adapter in adapters if adapter.weight > 0]
    for number, adapter in enumerate(adding):
        for other in adding[:number]:
            if _same_file(adapter.weights_file, other.weights_file):
                again = "twice" if adapter.path == other.path else f"twice, the other time as {other.path}"
                raise AdapterError(
                    f"{adapter.path}: the adapter is given {again}: it would be added two times",
                    hint=f"leave one of them out; {AGAIN}",
                )
    for adapter, known in _in_record(base, adding):
        raise AdapterError(
            f"{adapter.path}: the adapter is part of {base} already: {MERGED_ADAPTERS} there has it as "
            f"{known.effect.adapter}",
            hint=f"leave it out, or give the base without it; {AGAIN}",
        )


def _in_record(base: Path, adapters: Sequence[Adapter]) -> Iterator[tuple[Adapter, MergedAdapter]]:
    record = read_merge_record(base)
    for adapter in adapters:
        file = adapter.weights_file
        for known in record.adapters:
            if known.effect.weight > 0 and known.size == file.path.stat().st_size and known.sha256 == file.sha256:
                yield adapter, known


def _same_file(one: HashedFile, other: HashedFile) -> bool:
    """Whether two files are the same; their contents are only read if their sizes are."""
    if one.path.samefile(other.path):
        return True
    return one.path.stat().st_size == other.path.stat().st_size and one.sha256 == other.sha256
