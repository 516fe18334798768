"""The end-to-end truth test: a trained adapter's answers come out of the quantized file, word for word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantkit.demo.data import ADAPTER, BASE, EXAMPLES
from quantkit.demo.run import DemoResult, Pair, run_demo
from quantkit.errors import VerificationError
from quantkit.gguf.header import read_header


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("demo") / "package")


def test_every_answer_is_the_trained_one(demo: DemoResult) -> None:
    assert [(pair.question, pair.base, pair.adapted) for pair in demo.pairs] == [
        (example.question, example.base_answer, example.adapted_answer) for example in EXAMPLES
    ]
    demo.check()


def test_the_adapter_makes_the_difference(demo: DemoResult) -> None:
    changed = [pair for pair in demo.pairs if pair.base != pair.adapted]
    assert len(changed) >= 6
    assert any("船长" in pair.adapted for pair in changed), "Chinese answers change too"
    assert len(changed) < len(demo.pairs), "and some answers stay"


def test_the_file_asked_is_q4_0(demo: DemoResult) -> None:
    header = read_header(demo.folder / demo.file)
    assert header.value("general.file_type") == 2
    assert header.tensors["blk.0.ffn_up.weight"].type.label == "q4_0"


def test_the_build_was_checked(demo: DemoResult) -> None:
    report = json.loads((demo.folder / "report.json").read_text(encoding="utf-8"))
    assert report["passed"] is True
    names = [check["name"] for check in report["checks"]]
    assert any(name.endswith("token ids match tokenizer.json") for name in names)
    assert sum(name.endswith(": end of turn") for name in names) == 2, "both files were checked"


def test_a_wrong_answer_fails() -> None:
    pair = Pair("q", "base", "something else", "base", "adapted")
    result = DemoResult(Path("out"), "x-q4_0.gguf", (pair,), 1.0)
    with pytest.raises(VerificationError, match="something else"):
        result.check()


def test_the_package_data_has_no_time_or_place(demo: DemoResult) -> None:
    manifest = (demo.folder / "manifest.json").read_text(encoding="utf-8")
    assert str(demo.folder.parent) not in manifest
    assert str(BASE.parent) not in manifest
    assert json.loads(manifest)["recipe"]["adapters"] == [ADAPTER.name]
