"""The sets of weight files in a folder: which one is read, and whether the others are the same weights.

A folder that was saved into twice has two sets: a single file and shards, shards of two counts, safetensors and
pickles. Only one is read, and which one is a rule of transformers that users do not know. So the others must be the
same weights: the same tensor names, and the same values where some rows of each tensor are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import numpy as np

from quantkit.checkpoint.dtypes import FLOATS, to_float32
from quantkit.checkpoint.ignored import NOTHING, Ignored
from quantkit.checkpoint.lfs import is_lfs_pointer
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.tensor_file import TensorFile, flat_shape
from quantkit.errors import CheckpointError, QuantkitError
from quantkit.files.json_file import read_json
from quantkit.files.visible import can_be_a_name, visible

# Safetensors are preferred to pickles, as in transformers.
KINDS = (("model", "safetensors"), ("pytorch_model", "bin"))
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(safetensors|bin)")
# Buffers that old versions of transformers saved: derived from the config, never weights.
BUFFERS = (".rotary_emb.inv_freq", ".rotary_pos_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
_HEAD = "lm_head.weight"
_DIGITS = "[0-9]" * 5
_ROWS = 4  # compared at each end of a tensor
# The distance of two neighbours in the shorter of two types, relative to the values.
_STEP = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
_LEAST = 2.0**-24  # the smallest F16


@dataclass(frozen=True)
class WeightSet:
    """The files that one save wrote.

    Attributes:
        files: paths, which need not exist if an index lists them.
        index: the index that lists them; None without one.
        missing: names of files that are listed, or counted in the others' names, and are not there.
    """

    files: tuple[Path, ...]
    index: Path | None = None
    missing: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For messages: the file, or the first and the number of them."""
        more = f" ({len(self.files)} files)" if len(self.files) > 1 else ""
        return self.files[0].name + more

    @property
    def pattern(self) -> str:
        """A pattern for :class:`Ignored` that stands for all files."""
        match = SHARD.fullmatch(self.files[0].name)
        if len(self.files) == 1 or match is None:
            return self.files[0].name
        return f"{match['stem']}-*-of-{match['count']}{self.files[0].suffix}"


def weight_sets(folder: Path, ignored: Ignored = NOTHING) -> list[WeightSet]:
    """The sets of weights in a model's folder; the first is the one that is read.

    A single file is preferred to an index, and an index to shards, as in transformers.

    Raises:
        CheckpointError: the index of the first set is broken.
    """
    found = []
    for stem, suffix in KINDS:
        single, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        if single.is_file() and not ignored.covers(single.name):
            found.append(WeightSet((single,)))
        shards = [
            file for file in visible(folder, f"{stem}-{_DIGITS}-of-{_DIGITS}.{suffix}") if not ignored.covers(file.name)
        ]
        if index.is_file() and not ignored.covers(index.name) and _is_sound(index, second=bool(found)):
            listed = tuple(folder / name for name in dict.fromkeys(weight_map(index).values()))
            missing = tuple(file.name for file in listed if not file.is_file())
            if not all(ignored.covers(file.name) for file in listed):
                found.append(WeightSet(listed, index, missing))
            shards = [file for file in shards if file not in listed]
        found += _unlisted(shards)
    return found


def _is_sound(index: Path, *, second: bool) -> bool:
    """Whether an index can be read; that of a set that is not the first does not matter."""
    try:
        return bool(weight_map(index))
    except CheckpointError:
        if second:
            return False
        raise


def _unlisted(shards: Sequence[Path]) -> Iterator[WeightSet]:
    """Shards that no index lists, as one set per count in their names."""
    by_count: dict[str, list[Path]] = {}
    for shard in shards:
        match = SHARD.fullmatch(shard.name)
        assert match is not None
        by_count.setdefault(match["count"], []).append(shard)
    for count, files in by_count.items():
        stem, suffix = files[0].name.partition("-")[0], files[0].suffix
        names = [f"{stem}-{number:05d}-of-{count}{suffix}" for number in range(1, int(count) + 1)]
        have = {file.name for file in files}
        yield WeightSet(tuple(files), None, tuple(name for name in names if name not in have))


