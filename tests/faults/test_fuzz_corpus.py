"""Every input that is kept for a reader, once more: small seeds, and each that once showed a fault."""

from __future__ import annotations

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the limits are Linux's", allow_module_level=True)

from tests.support.fuzz.guard import ForbiddenError
from tests.support.fuzz.invariant import TooSlowError, hold
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.registry import CORPUS, kept, load, names
from tests.support.fuzz.scratch import file, root


@pytest.mark.parametrize("name", names())
def test_every_input_is_read_or_refused_by_name(name: str) -> None:
    reader = load(name)
    for seed in reader.seeds():
        assert hold(reader, seed) is None
    for path in kept(name):
        hold(reader, path.read_bytes())


def test_the_corpus_is_small_and_every_folder_has_a_reader() -> None:
    assert {path.name for path in CORPUS.glob("*")} <= {*names()}
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 200_000


def _endless(data: bytes) -> None:
    while True:
        pass


def _writes_beside(data: bytes) -> None:
    try:
        (root() / "beside").write_bytes(data)
    except Exception:  # as code does that makes an error of its own of every error
        return


def _reads_beside(data: bytes) -> None:
    (file("input", data).parent / "../../secret").read_bytes()


def _starts(data: bytes) -> None:
    __import__("subprocess").run(["true"], check=True)


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (_endless, TooSlowError),
        (_writes_beside, ForbiddenError),
        (_reads_beside, ForbiddenError),
        (_starts, ForbiddenError),
        (lambda data: bytearray(1 << 30), MemoryError),
        (lambda data: 1 // len(data), ZeroDivisionError),
    ],
)
def test_what_no_reader_may_do_is_seen(read, error) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error):
        hold(Reader("none", list, read, seconds=0.1), b"")
    assert not (root() / "beside").exists()
