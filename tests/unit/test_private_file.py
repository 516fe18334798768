"""Small files that are replaced as a whole, and those that only their owner may read."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from quantkit.errors import OutputError
from quantkit.files.private_file import write_text
from quantkit.files.replace_file import replace_file


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
    with pytest.raises(OutputError, match="Read-only"):
        write_text(path, "two")
    assert path.read_text(encoding="utf-8") == "one"


def test_a_file_that_all_may_read(tmp_path: Path) -> None:
    """It has the mode of any new file, and a link to it stays one."""
    (tmp_path / "plain").touch()
    (tmp_path / "link").symlink_to("report.json")
    replace_file(tmp_path / "link", b"one")
    replace_file(tmp_path / "link", b"two")
    path = tmp_path / "report.json"
    assert (tmp_path / "link").is_symlink()
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["link", "plain", "report.json"]
