"""``quantkit evaluate`` on a tiny model: what it prints, and its exit codes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from quantkit.cli.evaluate import measured
from quantkit.cli.main import main
from quantkit.evaluate import cache
from quantkit.jobs.quantize import quantize
from quantkit.system.terminal_text import columns
from tests.unit.tiny_gguf import Tiny, write_tiny_gguf

SHORT = ("--ctx", "64", "--chunks", "4", "--threads", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """m-f32.gguf and m-q8_0.gguf; kept logits are the test's own."""
    monkeypatch.setattr(cache, "cache_folder", lambda name: tmp_path / "kept")
    made = tmp_path / "made"
    made.mkdir()
    quantize(write_tiny_gguf(made / "m-f32.gguf"), made / "m-q8_0.gguf", quant="q8_0")
    return made


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return int(ended.value.code or 0)


def test_a_folder_is_evaluated(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Who are you?\n", encoding="utf-8")
    assert run("evaluate", folder, "--questions", questions, *SHORT) == 0
    out, err = capsys.readouterr()
    assert "compared with m-f32.gguf, the unquantized file" in err
    lines = out.splitlines()
    assert lines[0] == (
        "evaluated on 124 positions of the text quantkit-evaluation.txt (4 chunks of 64 tokens), "
        "compared with m-f32.gguf"
    )
    assert lines[2].split()[:3] == ["file", "size", "perplexity"]
    assert lines[6].split()[:3] == ["file", "bits", "99"]
    for table in (lines[3:5], lines[7:9]):
        assert [line.split()[0] for line in table] == ["m-f32.gguf", "m-q8_0.gguf"]
    assert max(map(len, lines[1:])) <= 80
    assert lines[10:] == [">>> Who are you?", "m-f32.gguf:", f"  {Tiny().answer}", "m-q8_0.gguf:", f"  {Tiny().answer}"]


def test_json_and_a_file_that_cannot_be_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_gguf(folder / "n-broken.gguf", Tiny(broken=True))
    assert run("evaluate", folder, "--reference", folder / "m-f32.gguf", "--json", *SHORT) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["schema"], found["reference"]["label"], found["text"]["positions"]) == (1, "f32", 124)
    assert [file["file"] for file in found["files"]] == ["m-q8_0.gguf"]
    assert found["files"][0]["kl_mean"] < 0.01
    assert [file["file"] for file in found["failed"]] == ["n-broken.gguf"]
    assert "error: not evaluated: n-broken.gguf: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing argument"),
        (("m-f32.gguf",), 1, "a file cannot be evaluated against itself"),
        (("none.gguf",), 1, "no such file or folder"),
        (("m-q8_0.gguf", "--data", "none.txt"), 1, "cannot be read"),
        (("m-q8_0.gguf", "--ctx", "4"), 2, "--ctx"),
        (("m-q8_0.gguf", "--ctx", "64", "--chunks", "1"), 1, "are too few to evaluate"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert run("evaluate", *arguments) == code
    err = capsys.readouterr().err
    assert message in err
    assert code == 2 or "hint: " in err


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [(28.7036, 0.9061, "28.70 ± 0.91"), (6323.4, 263.7, "6323 ± 264"), (1.00522, 0.01173, "1.005 ± 0.012"),
     (5.0, 0.0, "5.00 ± 0.00"), (5.0, math.nan, "5.00 ± nan")],
)  # fmt: skip
def test_a_figure_has_the_digits_of_its_error(value: float, error: float, shown: str) -> None:
    assert measured(value, error) == shown


@pytest.mark.parametrize(("width", "first"), [(None, "a-long-name-q4_k_m.gguf"), (80, "a-long-name-q4_k_m.gguf")])
def test_a_table_that_fits_is_left_alone(width: int | None, first: str) -> None:
    assert columns([("file", "size"), ("a-long-name-q4_k_m.gguf", "1.5 GB")], width)[1].split()[0] == first


@pytest.mark.parametrize(("width", "first"), [(28, "…ng-name-q4_k_m.gguf"), (5, "…q4_k_m.gguf")])
def test_a_name_loses_its_beginning_in_a_narrow_terminal(width: int, first: str) -> None:
    lines = columns([("file", "size"), ("a-long-name-q4_k_m.gguf", "1.5 GB"), ("b", "2 GB")], width)
    assert lines[1] == f"{first}  1.5 GB"
    assert max(map(len, lines)) <= max(width, 20)


def test_columns_of_chinese_names() -> None:
    """Such a letter is two columns of a terminal wide."""
    assert columns([("file", "大小"), ("模型.gguf", "1"), ("m.gguf", "10")]) == [
        "file       大小",
        "模型.gguf     1",
        "m.gguf       10",
    ]
    assert columns([("船长的小模型-q4_k_m.gguf", "1")], 19) == ["…型-q4_k_m.gguf   1"]
