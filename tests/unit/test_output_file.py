"""Output files: exact bytes from any order of writes, digests of pieces that arrive in any order, disks that fail."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from quantkit.errors import OutputError
from quantkit.files import output_file
from quantkit.files.output_file import OrderedDigest, OutputFile, write_error


def test_digest_of_pieces_from_many_threads() -> None:
    pieces = [bytes([i % 251]) * (1 + i * 37 % 3000) for i in range(400)]
    digest, start = OrderedDigest(), threading.Barrier(8)

    def bring(first: int) -> None:
        start.wait()
        for index in range(first, len(pieces), 8):
            digest.update(index, pieces[index])

    threads = [threading.Thread(target=bring, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_who_is_early_waits_and_is_let_go() -> None:
    digest, passed = OrderedDigest(), []

    def bring(index: int, data: bytes) -> threading.Thread:
        def update() -> None:
            digest.update(index, data)
            passed.append(index)

        thread = threading.Thread(target=update)
        thread.start()
        return thread

    late, early = bring(2, b"c"), bring(1, b"b")
    time.sleep(0.02)
    assert passed == []
    digest.update(0, b"a")
    early.join()
    late.join()
    assert digest.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    never = bring(4, b"e")
    digest.abandon()
    never.join()
    assert sorted(passed) == [1, 2, 4]


def test_one_thread_writes_and_the_others_need_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, may_end, real = threading.Event(), threading.Event(), output_file.write_at

    def slow(fd: int, view: memoryview, offset: int) -> None:
        inside.set()
        may_end.wait()
        real(fd, view, offset)

    with OutputFile(tmp_path / "a", b"", 8) as file:
        monkeypatch.setattr(output_file, "write_at", slow)
        first = threading.Thread(target=file.write, args=(0, b"aaaa"))
        first.start()
        inside.wait()
        assert not file.write(4, b"bbbb", wait=False)
        may_end.set()
        assert file.write(4, b"bbbb")
        first.join()
        assert file.write(0, b"cc", wait=False)
    assert (tmp_path / "a").read_bytes() == b"ccaabbbb"


def test_a_turn_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, view: memoryview, offset: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with OutputFile(tmp_path / "a", b"", 8) as file:
        with monkeypatch.context() as patched:
            patched.setattr(output_file, "write_at", full)
            with pytest.raises(OutputError, match="No space"):
                file.write(0, b"aaaa")
        assert file.write(0, b"aaaa", wait=False)


def test_bytes_at_their_offsets_and_zeros_between(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "x", b"head", 20) as file:
        file.write(15, b"tail!")
        file.write(8, memoryview(b"mid"))
    assert (tmp_path / "x").read_bytes() == b"head\0\0\0\0mid\0\0\0\0tail!"


def test_the_size_is_there_from_the_start(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "x", b"", 4096):
        assert (tmp_path / "x").stat().st_size == 4096


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[:3], offset))
    with OutputFile(tmp_path / "x", b"a header", 20) as file:
        file.write(8, b"twelve bytes")
    assert (tmp_path / "x").read_bytes() == b"a headertwelve bytes"


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("precious", encoding="utf-8")
    with pytest.raises(OutputError, match="x: cannot be written"):
        OutputFile(tmp_path / "x", b"head", 20)
    assert (tmp_path / "x").read_text(encoding="utf-8") == "precious"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        OutputFile(tmp_path / "no" / "x", b"", 1)


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_found_when_the_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full, raising=False)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        OutputFile(tmp_path / "x", b"head", 1 << 20)
    assert caught.value.hint == "free some space or choose another disk with -o"
    assert str(tmp_path / "x") not in map(os.path.realpath, Path("/proc/self/fd").glob("*"))  # it was closed


def test_a_disk_that_fills_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OutputFile(tmp_path / "x", b"head", 64) as file:

        def full(*args: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match="No space left on device") as caught:
            file.write(4, b"data")
    assert caught.value.hint


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    with OutputFile(tmp_path / "x", b"head", 10) as file:
        file.write(8, b"!!")
    assert (tmp_path / "x").read_bytes() == b"head\0\0\0\0!!"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "choose a folder you may write to"),
        (errno.EROFS, "choose a folder you may write to"),
        (errno.EFBIG, "free some space"),
        (errno.EIO, "choose another folder with -o"),
        (errno.ENOTDIR, "choose another folder with -o"),
    ],
)
def test_hints(code: int, hint: str) -> None:
    error = write_error(Path("out.gguf"), OSError(code, os.strerror(code)))
    assert str(error) == f"out.gguf: cannot be written ({os.strerror(code)})"
    assert error.hint.startswith(hint)
