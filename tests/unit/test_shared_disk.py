"""Several machines on one disk: none takes another's work for abandoned, and none has its names."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from quantkit.files import leftovers, replace_file, signs_of_life
from quantkit.files.journal import JournalWriter, Record, journal_path
from quantkit.files.leftovers import hold, temporary_path
from quantkit.files.replaceable import Mark
from quantkit.files.workspace import Workspace
from quantkit.files.workspace import workspace as any_workspace
from quantkit.system.host import host_token, same_system
from tests.support.patience import wait_for

HERE, CONTAINER, AWAY = host_token(), f"{host_token()[:8]}00000000", "0" * 16
workspace = partial(any_workspace, mark=Mark("file", ("text",)))


def begin(final: Path, token: str) -> Path:
    """What a run with the id of this process left: a folder with a file of which something is finished."""
    folder = final.with_name(f".{final.name}.quantkit-{os.getpid()}.{token}")
    folder.mkdir()
    (folder / "x.gguf").write_bytes(bytes(100))
    JournalWriter(journal_path(folder / "x.gguf"), {"plan": "a"}, [Record("t", 50, "00")]).close()
    return folder


def publish(work: Workspace, text: str = "new") -> None:
    (work.path / "file").write_text(f'{{"text": "{text}"}}', encoding="utf-8")
    work.publish()


def silent_for(monkeypatch: pytest.MonkeyPatch, seconds: float, *, until: float = 1e9) -> list[float]:
    """Let the disk say for how long nobody was there, until somebody comes; the time that is waited."""
    slept: list[float] = []
    monkeypatch.setattr(signs_of_life, "silence", lambda path: seconds + sum(slept) if sum(slept) < until else 1.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_the_token_is_of_this_system() -> None:
    assert same_system(HERE)
    assert same_system(CONTAINER)
    assert not same_system(AWAY)
    assert temporary_path(Path("/a/out")).name == f".out.quantkit-{os.getpid()}.{HERE}"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_another_machine_is_making_stays(tmp_path: Path, overwrite: bool) -> None:
    """No lock reaches us, and its process id is ours, or does not exist here."""
    theirs = begin(tmp_path / "out", AWAY)
    with workspace(tmp_path / "out", overwrite=overwrite) as work:
        assert work.path != theirs
        publish(work)
    assert (theirs / "x.gguf").exists()


def test_what_another_machine_has_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "out", AWAY)
    silent_for(monkeypatch, 500)
    with workspace(tmp_path / "out", overwrite=True) as work:
        publish(work)
    assert os.listdir(tmp_path) == ["out"]


def test_what_another_machine_has_left_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it is clear that nobody is at it."""
    theirs = begin(tmp_path / "out", AWAY)
    notes: list[str] = []
    slept = silent_for(monkeypatch, 108)
    with workspace(tmp_path / "out", overwrite=False, resume=True, note=notes.append) as work:
        assert work.earlier == (theirs,)
        assert work.part("x.gguf") is not None
        publish(work)
    assert slept == [5, 5, 2]
    assert notes[0] == f"{theirs}: a run on another machine may still be at it; looking for 12 s"
    assert os.listdir(tmp_path) == ["out"]


def test_a_sign_of_life_ends_the_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = begin(tmp_path / "out", AWAY)
    slept = silent_for(monkeypatch, 7, until=10)
    with workspace(tmp_path / "out", overwrite=False, resume=True) as work:
        assert work.earlier == ()
        publish(work)
    assert slept == [5, 5]
    assert (theirs / "x.gguf").exists()


def test_in_another_container_the_lock_says_it(tmp_path: Path) -> None:
    """At once, because locks are the same for both."""
    theirs = begin(tmp_path / "out", CONTAINER)
    lock = hold(theirs)
    assert lock is not None
    with workspace(tmp_path / "out", overwrite=True, resume=True) as work:
        assert work.earlier == ()
    os.close(lock)
    with workspace(tmp_path / "out", overwrite=True, resume=True) as work:
        assert work.earlier == (theirs,)
        publish(work)
    assert os.listdir(tmp_path) == ["out"]


def test_two_machines_with_one_process_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both make the same output: whoever is last says it exists, or replaces it."""
    out = tmp_path / "out"
    with workspace(out, overwrite=True) as one:
        with monkeypatch.context() as away:
            away.setattr(leftovers, "host_token", lambda: AWAY)
            away.setattr(leftovers, "same_system", lambda token: False)
            away.setattr(leftovers, "lock_folder", lambda *args, **options: None)
            with workspace(out, overwrite=True) as other:
                assert other.path != one.path
                assert one.path.exists()
                publish(other, "theirs")
        publish(one, "ours")
    assert (out / "file").read_text(encoding="utf-8") == '{"text": "ours"}'
    assert os.listdir(tmp_path) == ["out"]


def test_a_run_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs_of_life, "BEAT", 0.01)
    with workspace(tmp_path / "out", overwrite=False) as work:
        begun = work.path.stat().st_ctime_ns
        wait_for(lambda: work.path.stat().st_ctime_ns != begun)
        assert signs_of_life.silence(work.path) < signs_of_life.SILENT
    assert signs_of_life.silence(work.path) == 0


def test_small_files_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / f".history.quantkit-{10**9}.{AWAY}-abc"
    theirs.touch()
    replace_file.replace_file(tmp_path / "history", b"text")
    assert theirs.exists()
    monkeypatch.setattr(replace_file, "silence", lambda path: 500.0)
    replace_file.replace_file(tmp_path / "history", b"text")
    assert os.listdir(tmp_path) == ["history"]
