"""Journals of files: what is written is read again, what is damaged does not count, and records come in order."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from quantkit.errors import OutputError
from quantkit.files import journal as journals
from quantkit.files.journal import Journal, JournalWriter, Record, journal_path, journals_in, read_journal

HEAD = {"plan": "a", "inputs": [["é\n", 1]]}


def record(tensor: str, nbytes: int) -> Record:
    return Record(tensor, nbytes, hashlib.sha256(bytes(nbytes)).hexdigest())


def written(path: Path, records: list[Record]) -> Path:
    with JournalWriter(path, HEAD, records[:1]) as writer:
        writer.begin_at(records[0].tensor, 1)
        for index, one in enumerate(records[1:], 1):
            writer.finished(index, one)
    return path


RECORDS = [record('blk.0 \n"weight', nbytes) for nbytes in (10, 20, 30)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = written(journal_path(tmp_path / "x.gguf"), RECORDS)
    assert path.name == ".x.gguf.journal"
    assert read_journal(path) == Journal(HEAD, tuple(RECORDS))
    assert journals_in(tmp_path) == {"x.gguf": path}
    found = read_journal(path)
    assert found is not None
    assert found.nbytes == 30


def test_a_newer_one_takes_its_place(tmp_path: Path) -> None:
    path = written(tmp_path / ".x.journal", RECORDS)
    JournalWriter(path, {"plan": "b"}).close()
    assert read_journal(path) == Journal({"plan": "b"}, ())


def test_every_bit_is_under_a_sum(tmp_path: Path) -> None:
    """Of a damaged line nothing counts, and the other lines stay; of a damaged head nothing is left."""
    path = written(tmp_path / ".x.journal", RECORDS)
    whole = path.read_bytes()
    generator = random.Random(5)
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        found = read_journal(path)
        line = whole[:position].count(b"\n")
        if line == 0:
            assert found is None, position
        else:
            assert found is not None
            lost = {line - 1, line} if whole[position] == ord("\n") else {line - 1}
            assert found.records == tuple(one for i, one in enumerate(RECORDS) if i not in lost), position


def test_a_torn_end_does_not_count(tmp_path: Path) -> None:
    path = written(tmp_path / ".x.journal", RECORDS)
    whole = path.read_bytes()
    ends = [i for i in range(len(whole)) if whole[i : i + 1] == b"\n"]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = read_journal(path)
        complete = sum(end <= length for end in ends)
        assert (found is None) == (complete == 0), length
        assert found is None or len(found.records) == complete - 1


def summed(text: bytes) -> bytes:
    """A line with the sum that belongs to it, which anybody can write."""
    return hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"


NOT_JSON = (b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"[]\n", b"{}\n", b"0123456789abcdef {}\n", *map(summed, NOT_JSON)]
)
def test_what_is_no_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert read_journal(tmp_path / "x") is None
    assert read_journal(tmp_path / "no") is None


def test_a_record_that_is_no_json_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(summed(b'{"a":1}') + b"".join(map(summed, NOT_JSON)) + summed(b'["t",4,"00"]'))
    assert read_journal(tmp_path / "x") == Journal({"a": 1}, (Record("t", 4, "00"),))


def test_records_of_many_threads_come_in_order_and_none_too_early(tmp_path: Path) -> None:
    pieces = [record("t", 8 * (index + 1)) for index in range(200)]
    path, start = tmp_path / ".x.journal", threading.Barrier(4)
    writer = JournalWriter(path, HEAD)

    def bring(first: int) -> None:
        start.wait()
        for index in range(first, len(pieces), 4):
            if index != 100:
                writer.finished(index, pieces[index])

    threads = [threading.Thread(target=bring, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_journal(path)
    assert found is not None
    assert found.records == tuple(pieces[: len(found.records)])
    assert 1 <= len(found.records) <= 100  # the others stand behind one that is not finished
    writer.finished(100, pieces[100])
    writer.close()
    found = read_journal(path)
    assert found is not None
    assert found.records == tuple(pieces)


def test_records_are_written_together_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, path = [100.0], tmp_path / ".x.journal"
    monkeypatch.setattr(journals.time, "monotonic", lambda: now[0])

    def in_the_journal() -> int:
        found = read_journal(path)
        assert found is not None
        return len(found.records)

    with JournalWriter(path, HEAD) as writer:
        counts = []
        for index in range(6):
            writer.finished(index, record("t", 8 * (index + 1)))
            counts.append(in_the_journal())
            now[0] += journals.WRITE_SECONDS / 2.5
    assert counts == [1, 1, 1, 4, 4, 4]
    assert in_the_journal() == 6


def test_a_record_follows_what_it_is_of_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a flush: the bytes are flushed, then the record is written, then the journal is flushed."""
    done: list[str] = []
    write, flush = os.write, os.fsync

    def noted(fd: int, data: memoryview) -> int:
        done.append("record")
        return write(fd, data)

    def flushed(fd: int) -> None:
        done.append("journal")
        flush(fd)

    writer = JournalWriter(tmp_path / ".x.journal", HEAD, flush=lambda: done.append("bytes"))
    monkeypatch.setattr(os, "write", noted)
    monkeypatch.setattr(os, "fsync", flushed)
    writer.finished(0, RECORDS[0])
    assert done == []  # not for every range
    monkeypatch.setattr(journals, "FLUSH_SECONDS", 0.0)
    writer.finished(1, RECORDS[1])
    assert done == ["bytes", "record", "journal"]
    writer.finished(2, RECORDS[2])
    writer.close()
    assert done == ["bytes", "record", "journal"] * 2
    found = read_journal(tmp_path / ".x.journal")
    assert found is not None
    assert found.records == tuple(RECORDS)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter(tmp_path / ".x.journal", HEAD, shown=tmp_path / "x.gguf")

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OutputError, match=r"x\.gguf: cannot be written \(No space"):
            writer.finished(0, RECORDS[0])
    writer.close()
    with pytest.raises(OutputError, match="cannot be written"):
        JournalWriter(tmp_path / "no" / ".x.journal", HEAD)