def weight_map(index: Path) -> dict[str, str]:
    """The files of an index by tensor.

    Raises:
        CheckpointError: there is no such table, or a file lies outside of the folder.
    """
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index}: weight_map is missing", hint="download the file again")
    for tensor, name in found.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise CheckpointError(f"{index}: tensor {tensor!r} points outside of the folder: {name!r}")
        if not can_be_a_name(name):
            raise CheckpointError(f"{index}: tensor {tensor!r} is in no file: {name[:40]!r} cannot be the name of one")
    return found


def difference(used: WeightSet, other: WeightSet) -> str | None:
    """What distinguishes another set of weights from the one that is read, in a few words; None if nothing does.

    Pickles are only opened if they are newer than the weights that are read: older ones are what those were made from.
    Pickles that cannot be read (pointers of git-lfs, the format before PyTorch 1.6) have no difference to be seen.
    """
    if other.missing:
        # What is left of an index whose files are gone is only its list of names.
        if other.index is not None and not any(file.is_file() for file in other.files):
            return _other_names(set(weight_map(other.index)), _names(used))
        return f"{other.missing[0]} is missing"
    pickled = other.files[0].suffix == ".bin"
    if any(is_lfs_pointer(file) for file in other.files) or (pickled and not all(map(is_zipfile, other.files))):
        return None
    if pickled and other.index is not None and (said := _other_names(set(weight_map(other.index)), _names(used))):
        return said
    if pickled and _written(other) <= _written(used):
        return None
    try:
        with _Opened(used) as ours, _Opened(other) as theirs:
            return _other_names(set(theirs.where), set(ours.where)) or _other_values(ours, theirs)
    except QuantkitError as error:
        return None if pickled else str(error)


def _written(weights: WeightSet) -> int:
    return max(file.stat().st_mtime_ns for file in weights.files)


def _names(weights: WeightSet) -> set[str]:
    if weights.index is not None:
        return set(weight_map(weights.index))
    with _Opened(weights) as opened:
        return set(opened.where)


def _other_names(theirs: set[str], ours: set[str]) -> str | None:
    """A tensor that only one set has. The output head may be left out where it is tied."""
    for name in sorted(theirs ^ ours):
        if name != _HEAD and not name.endswith(BUFFERS):
            return f"only one of them has tensor {name!r}"
    return None


class _Opened:
    """The files of a set, open: ``where`` has each tensor's file by name."""

    def __init__(self, weights: WeightSet) -> None:
        self.files: list[TensorFile] = []
        self.where: Mapping[str, TensorFile] = {}
        try:
            for path in weights.files:
                self.files.append(open_tensor_file(path))
        except BaseException:
            self._close()
            raise
        self.where = {name: file for file in self.files for name in file.specs}

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        for file in self.files:
            file.close()


def _other_values(ours: _Opened, theirs: _Opened) -> str | None:
    """A tensor whose shape or values differ; the first and the last rows are compared."""
    for name in sorted(ours.where.keys() & theirs.where.keys()):
        one, two = ours.where[name], theirs.where[name]
        shape, types = flat_shape(one.specs[name].shape), (one.specs[name].dtype, two.specs[name].dtype)
        if flat_shape(two.specs[name].shape) != shape:
            return f"tensor {name!r} has other shapes"
        if not all(kind in FLOATS for kind in types):
            continue
        rows = shape[0] if shape else 1
        step, least = (0.0, 0.0) if types[0] == types[1] else (max(_STEP[kind] for kind in types), _LEAST)
        for span in {(0, min(_ROWS, rows)), (max(0, rows - _ROWS), rows)}:
            a, b = to_float32(one.read(name, *span)), to_float32(two.read(name, *span))
            if not np.allclose(a, b, rtol=step, atol=least, equal_nan=True):
                return f"tensor {name!r} has other values"
    return None
