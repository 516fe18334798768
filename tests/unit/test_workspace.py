"""Outputs appear whole or not at all: on success, on failure, and when a run is killed at its worst moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from quantkit.errors import OutputError
from quantkit.files.exchange import exchange
from quantkit.files.leftovers import temporary_path
from quantkit.files.replaceable import Mark
from quantkit.files.workspace import Workspace
from quantkit.files.workspace import workspace as any_workspace
from quantkit.system.host import host_token
from tests.support.patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
MARK = Mark("file", ("text",))

workspace = partial(any_workspace, mark=MARK)


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def fill(folder: Path, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    write(folder, text)
    return folder


def write(folder: Path, text: str) -> None:
    (folder / "file").write_text(json.dumps({"text": text}), encoding="utf-8")


def content(folder: Path) -> str:
    return str(json.loads((folder / "file").read_text(encoding="utf-8"))["text"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_published_folder(tmp_path: Path) -> None:
    with workspace(tmp_path / "a" / "out", overwrite=False) as work:
        assert work.path.parent == tmp_path / "a"
        assert work.final == tmp_path / "a" / "out"
        write(work.path, "new")
        assert not work.final.exists()
        assert work.publish() == work.final
    assert content(tmp_path / "a" / "out") == "new"
    assert names(tmp_path / "a") == ["out"]


def test_a_published_file(tmp_path: Path) -> None:
    with workspace(tmp_path / "x.gguf", overwrite=False, file=True) as work:
        (work.path / "x.gguf").write_text("new", encoding="utf-8")
        (work.path / "other").write_text("scratch", encoding="utf-8")
        assert work.publish_files(["x.gguf"]) == tmp_path / "x.gguf"
    assert (tmp_path / "x.gguf").read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["x.gguf"]


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with workspace(Path("out"), overwrite=False) as work:
        monkeypatch.chdir("/")  # what was meant stays
        work.publish()
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with workspace(tmp_path / "out", overwrite=False) as work:
            (work.path / "deep").mkdir()
            (work.path / "deep" / "file").write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_nothing_is_left_of_what_was_not_published(tmp_path: Path) -> None:
    with workspace(tmp_path / "out", overwrite=False) as work:
        write(work.path, "half")
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_an_existing_output_is_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("old", encoding="utf-8")
    elif kind == "folder":
        fill(out)
    else:
        out.symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(OutputError, match="out: already exists") as caught,
        workspace(out, overwrite=False),
    ):
        pass
    assert "--overwrite" in caught.value.hint
    assert names(tmp_path) == ["out"]


def test_a_folder_never_replaces_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match="out: this is a file") as caught, workspace(out, overwrite=True):
        pass
    assert "choose another output path" in caught.value.hint
    assert out.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("old", ["folder", "link"])
def test_an_existing_output_is_replaced(tmp_path: Path, old: str) -> None:
    out, target = tmp_path / "out", fill(tmp_path / "target")
    if old == "folder":
        fill(out)
        (out / "more").write_text("old", encoding="utf-8")
    else:
        out.symlink_to(target)
    with workspace(out, overwrite=True) as work:
        write(work.path, "new")
        work.publish()
    assert content(out) == "new"
    assert names(out) == ["file"]
    assert names(tmp_path) == ["out", "target"]
    assert content(target) == "old"  # the link was replaced, not what it pointed to


def test_the_old_output_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    fill(tmp_path / "out")

    def fail() -> None:
        with workspace(tmp_path / "out", overwrite=True) as work:
            write(work.path, "new")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fail()
    assert content(tmp_path / "out") == "old"
    assert names(tmp_path) == ["out"]


def test_an_output_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with workspace(tmp_path / "out", overwrite=False) as work:
        fill(tmp_path / "out", "someone else's")
        with pytest.raises(OutputError, match="already exists"):
            work.publish()
    assert content(tmp_path / "out") == "someone else's"
    assert names(tmp_path) == ["out"]


def test_the_old_output_comes_back_when_the_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out")
    monkeypatch.setattr("quantkit.files.workspace.exchange", lambda path, other: False)
    rename = os.rename

    def fail_second(source: Path, target: Path) -> None:
        if source == work.path:
            raise OSError(5, "Input/output error")
        rename(source, target)

    with workspace(tmp_path / "out", overwrite=True) as work:
        monkeypatch.setattr(os, "rename", fail_second)
        with pytest.raises(OutputError, match="Input/output error"):
            work.publish()
    assert content(tmp_path / "out") == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "found", [b"", b"{}", b"[]", b"not JSON", b'{"other": 1}'], ids=["empty", "object", "list", "no-json", "other-keys"]
)
def test_a_folder_without_the_mark_is_not_replaced(tmp_path: Path, found: bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / MARK.file).write_bytes(found)
    for name in "abcdef":
        (out / name).write_text("precious", encoding="utf-8")
    with pytest.raises(OutputError, match="not made by this command") as caught, workspace(out, overwrite=True):
        pass
    assert "it contains a, b, c, d, e and 2 more" in str(caught.value)
    assert names(out) == ["a", "b", "c", "d", "e", "f", "file"]
    assert names(tmp_path) == ["out"]


def test_a_folder_that_came_meanwhile_is_not_replaced_without_the_mark(tmp_path: Path) -> None:
    with workspace(tmp_path / "out", overwrite=True) as work:
        write(work.path, "new")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").touch()
        with pytest.raises(OutputError, match="it contains precious"):
            work.publish()
    assert names(tmp_path / "out") == ["precious"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_needs_no_permission(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    with workspace(tmp_path / "out", overwrite=overwrite) as work:
        write(work.path, "new")
        work.publish()
    assert content(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_a_failed_build_replaces_older_failures_only(tmp_path: Path) -> None:
    (tmp_path / "out.failed").mkdir()
    (tmp_path / "out.failed" / "precious").touch()

    def check(work: Workspace) -> None:
        with pytest.raises(OutputError, match=r"out\.failed: .* it contains precious"):
            work.reserve_failed()
        with pytest.raises(OutputError, match="precious"):
            work.publish(failed=True)

    with workspace(tmp_path / "out", overwrite=True) as work:
        check(work)
    assert names(tmp_path / "out.failed") == ["precious"]


def test_a_failed_build_has_a_name_of_its_own(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    fill(tmp_path / "out.failed", "an older failure")
    with workspace(tmp_path / "out", overwrite=True) as work:
        write(work.path, "new failure")
        work.reserve_failed()
        work.publish(failed=True)
    assert content(tmp_path / "out") == "old"
    assert content(tmp_path / "out.failed") == "new failure"
    assert names(tmp_path) == ["out", "out.failed"]


@pytest.mark.parametrize("where", [".", ".."])
def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with (
        pytest.raises(OutputError, match="contains the current folder"),
        workspace(Path(where), overwrite=True),
    ):
        pass
    assert (tmp_path / "a" / "b").is_dir()


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"), workspace(tmp_path / "a" / "out", overwrite=False):
        pass


def test_what_dead_processes_left_is_removed(tmp_path: Path, dead: int) -> None:
    fill(tmp_path / f".out.quantkit-{dead}")
    (tmp_path / f".out.quantkit-old-{dead}").write_text("old", encoding="utf-8")
    kept = [f".other.quantkit-{dead}", f".out.quantkit-{os.getppid()}", ".out.quantkit-x", f"out.quantkit-{dead}"]
    for name in kept:
        fill(tmp_path / name)
    fill(tmp_path / "out")
    with workspace(tmp_path / "out", overwrite=True):
        pass
    assert names(tmp_path) == sorted([*kept, "out"])


def test_an_output_moved_aside_by_a_dead_process_comes_back(tmp_path: Path, dead: int) -> None:
    fill(tmp_path / f".out.quantkit-old-{dead}", "precious")
    with workspace(tmp_path / "out", overwrite=True):
        assert content(tmp_path / "out") == "precious"
    assert content(tmp_path / "out") == "precious"
    assert names(tmp_path) == ["out"]


def test_names_with_characters_of_patterns(tmp_path: Path, dead: int) -> None:
    fill(tmp_path / f".a+b (1).gguf.quantkit-{dead}")
    with workspace(tmp_path / "a+b (1).gguf", overwrite=False):
        pass
    assert names(tmp_path) == []


def kill_when_ready(script: str, out: Path) -> int:
    """Run a script in a process of its own until it prints a line, then kill it without warning."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    return process.pid


