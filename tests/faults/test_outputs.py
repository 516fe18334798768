"""Outputs that cannot be written: nothing is lost that was there, nothing half-made is left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from quantkit.engine.backend import Backend, Encoded
from quantkit.files.replaceable import Mark
from quantkit.model.merge_record import MERGED_MARK
from quantkit.package.manifest import PACKAGE_MARK
from tests.checkpoints.case import Case, edit_tensors
from tests.checkpoints.defect import BUILD, CONVERT, MERGE, PACKAGE, QUANTIZE
from tests.faults.cli import assert_refused, older_output, run_here, run_process

NewCase = Callable[..., Case]
Capsys = pytest.CaptureFixture[str]

COMMANDS = {"build": BUILD, "convert": CONVERT, "merge": MERGE, "quantize": QUANTIZE, "package": PACKAGE}
every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())


def break_a_weight(case: Case) -> None:
    """So that a run fails in the middle of the stream."""
    edit_tensors(case.weights, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))


def test_a_wrong_encoder_publishes_nothing(new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are compared with libggml's while the stream runs, which may be over first."""
    encode = Backend.encode

    def wrong(self: Backend, *arguments: Any) -> Encoded:
        found = encode(self, *arguments)
        return replace(found, data=[bytes([data[0] ^ 1]) + bytes(data[1:]) for data in map(bytes, found.data)])

    case = new_case()
    monkeypatch.setattr(Backend, "encode", wrong)
    assert_refused(run_here(case.arguments(CONVERT), capsys), ["makes other bytes of tensor"], "numba")
    assert os.listdir(case.outputs) == []


# An output that exists


