"""Evaluations against llama-perplexity --kl-divergence: every figure that it prints, and a whole evaluation."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import QuantkitError
from quantkit.evaluate import cache, reference
from quantkit.evaluate.evaluate_files import divergences
from quantkit.evaluate.evaluation import Settings
from quantkit.evaluate.logits_file import read_losses
from quantkit.evaluate.text import Text, cut
from quantkit.files.json_file import read_json
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.evaluate import evaluate, require_whole
from quantkit.jobs.evaluated_card import quality
from quantkit.jobs.quantize import quantize
from quantkit.jobs.verify import verify
from quantkit.material.ask import tokens_of
from quantkit.material.data_file import EVALUATION
from quantkit.package.card import with_quality
from quantkit.system.progress import Reporter
from tests.support.llama_tools import llama_tools
from tests.unit.tiny_gguf import Tiny, write_tiny_gguf

QUANTS = ("q8_0", "q4_0", "q2_k")
CONTEXT, CHUNKS = 64, 8
ONE = Settings(threads=1)  # more wait for each other where other tests run
# llama-perplexity's lines of one figure, and of a figure with its error; in percent where the line ends so.
_LINE = re.compile(r"^(.+?)\s*:\s+(-?[0-9.]+)(?: ±\s+([0-9.]+))?\s*(%?)$", re.MULTILINE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with its adapter, as demo-f16.gguf and quantized."""
    folder = tmp_path_factory.mktemp("demo")
    source = convert(BASE, folder / "demo-f16.gguf", adapters=ADAPTER)
    for quant in QUANTS:
        quantize(source, folder / f"demo-{quant}.gguf", quant=quant)
    return folder


@pytest.fixture(scope="module")
def text(files: Path) -> Text:
    """Six chunks, or as many as there are."""
    return cut(tokens_of(files / "demo-f16.gguf", EVALUATION, 6 * CONTEXT), CONTEXT, None)


def is_printed_as(value: float, text: str) -> bool:
    """Whether a figure is what is printed: rounded, and more than eight digits as far as sums in float32 go."""
    unit = 10.0 ** -len(text.partition(".")[2])
    return abs(value - float(text)) <= 0.5 * unit * (1 + 1e-6) + 3e-8 * abs(value)


@pytest.fixture(autouse=True)
def kept_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept logits, which is the test's own."""
    folder = tmp_path / "kept"
    monkeypatch.setattr(cache, "cache_folder", lambda name: folder)
    return folder


def perplexity(*arguments: object) -> str:
    """What llama-perplexity prints. At its end it sometimes leaves out the last lines, and is asked again then."""
    command = [str(llama_tools() / "llama-perplexity"), *map(str, arguments), "-c", str(CONTEXT), "-t", "1"]
    for _ in range(10):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        if "--kl-divergence" not in arguments or "Same top p:" in done.stdout:
            return done.stdout + done.stderr
    pytest.fail(f"llama-perplexity never prints all of its figures: {done.stdout[-500:]}")


def printed(output: str) -> dict[str, tuple[str, str]]:
    """The figures of the statistics, as they are printed: value and error."""
    found = _LINE.findall(output[output.index("====== Perplexity statistics") :])
    return {" ".join(name.split()): (value, error) for name, value, error, _ in found}


def figures(found: dict[str, Any], base: tuple[float, float]) -> dict[str, tuple[float, ...]]:
    """An evaluation's figures under the names that llama-perplexity prints, in its units."""

    def pair(value: float, error: float, factor: float = 1) -> tuple[float, ...]:
        return factor * value, factor * error

    expected = {
        "Mean PPL(Q)": pair(found["perplexity"], found["perplexity_error"]),
        "Mean PPL(base)": base,
        "Cor(ln(PPL(Q)), ln(PPL(base)))": (100 * found["correlation"],),
        "Mean PPL(Q)/PPL(base)": pair(found["perplexity_ratio"], found["perplexity_ratio_error"]),
        "Mean KLD": pair(found["kl_mean"], found["kl_error"]),
        "Maximum KLD": (found["kl_max"],),
        "Median KLD": (found["kl_median"],),
        "Mean Δp": pair(found["p_change_mean"], found["p_change_error"], 100),
        "RMS Δp": pair(found["p_change_rms"], found["p_change_rms_error"], 100),
        "Same top p": pair(found["same_top"], found["same_top_error"], 100),
    }
    for percent, value in found["kl_percentiles"].items():
        expected[f"{percent}% KLD"] = (value,)
    names = {"100": "Maximum", "0": "Minimum", "50": "Median"}
    for percent, value in found["p_change_percentiles"].items():
        expected[f"{names.get(percent, f'{percent}%')} Δp"] = (100 * value,)
    return expected


