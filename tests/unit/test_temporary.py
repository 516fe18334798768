"""Temporary folders that nobody sees, and what killed processes leave of them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from quantkit.errors import OutputError
from quantkit.system.temporary import temporary_folder, temporary_root
from tests.support.patience import PATIENCE, wait_for


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def left_by(root: Path, pid: int) -> Path:
    folder = root / f"quantkit-{pid}-abcdefgh"
    folder.mkdir()
    (folder / "plan.gguf").write_bytes(b"GGUF")
    return folder


def test_it_is_removed_with_all_that_is_in_it(root: Path) -> None:
    with temporary_folder() as folder, temporary_folder() as second:
        assert folder.parent == second.parent == root
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
    assert os.listdir(root) == []


def test_no_file_is_written_to_try_the_folder(root: Path) -> None:
    """A kill would leave it there: it has a name like any other program's."""
    root.chmod(0o700)
    assert temporary_root() == root
    assert tempfile.tempdir is None


def test_what_a_killed_process_left_is_removed(root: Path) -> None:
    program = (
        "import os, signal\nfrom quantkit.system.temporary import temporary_folder\n"
        "with temporary_folder() as folder:\n (folder / 'plan.gguf').touch()\n os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    (left,) = os.listdir(root)
    mine = left_by(root, os.getpid())  # of a run with the same id, as in a container
    with temporary_folder() as folder:
        assert os.listdir(root) == [folder.name], (left, mine)


def test_what_is_in_use_stays(root: Path) -> None:
    """By another process; by one in another container, whose id means nothing here; by no process of ours at all."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    elsewhere = left_by(root, ended.pid)
    theirs = left_by(root, os.getppid())
    others = [root / "quantkit-abc", root / "quantkit-campaign-1"]
    for folder in others:
        folder.mkdir()
    fd = os.open(elsewhere, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with temporary_folder():
            pass
        assert set(root.iterdir()) == {elsewhere, theirs, *others}
    finally:
        os.close(fd)
    with temporary_folder():
        assert not elsewhere.exists()


def test_an_id_that_another_process_has_got_keeps_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers the same few ids come again and again. Nobody holds the lock."""
    left = left_by(root, os.getppid())
    monkeypatch.setattr("quantkit.system.temporary._MADE", 0.0)
    with temporary_folder():
        assert not left.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what processes have open")
def test_what_a_killed_process_had_started_writes_no_more(root: Path) -> None:
    """Whoever only reads there, or writes elsewhere, or is another user's, goes on."""
    write = "import pathlib, sys, time\nplace = pathlib.Path(sys.argv[1])\n" + (
        "file = open(place / 'log', 'a')\nwhile True:\n"
        " place.mkdir(exist_ok=True)\n (place / f'{time.time_ns()}').touch()\n time.sleep(0.001)\n"
    )
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, used = left_by(root, ended.pid), root / "quantkit-elsewhere"
    used.mkdir()
    started = [subprocess.Popen([sys.executable, "-c", write, str(folder)]) for folder in (left, used)]
    (left / "read").touch()
    with (left / "read").open() as read:
        started.append(subprocess.Popen(["sleep", "600"], stdin=read))
    if os.geteuid() == 0:
        with (left / "theirs").open("w") as log:
            started.append(subprocess.Popen(["sleep", "600"], stdout=log, user=65534))
    try:
        for folder in (left, used):
            wait_for((folder / "log").exists)
        with temporary_folder():
            assert not left.exists()
        assert started[0].wait(PATIENCE) == -signal.SIGKILL
        assert {process.poll() for process in started[1:]} == {None}
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_place_that_cannot_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> str:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OutputError, match="No space left") as caught, temporary_folder():
        pass
    assert "TMPDIR" in caught.value.hint
