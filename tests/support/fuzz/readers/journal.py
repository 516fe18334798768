"""Journals of unfinished outputs: their head, and their records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random

from quantkit.engine.continued import claimed, claimed_bytes
from quantkit.files.journal import JournalWriter, Record, read_journal
from quantkit.jobs.journal_head import difference
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file, folder

_HEAD = {
    "format": 1,
    "versions": {"quantkit": "1"},
    "device": "cpu",
    "ranges": 0,
    "inputs": [["model.safetensors", "10 20 00"]],
    "settings": ["1.0"],
    "plan": "0",
}


def _seeds() -> Sequence[bytes]:
    path = folder({}) / ".model.gguf.journal"
    with JournalWriter(path, _HEAD, [Record("a", 4, "0" * 64)]):
        pass
    return [path.read_bytes()]


def _read(data: bytes) -> None:
    journal = read_journal(file(".model.gguf.journal", data))
    if journal is not None:
        difference(journal.head, _HEAD)
        claimed_bytes(claimed(journal.records))


def _mutate(data: bytes, random: Random) -> bytes:
    """Another content of a line, with the sum that belongs to it: who changes a journal can write one."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    text = _json(lines[at].partition(b" ")[2], random)
    if random.random() < 0.1:
        text = random.choice((b"", b"\xff", b"[" * 100_000, b"{", b"1" * 5000, text + b"\0"))
    lines[at] = hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text
    return b"\n".join(lines)


_json = JsonMutator(words=tuple(_HEAD))
READER = Reader("journal", _seeds, _read, _mutate, largest=1 << 18)
