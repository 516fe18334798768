"""``build --prove`` and ``quantkit prove``, through their processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from quantkit.cli.main import cli
from quantkit.errors import VerificationError
from quantkit.files.json_file import read_json
from quantkit.gguf.kv import KV
from quantkit.jobs.build import build
from quantkit.model.opened import Model
from tests.support.planted_faults import FAULTS, plant

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, checkpoint: Maker, adapter: Maker) -> Path:
    """A folder with ``base`` and ``lora``, and ``package`` built of them with a proof."""
    folder = tmp_path_factory.mktemp("proof")
    shutil.copytree(checkpoint("llama3-untied", dtype="f32"), folder / "base")
    shutil.copytree(adapter("seven-projections"), folder / "lora")
    result = build(
        folder / "base", adapters=folder / "lora", quants="q8_0", name="tiny", out=folder / "package", prove=True
    )
    assert result.proof is not None
    assert result.proof.passed
    return folder


def test_a_build_is_proven(sources: Path) -> None:
    report = read_json(sources / "package" / "report.json")
    proof = report["proof"]
    assert report["passed"] is True
    assert (proof["passed"], proof["by_layer"], proof["device"]) == (True, True, "cpu")
    assert {*proof["files"]} == {"tiny-q8_0.gguf", "tiny-f16.gguf"}
    assert proof["files"]["tiny-f16.gguf"]["mean"] < 3e-4 < proof["files"]["tiny-q8_0.gguf"]["mean"]
    assert len(proof["sequences"]) == sum(one["text"] is not None for one in report["prompts"])


def test_prove_finds_its_sources_and_takes_a_text(sources: Path) -> None:
    text = sources / "page.txt"
    text.write_text("Plain words, and 一些中文。", encoding="utf-8")
    done = CliRunner().invoke(cli, ["prove", str(sources / "package"), "--text", str(text), "--json"])
    assert done.exception is None, done.output
    printed = json.loads(done.output)
    assert printed["sequences"][-1]["name"] == "page.txt"
    kept = read_json(sources / "package" / "report.json")["proof"]
    assert {**kept, "folder": printed["folder"], "schema": 1} == printed


def test_prove_finds_a_fault(sources: Path, tmp_path: Path) -> None:
    other, _ = plant(tmp_path / "other", sources / "base", None, FAULTS["rope base 10,000 for 500,000"])
    arguments = ["prove", str(sources / "package"), "--model", str(other), "--adapter", str(sources / "lora")]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, VerificationError)
    assert "tiny-f16.gguf: logits" in str(done.exception)
    assert "tiny-q8_0" not in str(done.exception)
    assert "must be: mean at most 0.0003" in done.output


def test_a_build_that_is_off_fails(sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sound = Model.bare_metadata

    def other_base(model: Model, name: str) -> list[KV]:
        found: list[Any] = sound(model, name)
        return [replace(kv, value=1234.0) if kv.key == "llama.rope.freq_base" else kv for kv in found]

    monkeypatch.setattr(Model, "bare_metadata", other_base)
    with pytest.raises(VerificationError, match=r"tiny-f16\.gguf: logits"):
        build(sources / "base", quants="f16", name="tiny", out=tmp_path / "out", prove=True, verify=False)
    report = read_json(tmp_path / "out.failed" / "report.json")
    assert (report["passed"], report["verified"], report["proof"]["passed"]) == (False, False, False)
    assert not (tmp_path / "out").exists()
