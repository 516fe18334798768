"""``quantkit imatrix``: what it takes, what it says, and how it goes on after Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quantkit.calibrate import make
from quantkit.calibrate.imatrix_file import read_progress
from quantkit.cli.main import cli
from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import OutputError, QuantkitError
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.imatrix import imatrix
from quantkit.material.data_file import CALIBRATION, EVALUATION, read_data
from quantkit.plan.imatrix import read_imatrix
from quantkit.system.progress import Reporter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Several threads of several test processes would wait for each other."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    yield
    os.environ.pop("OMP_WAIT_POLICY") if before is None else os.environ.update(OMP_WAIT_POLICY=before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as F16 and q8_0, and a text."""
    folder = tmp_path_factory.mktemp("imatrix")
    convert(BASE, folder / "model.gguf", adapters=ADAPTER)
    build(BASE, adapters=ADAPTER, quants=["q4_0", "q8_0"], name="kit", out=folder / "package", verify=False)
    text = read_data(EVALUATION).text
    (folder / "text.txt").write_text(text[: len(text) // 2], encoding="utf-8")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["imatrix", *map(str, arguments), "--threads", "1"])


def test_of_a_file_and_of_its_checkpoint_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    options = ["--data", folder / "text.txt", "--ctx", 64, "--chunks", 6]
    done = run(folder / "model.gguf", "-o", tmp_path / "a.gguf", *options, "--json")
    assert done.exception is None, done.output
    said = json.loads(done.output)
    assert (said["data"], said["chunks"], said["tokens"], said["few"]) == ("text.txt", 6, 384, [])
    assert said["tensors"] == len(read_imatrix(tmp_path / "a.gguf"))
    done = run(BASE, "--adapter", ADAPTER, "-o", tmp_path / "b.gguf", *options)
    assert done.exception is None, done.output
    assert "6 chunks of 64 tokens of text.txt" in done.output
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_of_a_package_its_largest_file_is_used(folder: Path, tmp_path: Path) -> None:
    reporter = Reporter()
    imatrix(folder / "package", tmp_path / "a.gguf", context=64, chunks=2, reporter=reporter, threads=1)
    assert any("kit-q8_0.gguf" in note and "no unquantized file" in note for note in reporter.notes)
    assert any("is quantized (q8_0)" in note for note in reporter.notes)
    kept = shutil.copytree(folder / "package", tmp_path / "kept")
    shutil.copy(folder / "model.gguf", kept / "kit-f16.gguf")
    manifest = json.loads((kept / "manifest.json").read_text(encoding="utf-8"))
    manifest["models"].append({**manifest["models"][0], "file": "kit-f16.gguf", "quant": "f16"})
    (kept / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    reporter = Reporter()
    imatrix(kept, tmp_path / "b.gguf", context=64, chunks=2, reporter=reporter, threads=1)
    assert reporter.notes == []


def test_of_a_split_model_the_first_part_is_given(folder: Path, tmp_path: Path) -> None:
    first = convert(BASE, tmp_path / "model.gguf", adapters=ADAPTER, split_max_size="200K")
    assert first.name.startswith("model-00001-of-000")
    whole, parts = (
        imatrix(gguf, tmp_path / f"{gguf.stem}.imatrix", context=64, chunks=2, threads=1).file.read_bytes()
        for gguf in (folder / "model.gguf", first)
    )
    assert parts == whole


def test_conversations_are_counted(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    line = json.dumps({"instruction": "Count.", "output": " ".join(map(str, range(30)))})
    data.write_text(f"{line}\n" * 9, encoding="utf-8")
    reporter = Reporter()
    made = imatrix(folder / "model.gguf", tmp_path / "a.gguf", data=data, context=32, reporter=reporter, threads=1)
    assert made.chunks >= 8
    assert made.data == "data.jsonl"


class Interrupting(Reporter):
    """Presses Ctrl-C when the first chunks are done."""

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        def advance(amount: int) -> None:
            if name == "calibrating" and amount:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance


def test_interrupted_and_continued_it_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = folder / "model.gguf", folder / "text.txt"
    whole, parts = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    imatrix(model, whole, data=text, context=600, threads=1)  # three chunks together
    reporter = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        imatrix(model, parts, data=text, context=600, threads=1, reporter=reporter)
    progress = read_progress(parts)
    assert progress is not None
    assert progress.done == 3 < progress.chunks
    assert f"{parts} has 3 of {progress.chunks} chunks and can be used as it is" in reporter.notes[-1]
    assert read_imatrix(parts).keys() == read_imatrix(whole).keys()
    assert len([*tmp_path.iterdir()]) == 2
    with pytest.raises(OutputError, match="an unfinished importance matrix with another text"):
        imatrix(model, parts, data=CALIBRATION, context=600, chunks=progress.chunks, threads=1)
    monkeypatch.setattr(make, "_SAVE_SECONDS", 0.0)  # saved after each step, too
    reporter = Reporter()
    made = imatrix(model, parts, data=text, context=600, threads=1, reporter=reporter)
    assert made.begun_at == 3
    assert reporter.notes == [
        f"{parts} has 3 of {progress.chunks} chunks; continued with chunk 4",
        "chunks of 600 tokens, but the model was trained on 512",
    ]
    assert parts.read_bytes() == whole.read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        imatrix(model, parts, data=text, context=600, threads=1)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    model, text = folder / "model.gguf", folder / "text.txt"
    for arguments, message in (
        ((model, "--adapter", ADAPTER), "adapters are merged into a checkpoint"),
        ((model, "--data", tmp_path / "none.txt"), "none.txt: cannot be read"),
        ((model, "--data", text, "--ctx", 9000), "two chunks of 9000 are the least"),
        ((folder / "none.gguf",), "none.gguf"),
        ((text,), "not a GGUF file"),
    ):
        done = run(*arguments, "-o", out)
        assert isinstance(done.exception, QuantkitError), done.output
        assert message in str(done.exception)
        assert not out.exists()
    out.write_bytes(b"mine")
    done = run(model, "--data", text, "-o", out)
    assert isinstance(done.exception, OutputError)
    assert out.read_bytes() == b"mine"
