"""Files that only their owner may read."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from quantkit.errors import OutputError
from quantkit.files.private_file import write_text


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "history"
    write_text(path, "one\n")
    write_text(path, "two\n")
    assert path.read_text(encoding="utf-8") == "two\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["history"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    theirs = {f".history.quantkit-{os.getppid()}-abc", f".history2.quantkit-{ended.pid}-abc", ".history.quantkit-mine"}
    for name in (*theirs, f".history.quantkit-{ended.pid}-abc"):
        (tmp_path / name).touch()
    write_text(tmp_path / "history", "text")
    assert set(os.listdir(tmp_path)) == {"history", *theirs}


def test_a_disk_that_becomes_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the rename nor the removal works: the error is the first one's, and the file is what it was."""
    path = tmp_path / "history"
    write_text(path, "one")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match="Read-only"):
        write_text(path, "two")
    assert path.read_text(encoding="utf-8") == "one"