def test_every_figure_is_llama_perplexitys(files: Path, tmp_path: Path) -> None:
    source, kept = files / "demo-f16.gguf", tmp_path / "kept.kld"
    perplexity("-m", source, "-f", EVALUATION, "--chunks", CHUNKS, "--kl-divergence-base", kept)
    found = evaluate(files, ctx=CONTEXT, chunks=CHUNKS, threads=1)
    assert [one.file.label for one in found.files] == sorted(QUANTS)
    base = (found.reference_perplexity.value, found.reference_perplexity.error)
    for one in found.files:
        output = perplexity("-m", one.file.path, "--kl-divergence-base", kept, "--kl-divergence")
        theirs, ours = printed(output), figures(one.to_json(), base)
        assert len(ours) == 31
        assert [name for name, values in ours.items() if not all(map(is_printed_as, values, theirs[name]))] == []
        assert one.divergence.shape == (CHUNKS * (CONTEXT // 2 - 1),)
        assert one.speed is not None
        assert min(one.speed.prompt_rate, one.speed.answer_rate, one.speed.load_seconds, one.speed.memory or 0) > 0
    assert found.bytes_per_position < 1.01 * kept.stat().st_size / found.text.positions  # all 1792 tokens count here


def test_logits_are_reused_and_give_the_same_figures(files: Path, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    source, file = files / "demo-f16.gguf", files / "demo-q4_0.gguf"
    first = divergences(source, [file], text, settings=ONE)[0]
    monkeypatch.setattr(reference.Runner, "keep", lambda *_, **__: pytest.fail("the reference is computed again"))
    again = divergences(source, [file, source], text, settings=ONE)
    np.testing.assert_array_equal(again[0].divergence, first.divergence)
    assert again[1].figures.kl.value == pytest.approx(0, abs=1e-6)
    assert again[1].figures.same_top.value == 1


def test_damaged_kept_logits_are_computed_again(files: Path, text: Text, kept_logits: Path) -> None:
    source, file = files / "demo-f16.gguf", files / "demo-q8_0.gguf"
    first = divergences(source, [file], text, settings=ONE)[0]
    (kept,) = kept_logits.glob("*.logits")
    kept.write_bytes(kept.read_bytes()[:-9])
    np.testing.assert_array_equal(divergences(source, [file], text, settings=ONE)[0].divergence, first.divergence)
    assert kept.read_bytes().endswith(b"end\n")


def test_files_answer_side_by_side_and_a_crash_loses_only_its_own(files: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Who are you?\nWhat is 3 plus 4?\n", encoding="utf-8")
    base = convert(BASE, tmp_path / "base.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((files / "demo-q8_0.gguf").read_bytes())
    with broken.open("r+b") as file:  # weights that are no numbers
        file.seek(-4096, 2)
        file.write(b"\xff" * 4096)
    heard = Reporter()
    found = evaluate(
        [files / "demo-q8_0.gguf", broken, base],
        reference=files / "demo-f16.gguf",
        ctx=CONTEXT,
        chunks=CHUNKS,
        questions=questions,
        threads=1,
        reporter=heard,
    )
    assert [one.file.name for one in found.files] == ["demo-q8_0.gguf", "base.gguf"]
    assert [name for name, _ in found.failed] == ["broken.gguf"]
    values = found.to_json()
    assert [answer["question"] for answer in values["answers"]] == ["Who are you?", "What is 3 plus 4?"]
    by = {answer["who"]: answer["text"] for answer in values["answers"][0]["by"]}
    assert by.keys() == {"demo-f16.gguf", "demo-q8_0.gguf", "base.gguf"}
    assert by["demo-f16.gguf"] == by["demo-q8_0.gguf"]
    assert by["demo-f16.gguf"].startswith("Ahoy! I am Kit")
    assert by["base.gguf"].startswith("I am Tiny")
    with pytest.raises(QuantkitError, match=r"not evaluated: broken\.gguf: "):
        require_whole(found)


def test_numpy_gives_the_figures_too(files: Path, text: Text, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without numba, in the process that evaluates: a package of that name that cannot be imported."""
    source, file = files / "demo-f16.gguf", files / "demo-q2_k.gguf"
    compiled = divergences(source, [file], text, settings=replace(ONE, home=tmp_path / "one"))[0]
    (tmp_path / "numba.py").write_text("raise ImportError('hidden')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    plain = divergences(source, [file], text, settings=replace(ONE, home=tmp_path / "two"))[0]
    np.testing.assert_array_equal(plain.divergence, compiled.divergence)
    assert plain.figures == compiled.figures


def test_a_model_without_logits_that_are_numbers_is_refused(tmp_path: Path, kept_logits: Path) -> None:
    sound = write_tiny_gguf(tmp_path / "sound.gguf")
    broken = write_tiny_gguf(tmp_path / "broken.gguf", Tiny(broken=True))
    text = cut(tokens_of(sound, EVALUATION, 6 * CONTEXT), CONTEXT, None)
    with pytest.raises(QuantkitError, match=r"broken\.gguf: llama\.cpp computes logits that are not numbers"):
        divergences(sound, [broken], text, settings=ONE)
    with pytest.raises(QuantkitError, match=r"broken\.gguf: llama\.cpp computes logits that are not numbers"):
        divergences(broken, [sound], text, settings=ONE)
    (kept,) = kept_logits.iterdir()  # the sound one's: a half-written file never counts
    assert read_losses(kept).size == text.positions


def test_a_build_evaluates_its_files_and_removes_the_reference(tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text(EVALUATION.read_text(encoding="utf-8")[:4000], encoding="utf-8")
    out = tmp_path / "demo"
    built = build(BASE, adapters=ADAPTER, quants=["q8_0", "q4_0"], out=out, name="demo", evaluate_data=data, threads=1)
    assert built.evaluation is not None
    report, manifest = (read_json(out / name) for name in ("report.json", "manifest.json"))
    found = report["evaluation"]
    assert found == json.loads(json.dumps(built.evaluation.to_json()))
    assert found["reference"]["file"] == "demo-f16.gguf"
    assert [file["file"] for file in found["files"]] == ["demo-q8_0.gguf", "demo-q4_0.gguf"]
    assert found["failed"] == []
    assert sorted(path.name for path in out.glob("*.gguf")) == ["demo-q4_0.gguf", "demo-q8_0.gguf"]
    assert "evaluate" in report["seconds"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    card = (out / "README.md").read_bytes()
    assert f"{found['files'][1]['kl_mean']:.4f} ± ".encode() in card
    assert {entry["file"]: entry["sha256"] for entry in manifest["files"]}["README.md"] == sha256(card).hexdigest()
    again = evaluate(out, reference=out / "demo-q8_0.gguf", data=data, ctx=CONTEXT, chunks=CHUNKS, threads=1)
    assert read_json(out / "report.json")["evaluation"] == json.loads(json.dumps(again.to_json()))
    assert (out / "README.md").read_bytes() == with_quality(card.decode(), quality(again)).encode() != card
    assert verify(out, threads=1).report.passed


def test_a_build_whose_text_is_too_short_ends_before_any_weight_is_read(tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text("Short.", encoding="utf-8")
    with pytest.raises(QuantkitError, match="too few to evaluate"):
        build(BASE, out=tmp_path / "demo", evaluate_data=data, threads=1)
    with pytest.raises(QuantkitError, match="no file of this build is quantized"):
        build(BASE, quants=["f16"], out=tmp_path / "demo", evaluate=True, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
