"""Every difference between two GGUF files, in words.

``differences`` returns a list so that a test can say ``assert differences(...) == []`` and pytest prints what differs.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from tests.support.gguf_read import Tensor, Value, read_gguf

_T = TypeVar("_T")

# Free text about the model: quantkit writes its own, see docs/differences.md.
FREE_TEXT = (
    "general.name",
    "general.basename",
    "general.finetune",
    "general.organization",
    "general.author",
    "general.version",
    "general.size_label",
    "general.description",
    "general.url",
    "general.license",
    "general.license.*",
    "general.tags",
    "general.languages",
    "general.base_model.*",
    "general.dataset.*",
)
# Where the end tokens of generation_config.json go that the reference converter leaves out.
STOP_KEYS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def differences(
    ours: Path,
    reference: Path,
    *,
    ignored: Collection[str] = FREE_TEXT,
    added: Mapping[str, Value] | None = None,
) -> list[str]:
    """Compare two GGUF files.

    Args:
        ours: the file under test.
        reference: what it must equal.
        ignored: patterns of metadata keys that may differ.
        added: keys that *ours* must have and the reference must not, with their values.

    Returns:
        One line for each difference: keys (presence, type, value), tensors (presence, shape, type, bytes), alignment.
    """
    a, b = read_gguf(ours), read_gguf(reference)
    lines = metadata_differences(a.metadata, b.metadata, ignored=ignored, added=added)
    lines += _compare(a.tensors, b.tensors, _tensor_difference)
    if a.alignment != b.alignment:
        lines.append(f"alignment: {a.alignment}, expected {b.alignment}")
    misplaced = [name for name, tensor in a.tensors.items() if tensor.offset % a.alignment]
    lines += [f"{name}: offset is not aligned" for name in misplaced]
    return lines


def metadata_differences(
    ours: Mapping[str, Value],
    reference: Mapping[str, Value],
    *,
    ignored: Collection[str] = FREE_TEXT,
    added: Mapping[str, Value] | None = None,
) -> list[str]:
    """The differences between the metadata alone; arguments as of :func:`differences`."""
    expected = {**_without(reference, ignored), **(added or {})}
    lines = [f"{key}: the reference has it too" for key in added or () if key in reference]
    return lines + _compare(_without(ours, ignored), expected, _value_difference)


def tensor_differences(ours: Path, reference: Path) -> list[str]:
    """The differences between the tensors alone."""
    return _compare(read_gguf(ours).tensors, read_gguf(reference).tensors, _tensor_difference)


def _without(metadata: Mapping[str, Value], ignored: Collection[str]) -> dict[str, Value]:
    return {
        key: value
        for key, value in metadata.items()
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in ignored)
    }


def _compare(ours: Mapping[str, _T], expected: Mapping[str, _T], difference: Callable[[_T, _T], str]) -> list[str]:
    lines = [f"{name}: missing" for name in expected if name not in ours]
    lines += [f"{name}: not expected" for name in ours if name not in expected]
    for name in ours:
        if name in expected and (text := difference(ours[name], expected[name])):
            lines.append(f"{name}: {text}")
    return lines


def _value_difference(ours: Value, expected: Value) -> str:
    if ours.type != expected.type:
        return f"type {ours.type}, expected {expected.type}"
    if ours.value == expected.value:
        return ""
    if not isinstance(ours.value, list):
        return f"{_short(ours.value)}, expected {_short(expected.value)}"
    if len(ours.value) != len(expected.value):
        return f"{len(ours.value)} items, expected {len(expected.value)}"
    pairs = enumerate(zip(ours.value, expected.value, strict=True))
    where = [(i, x, y) for i, (x, y) in pairs if x != y]
    i, x, y = where[0]
    return f"{len(where)} items differ, the first at {i}: {_short(x)}, expected {_short(y)}"


def _tensor_difference(ours: Tensor, expected: Tensor) -> str:
    if ours.shape != expected.shape:
        return f"shape {list(ours.shape)}, expected {list(expected.shape)}"
    if ours.type != expected.type:
        return f"type {ours.type}, expected {expected.type}"
    where = np.flatnonzero(ours.data != expected.data)
    if not where.size:
        return ""
    return f"{where.size} of {ours.data.size} bytes differ ({ours.type}), the first at {where[0]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