@every_command
def test_an_existing_folder_is_kept(command: Sequence[str], new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.out.mkdir()
    (case.out / "mine.txt").write_text("mine", encoding="utf-8")
    assert_refused(run_here(case.arguments(command), capsys), [str(case.out), "exists"], "--overwrite")
    assert os.listdir(case.outputs) == ["out"]
    assert (case.out / "mine.txt").read_text(encoding="utf-8") == "mine"


@every_command
def test_an_existing_file_is_kept(command: Sequence[str], new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.out.write_text("mine", encoding="utf-8")
    assert_refused(run_here(case.arguments(command), capsys), [str(case.out), "exists"], "--overwrite")
    assert os.listdir(case.outputs) == ["out"]
    assert case.out.read_text(encoding="utf-8") == "mine"


def test_a_link_to_nowhere_exists_too(new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.out.symlink_to(case.root / "nowhere")
    assert_refused(run_here(case.arguments(BUILD), capsys), [str(case.out), "exists"], "--overwrite")
    assert case.out.is_symlink()


@pytest.mark.parametrize(
    ("command", "mark"),
    [(BUILD, None), (BUILD, MERGED_MARK), (MERGE, None), (MERGE, PACKAGE_MARK), (PACKAGE, None)],
    ids=["build", "build-merged", "merge", "merge-package", "package"],
)
def test_overwrite_never_replaces_a_folder_of_another_kind(
    command: Sequence[str], mark: Mark | None, new_case: NewCase, capsys: Capsys
) -> None:
    case = new_case()
    older_output(case.out, mark or PACKAGE_MARK)
    if mark is None:
        (case.out / PACKAGE_MARK.file).write_text('{"name": "another program\'s"}', encoding="utf-8")
    before = sorted(os.listdir(case.out))
    outcome = run_here([*case.arguments(command), "--overwrite"], capsys)
    assert_refused(outcome, [str(case.out), "not made by this command", "old.txt"], "output path")
    assert sorted(os.listdir(case.out)) == before


@pytest.mark.parametrize("command", [MERGE, PACKAGE], ids=["merge", "package"])
def test_outputs_have_the_mark(command: Sequence[str], new_case: NewCase, capsys: Capsys) -> None:
    """What a command wrote, it can replace; and an empty folder needs no option."""
    case = new_case()
    case.out.mkdir()
    assert run_here(case.arguments(command), capsys).code == 0
    assert run_here(case.arguments(command), capsys).code == 1
    assert run_here([*case.arguments(command), "--overwrite"], capsys).code == 0


@every_command
def test_overwrite_replaces(command: Sequence[str], new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    if command in (CONVERT, QUANTIZE):
        case.out.write_text("old", encoding="utf-8")
    else:
        older_output(case.out, MERGED_MARK if command == MERGE else PACKAGE_MARK)
    outcome = run_here([*case.arguments(command), "--overwrite"], capsys)
    assert outcome.code == 0, outcome.stderr
    assert os.listdir(case.outputs) == ["out"]
    assert not (case.out / "old.txt").exists()
    assert case.out.is_dir() or case.out.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("command", [BUILD, MERGE], ids=["build", "merge"])
def test_overwrite_keeps_the_old_one_when_the_run_fails(
    command: Sequence[str], new_case: NewCase, capsys: Capsys
) -> None:
    case = new_case()
    break_a_weight(case)
    older_output(case.out, MERGED_MARK if command == MERGE else PACKAGE_MARK)
    assert_refused(run_here([*case.arguments(command), "--overwrite"], capsys), ["NaN"], "download")
    assert os.listdir(case.outputs) == ["out"]
    assert (case.out / "old.txt").read_text(encoding="utf-8") == "old"


def test_the_old_one_comes_back_when_the_new_one_cannot_take_its_name(
    new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = new_case()
    older_output(case.out, PACKAGE_MARK)
    monkeypatch.setattr("quantkit.files.workspace.exchange", lambda path, other: False)
    rename = os.rename

    def failing(source: Any, target: Any) -> None:
        if Path(target) == case.out and "quantkit-old" not in str(source):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    assert_refused(run_here([*case.arguments(BUILD), "--overwrite"], capsys), [str(case.out), "Input/output error"], "")
    assert os.listdir(case.outputs) == ["out"]
    assert (case.out / "old.txt").read_text(encoding="utf-8") == "old"


class Input(NamedTuple):
    """An output path that holds what the command reads."""

    command: Sequence[str]
    out: str


INPUTS = {
    "model": Input(BUILD, "{model}"),
    "folder-of-the-model": Input(BUILD, "{root}"),
    "adapter": Input(MERGE, "{adapter}"),
    "link-to-the-model": Input(BUILD, "{root}/link"),
    "gguf": Input(QUANTIZE, "{gguf}"),
    "gguf-of-a-package": Input(PACKAGE, "{gguf}"),
}


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS.keys())
def test_overwrite_never_replaces_the_input(given: Input, new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    (case.root / "link").symlink_to(case.model)
    before = {path: path.stat().st_size for path in case.root.rglob("*") if path.is_file()}
    arguments = [
        argument if argument != str(case.out) else case.fill(given.out) for argument in case.arguments(given.command)
    ]
    assert_refused(run_here([*arguments, "--overwrite"], capsys), [case.fill(given.out)], "output path")
    assert {path: path.stat().st_size for path in case.root.rglob("*") if path.is_file()} == before


def test_the_current_folder_is_not_replaced(new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    case = new_case()
    monkeypatch.chdir(case.outputs)
    arguments = [*case.arguments(BUILD[:2]), "-o", ".", "--overwrite", "--no-verify"]
    assert_refused(run_here(arguments, capsys), [str(case.outputs), "current folder"], "output path")
    assert os.listdir(case.outputs) == []


# A parent that cannot be written


@every_command
def test_output_below_a_file(command: Sequence[str], new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.out.write_text("a file", encoding="utf-8")
    arguments = [
        f"{case.out}/deeper/out" if argument == str(case.out) else argument for argument in case.arguments(command)
    ]
    assert_refused(run_here(arguments, capsys), [f"{case.out}/deeper/out", "cannot be written"], "-o")
    assert case.out.read_text(encoding="utf-8") == "a file"


def test_output_with_a_name_too_long(new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    long = str(case.outputs / ("n" * 300))
    arguments = [long if argument == str(case.out) else argument for argument in case.arguments(CONVERT)]
    assert_refused(run_here(arguments, capsys), ["too long"], "correct the path")
    assert os.listdir(case.outputs) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_output_in_a_folder_without_permission(new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    case.outputs.chmod(0o555)
    assert_refused(run_here(case.arguments(BUILD), capsys), [str(case.out), "Permission denied"], "-o")
    assert os.listdir(case.outputs) == []


# Real disks of a chosen size: a mount of our own, seen by the command alone


@pytest.fixture(scope="session")
def may_mount() -> None:
    """Skip where a process may not have mounts of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: a disk of a chosen size cannot be mounted")
    probe = [*_UNSHARE, "sh", "-c", "mount -t tmpfs -o size=64k none /tmp"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this system gives processes no mounts of their own")


_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
# $0 is the mount point, $1 its options, the rest the command. What is left on the disk goes to stdout.
_ON_A_DISK = 'mount -t tmpfs -o "$1" none "$0" || exit 99; shift; "$@"; code=$?; ls -A "$0"; exit $code'


def on_a_disk(folder: Path, options: str) -> tuple[str, ...]:
    return (*_UNSHARE, "sh", "-c", _ON_A_DISK, str(folder), options)


@pytest.mark.usefixtures("may_mount")
def test_a_disk_too_small(new_case: NewCase) -> None:
    case = new_case()
    outcome = run_process(case.arguments(BUILD), cwd=case.root, within=on_a_disk(case.outputs, "size=256k"))
    assert_refused(outcome, [str(case.out), "need", "free"], "free some space")


@pytest.mark.usefixtures("may_mount")
def test_a_disk_that_is_full_before_the_texts_are_written(new_case: NewCase, capsys: Capsys) -> None:
    """The GGUF file fits with a page to spare; Modelfile, scripts and manifest do not."""
    case = new_case()
    assert run_here(case.arguments(BUILD), capsys).code == 0
    (model,) = case.out.glob("*.gguf")
    size = -(-model.stat().st_size // 4096) * 4096 + 4096
    shutil.rmtree(case.out)
    outcome = run_process(case.arguments(BUILD), cwd=case.root, within=on_a_disk(case.outputs, f"size={size}"))
    assert_refused(outcome, [str(case.outputs), "No space left"], "free some space")


@pytest.mark.usefixtures("may_mount")
def test_a_disk_that_is_full_before_the_configs_of_a_merge_are_written(new_case: NewCase, capsys: Capsys) -> None:
    case = new_case()
    assert run_here(case.arguments(MERGE), capsys).code == 0
    size = -(-(case.out / "model.safetensors").stat().st_size // 4096) * 4096 + 4096
    shutil.rmtree(case.out)
    outcome = run_process(case.arguments(MERGE), cwd=case.root, within=on_a_disk(case.outputs, f"size={size}"))
    assert_refused(outcome, [str(case.outputs), "No space left"], "free some space")


@pytest.mark.usefixtures("may_mount")
def test_a_read_only_disk(new_case: NewCase) -> None:
    case = new_case()
    outcome = run_process(case.arguments(BUILD), cwd=case.root, within=on_a_disk(case.outputs, "ro"))
    assert_refused(outcome, [str(case.out), "Read-only"], "-o")


@pytest.mark.usefixtures("may_mount")
def test_a_full_folder_for_temporary_files(new_case: NewCase) -> None:
    """The plan's dry run makes a file there, and there is room for a folder alone."""
    case = new_case()
    temporary = case.root / "tmp"
    temporary.mkdir()
    within = on_a_disk(temporary, "size=64k,nr_inodes=2")
    outcome = run_process(case.arguments(BUILD), cwd=case.root, within=within, extra={"TMPDIR": str(temporary)})
    assert_refused(outcome, ["No space left"], "TMPDIR")
    assert os.listdir(case.outputs) == []


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit")
@pytest.mark.parametrize("command", [BUILD, MERGE], ids=["build", "merge"])
def test_files_may_not_become_so_large(command: Sequence[str], new_case: NewCase) -> None:
    case = new_case()
    outcome = run_process(case.arguments(command), cwd=case.root, within=("prlimit", "--fsize=65536"))
    assert_refused(outcome, ["File too large"], "")
    assert os.listdir(case.outputs) == []


# Disks that fail in the middle


@every_command
def test_less_space_than_the_plan_needs(
    command: Sequence[str], new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int = 10**12
        used: int = 10**12 - 1000
        free: int = 1000

    case = new_case()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage())
    outcome = run_here(case.arguments(command), capsys)
    if command is PACKAGE:  # links its files
        assert outcome.code == 0, outcome.stderr
        return
    assert_refused(outcome, [str(case.out), "need", "free"], "free some space")
    assert os.listdir(case.outputs) == []


@pytest.mark.parametrize("command", [BUILD, CONVERT, MERGE, QUANTIZE], ids=["build", "convert", "merge", "quantize"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_the_disk_is_full_after_some_writes(
    command: Sequence[str], after: int, new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, pwrite, done = new_case(), os.pwrite, []

    def failing(*args: Any) -> int:
        done.append(1)
        if len(done) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(*args)

    monkeypatch.setattr(os, "pwrite", failing)
    assert_refused(run_here(case.arguments(command), capsys), ["No space left"], "free some space")
    assert os.listdir(case.outputs) == []


def test_no_space_to_reserve(new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    case = new_case()
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert_refused(run_here(case.arguments(BUILD), capsys), ["No space left"], "free some space")
    assert os.listdir(case.outputs) == []


def test_the_disk_fails_to_flush(new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    case = new_case()
    monkeypatch.setattr(os, "fsync", failing)
    assert_refused(run_here([*case.arguments(BUILD), "--fsync"], capsys), ["Input/output error"], "")
    assert os.listdir(case.outputs) == []


def test_the_disk_fails_to_read(new_case: NewCase, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int, buffers: Any, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    case = new_case()
    monkeypatch.setattr(os, "preadv", failing)
    assert_refused(run_here(case.arguments(BUILD), capsys), ["model.safetensors", "Input/output error"], "")
    assert os.listdir(case.outputs) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_the_result_cannot_be_printed(new_case: NewCase) -> None:
    case = new_case()
    outcome = run_process(case.arguments(CONVERT), cwd=case.root, within=("sh", "-c", '"$@" > /dev/full', "sh"))
    assert_refused(outcome, ["No space left"], "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("out", "code"), [("{out}", 0), ("{gguf}", 1)], ids=["done", "refused"])
def test_errors_and_notes_cannot_be_printed(out: str, code: int, new_case: NewCase) -> None:
    """A log on a full disk: the work does not depend on it, and the exit code says what came of it."""
    case = new_case()
    arguments = case.arguments((*PACKAGE[:-1], out))
    outcome = run_process(arguments, cwd=case.root, within=("sh", "-c", '"$@" 2> /dev/full', "sh"))
    assert outcome.code == code
    assert case.out.exists() == (code == 0)