MID_BUILD = """
import sys, time
from pathlib import Path
from tests.unit.test_workspace import workspace, write
with workspace(Path(sys.argv[1]), overwrite=True) as work:
    write(work.path, "half")
    print("ready", flush=True)
    time.sleep(60)
"""
MID_RENAME = """
import os, sys, time
from pathlib import Path
from quantkit.files import workspace as module
from tests.unit.test_workspace import workspace, write
module.exchange = lambda path, other: False
rename = os.rename
def slow(source, target):
    if source == work.path:
        print("ready", flush=True)
        time.sleep(60)
    rename(source, target)
with workspace(Path(sys.argv[1]), overwrite=True) as work:
    write(work.path, "new")
    os.rename = slow
    work.publish()
"""
MID_EXCHANGE = """
import sys, time
from pathlib import Path
from quantkit.files import workspace as module
from tests.unit.test_workspace import workspace, write
exchange = module.exchange
def slow(path, other):
    exchange(path, other)
    print("ready", flush=True)
    time.sleep(60)
module.exchange = slow
with workspace(Path(sys.argv[1]), overwrite=True) as work:
    write(work.path, "new")
    work.publish()
"""


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwritten"])
def test_killed_in_the_middle(tmp_path: Path, existing: bool) -> None:
    out = tmp_path / "out"
    if existing:
        fill(out)
    pid = kill_when_ready(MID_BUILD, out)
    assert names(tmp_path) == [f".out.quantkit-{pid}.{host_token()}", *(["out"] if existing else [])]
    if existing:
        assert content(out) == "old"
    with workspace(out, overwrite=existing) as work:
        write(work.path, "new")
        work.publish()
    assert content(out) == "new"
    assert names(tmp_path) == ["out"]


