"""The parts of a split GGUF model as the bytes of one input; changes of the parts beside those of each file."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from quantkit.gguf.split import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS, part_name
from tests.support.fuzz.mutate_gguf import Entry, GgufMutator, put_together, take_apart
from tests.support.fuzz.parts import is_name

File = tuple[str, bytes]

_MARK = b"PARTS\0"
_SIZES = struct.Struct("<BI")
_INT16, _INT32 = 2, 5
_STEM = "m"
_NUMBERS = (0, 1, 2, 3, 4, 255, 32767, 32768, 65535, -1)


def framed(files: Sequence[File]) -> bytes:
    """Files as one input; the first is the one that is given to readers."""
    out = [_MARK]
    for name, content in files:
        raw = name.encode()[:255]
        out += [_SIZES.pack(len(raw), len(content)), raw, content]
    return b"".join(out)


def unframed(data: bytes) -> list[File]:
    """The files of an input, without those whose names no folder takes, and without second ones of a name."""
    found: dict[str, bytes] = {}
    if not data.startswith(_MARK):
        return []
    at = len(_MARK)
    while at + _SIZES.size <= len(data):
        length, size = _SIZES.unpack_from(data, at)
        at += _SIZES.size
        name = data[at : at + length].decode("ascii", "replace")
        content = data[at + length : at + length + size]
        at += length + size
        if is_name(name):
            found.setdefault(name, content)
    return [*found.items()]


def placed(data: bytes, folder: Path) -> Path:
    """The file that is given, in an empty folder of its own inside *folder*: the parts, or a GGUF file by itself."""
    place = folder / "placed"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    files = unframed(data) or [("model.gguf", data)]
    for name, content in files:
        (place / name).write_bytes(content)
    return place / files[0][0]


def split(model: bytes, sizes: Sequence[int]) -> list[File]:
    """A whole GGUF file in parts of so many tensors; the last one has the others as well."""
    whole = take_apart(model)
    starts = [tensor.offset for tensor in whole.tensors] + [len(whole.data)]
    at, files = 0, []
    for number in range(len(sizes)):
        end = at + sizes[number] if number + 1 < len(sizes) else len(whole.tensors)
        values = (number, len(sizes), len(whole.tensors))
        keys = zip((SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS), (_INT16, _INT16, _INT32), values, strict=True)
        own = tuple(Entry(key.encode(), kind, value) for key, kind, value in keys)
        part = replace(
            whole,
            entries=(*(() if number else whole.entries), *own),
            tensors=tuple(replace(one, offset=one.offset - starts[at]) for one in whole.tensors[at:end]),
            data=whole.data[starts[at] : starts[end]],
        )
        files.append((part_name(_STEM, number, len(sizes)), put_together(part)))
        at = end
    return files


@dataclass(frozen=True)
class PartsMutator:
    """Changes which parts there are, their names and numbers; or one part as a GGUF file."""

    file: GgufMutator

    def __call__(self, data: bytes, random: Random) -> bytes:
        """The changed input; *data*, if it has no parts."""
        files = unframed(data)
        if not files:
            return data
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            at = random.randrange(len(files))
            step = random.choice(
                (_missing, _twice, _renamed, _exchanged, _cut, _renumbered, _renumbered, self._changed)
            )
            files = step(files, at, random) or files
        return framed(files)

    def _changed(self, files: list[File], at: int, random: Random) -> list[File]:
        return _put(files, at, self.file(files[at][1], random))


def _put(files: list[File], at: int, content: bytes) -> list[File]:
    return [*files[:at], (files[at][0], content), *files[at + 1 :]]


def _missing(files: list[File], at: int, random: Random) -> list[File]:
    return files[:at] + files[at + 1 :]


def _twice(files: list[File], at: int, random: Random) -> list[File]:
    """A copy under the name of the next part, or of none; all names may count it."""
    name = part_name(_STEM, len(files), len(files) + 1)
    copied = [*files, (name, files[at][1])]
    if random.random() < 0.5:
        return copied
    return [(part_name(_STEM, number, len(copied)), content) for number, (_, content) in enumerate(copied)]


def _renamed(files: list[File], at: int, random: Random) -> list[File]:
    """One name, or all, with other numbers; or no name of a part."""
    other: Callable[[re.Match[str]], str] = lambda found: f"{random.choice(_NUMBERS) % 100000:05d}"  # noqa: E731
    changes: Sequence[Callable[[str], str]] = (
        lambda name: re.sub(r"\d{5}(?=-of)", other, name),
        lambda name: re.sub(r"\d{5}(?=\.gguf)", other, name),
        lambda name: name.replace("-of-", random.choice(("-OF-", "-", "-of-0"))),
        lambda name: random.choice((f"x{name}", name.upper(), f"{name}-00001-of-00002.gguf", "model.gguf", "-1.gguf")),
    )
    change = random.choice(changes)
    if random.random() < 0.3:
        return [(change(name), content) for name, content in files]
    return [*files[:at], (change(files[at][0]), files[at][1]), *files[at + 1 :]]


def _exchanged(files: list[File], at: int, random: Random) -> list[File]:
    """The contents of two parts; or another part is the one that is given."""
    other = random.randrange(len(files))
    if random.random() < 0.3:
        return [files[at], *files[:at], *files[at + 1 :]]
    return _put(_put(files, at, files[other][1]), other, files[at][1])


def _cut(files: list[File], at: int, random: Random) -> list[File]:
    content = files[at][1]
    return _put(files, at, content[: random.choice((0, 4, 23, len(content) - 1, random.randrange(len(content) + 1)))])


def _renumbered(files: list[File], at: int, random: Random) -> list[File]:
    """Another value or type of a split key, in one part or in all; or a tensor that goes to another part."""
    if random.random() < 0.3:
        return _moved(files, at, random.randrange(len(files)))
    key, value = random.choice(SPLIT_KEYS).encode(), random.choice((*_NUMBERS, len(files) + 1, 2**31))
    kind = random.choice((None, None, None, 0, 4, 5, 7, 8, 10, 11))
    for number in (at,) if random.random() < 0.6 else range(len(files)):
        try:
            parts = take_apart(files[number][1])
        except (ValueError, KeyError, struct.error):
            continue
        entries = [
            replace(entry, value=value, kind=entry.kind if kind is None else kind) if entry.key == key else entry
            for entry in parts.entries
        ]
        files = _put(files, number, put_together(replace(parts, entries=tuple(entries))))
    return files


def _moved(files: list[File], at: int, to: int) -> list[File]:
    """The last tensor of one part is the last of another: there twice, if *at* is *to*."""
    try:
        source, target = take_apart(files[at][1]), take_apart(files[to][1])
    except (ValueError, KeyError, struct.error):
        return files
    if not source.tensors:
        return files
    last = source.tensors[-1]
    moved = replace(last, offset=len(target.data))
    files = _put(files, at, put_together(replace(source, tensors=source.tensors[:-1], data=source.data[: last.offset])))
    added = (*target.tensors, moved)
    return _put(files, to, put_together(replace(target, tensors=added, data=target.data + source.data[last.offset :])))
