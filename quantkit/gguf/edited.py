"""The metadata of a GGUF file with some entries changed: what is asked for is checked, key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import GGUFError
from quantkit.gguf.editable import fixed, needed, type_of_new, wanted
from quantkit.gguf.header import Header
from quantkit.gguf.key_types import TOKEN_ID, type_name
from quantkit.gguf.kv import KV, KVType
from quantkit.gguf.kv_text import read_kv
from quantkit.system.shell import command

_MAX_KEY = 65535  # bytes, by GGUF's specification


@dataclass(frozen=True)
class Change:
    """An entry that is changed, added or removed.

    Attributes:
        key: its key.
        old: what the file has; None if it has none.
        new: what it gets; None if it is removed.
    """

    key: str
    old: KV | None
    new: KV | None

    @property
    def type(self) -> str:
        """The type in GGUF's words, such as ``uint32`` or ``array of string``."""
        entry = self.new or self.old
        assert entry is not None
        return type_name((entry.type, entry.item))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        old, new = (None if entry is None else entry.value for entry in (self.old, self.new))
        return {"key": self.key, "type": self.type, "old": old, "new": new}


def asked_entries(path: Path, header: Header, values: Sequence[tuple[str, str]]) -> dict[str, KV]:
    """The entries that are to be set, by key: an existing one keeps its type.

    Args:
        path: the file, for messages.
        header: its header.
        values: keys and values as text.

    Raises:
        GGUFError: an entry may not be changed, is given twice, or has no such value.
    """
    found: dict[str, KV] = {}
    for key, text in values:
        _check_open(path, header, key)
        if key in found:
            raise GGUFError(f"{key} is given twice", hint="give it once")
        old = header.metadata.get(key)
        kind, item = type_of_new(key) if old is None else (old.type, old.item)
        entry = read_kv(key, text, kind, item)
        if what := wanted(key, entry.value):
            raise GGUFError(f"{path}: {key} is {entry.value!r}; expected {what}", hint=f"write it as --set {key}=VALUE")
        if TOKEN_ID.fullmatch(key):
            _check_token(path, header, entry)
        found[key] = entry
    return found


def check_removable(path: Path, header: Header, keys: Sequence[str]) -> None:
    """Refuse to remove an entry that is not there, or that llama.cpp needs.

    Raises:
        GGUFError: naming it.
    """
    for key in keys:
        _check_open(path, header, key)
        if key not in header.metadata:
            raise GGUFError(f"{path}: there is no {key} to remove", hint=_list_keys(path))
        if needed(key):
            raise GGUFError(
                f"{path}: {key} cannot be removed: without it llama.cpp refuses the file or guesses",
                hint=f"give it another value: --set {key}=VALUE",
            )


def edited(metadata: Mapping[str, KV], entries: Mapping[str, KV], removed: Sequence[str] = ()) -> dict[str, KV]:
    """The metadata with entries set, which keep their places, and others removed; new ones come last."""
    kept = {key: entries.get(key, entry) for key, entry in metadata.items() if key not in removed}
    return kept | {key: entry for key, entry in entries.items() if key not in metadata}


def changes(old: Mapping[str, KV], new: Mapping[str, KV]) -> tuple[Change, ...]:
    """What differs, in the order of the files."""
    keys = [*old, *(key for key in new if key not in old)]
    return tuple(Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key))


def shown(entry: KV | None, most: int = 100) -> str:
    """A value for people, on one line."""
    if entry is None:
        return "(none)"
    text = json.dumps(entry.value, ensure_ascii=False)
    if entry.type is KVType.FLOAT32:
        text = f"{entry.value:.7g}"
    return text if len(text) <= most else f"{text[: most - 3]}... ({len(text)} characters)"


def _check_open(path: Path, header: Header, key: str) -> None:
    if not key or "\0" in key or len(key.encode()) > _MAX_KEY:
        raise GGUFError(f"{key[:80]!r} is not a key of a GGUF file", hint=_list_keys(path))
    if why := fixed(key, str(header.value("general.architecture"))):
        raise GGUFError(f"{path}: {key} cannot be changed: {why}", hint="build the file again from its checkpoint")


def _check_token(path: Path, header: Header, entry: KV) -> None:
    count = len(header.value("tokenizer.ggml.tokens", []))
    if not 0 <= entry.value < count:
        raise GGUFError(
            f"{path}: {entry.key} is {entry.value}, outside the vocabulary of {count} tokens", hint=_list_keys(path)
        )


def _list_keys(path: Path) -> str:
    return f"see what it has: {command('quantkit', 'inspect', path)}"
