"""The file names and metadata keys of a split GGUF model: ``NAME-00001-of-00003.gguf`` and so on.

As in llama.cpp's ``llama_split_path``: the parts are found only by their names.
"""

from __future__ import annotations

import re
from pathlib import Path

# in every part: its number from 0, the number of parts, and the number of tensors in all parts
SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
SPLIT_KEYS = (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS)

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


def part_name(stem: str, number: int, count: int) -> str:
    """The name of part *number* (from 0) of *count*."""
    return f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"


def part_path(path: Path, number: int) -> Path | None:
    """The path of part *number* (from 0) of the model that *path* is a part of; None if *path* has no such name."""
    match = _NAME.fullmatch(path.name)
    return path.with_name(part_name(match["stem"], number, int(match["count"]))) if match else None


def named_count(path: Path) -> int:
    """The number of parts according to the name; 1 if the name does not say."""
    match = _NAME.fullmatch(path.name)
    return int(match["count"]) if match else 1