def test_killed_between_the_two_renames(tmp_path: Path) -> None:
    out = fill(tmp_path / "out")
    pid = kill_when_ready(MID_RENAME, out)
    assert names(tmp_path) == [f".out.quantkit-{kind}{pid}.{host_token()}" for kind in ("", "old-")]
    with workspace(out, overwrite=True):
        assert content(out) == "old"
    assert content(out) == "old"
    assert names(tmp_path) == ["out"]


def test_an_output_that_is_replaced_is_there_at_any_time(tmp_path: Path) -> None:
    out, other = fill(tmp_path / "out"), fill(tmp_path / "other")
    if not exchange(out, other):
        pytest.skip("this disk does not exchange names")
    pid = kill_when_ready(MID_EXCHANGE, out)
    assert content(out) == "new"
    assert content(tmp_path / f".out.quantkit-{pid}.{host_token()}") == "old"
    with workspace(out, overwrite=True):
        assert names(tmp_path) == [temporary_path(out).name, "other", "out"]
    assert content(out) == "new"


def test_killed_between_the_renames_of_several_files(tmp_path: Path) -> None:
    """No part of a split model stays without the others, and no older one is lost."""
    words = [sys.executable, "-m", "tests.support.killed_renames", str(tmp_path)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["kills"] > 50


def test_an_exchange_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    out = fill(tmp_path / "out")
    if not exchange(out, fill(tmp_path / "other")):
        pytest.skip("this disk does not exchange names")
    with pytest.raises(FileNotFoundError, match="absent"):
        exchange(tmp_path / "absent", out)
    assert content(out) == "old"


def test_the_old_output_is_removed_after_the_new_name_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen, fsync = fill(tmp_path / "out"), [], os.fsync

    def watch(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(tmp_path)):
            seen.append([content(path) for path in tmp_path.iterdir() if path != out])
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    with workspace(out, overwrite=True, fsync=True) as work:
        write(work.path, "new")
        work.publish()
    assert content(out) == "new"
    assert seen == [["old"]]
    assert names(tmp_path) == ["out"]


def test_folders_that_are_made_around_an_output_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, fsync = set(), os.fsync

    def watch(fd: int) -> None:
        flushed.add(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    with workspace(tmp_path / "a" / "b" / "out", overwrite=False, fsync=True) as work:
        write(work.path, "new")
        work.publish()
    assert {path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")} <= flushed


def test_a_folder_from_which_a_file_was_removed_is_not_published(tmp_path: Path) -> None:
    with workspace(tmp_path / "out", overwrite=False) as work:
        write(work.path, "new")
        with pytest.raises(OutputError, match=r"model\.gguf: was removed"):
            work.publish(names=["file", "model.gguf"])
    assert os.listdir(tmp_path) == []


def test_a_power_cut_does_not_bring_a_journal_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the folder is flushed for the last time, its journals are gone."""
    seen, fsync = [], os.fsync

    def watch(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(made)):
            seen.append(names(made))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    with workspace(tmp_path / "out", overwrite=False, fsync=True) as work:
        made = work.path
        write(made, "new")
        (made / ".file.journal").touch()
        monkeypatch.setattr("quantkit.files.workspace.replace_all", lambda *arguments: None)
        work.publish()
    assert seen[-1] == ["file"]
