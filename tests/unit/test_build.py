"""What a build says of itself: its summary, report.json and manifest.json."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from quantkit.jobs.build import build
from quantkit.jobs.recipe import Recipe
from quantkit.system.progress import Reporter
from tests.faults.cli import run_here
from tests.support.adapters import VARIANTS

Maker = Callable[..., Path]


def test_the_summary_of_a_build(checkpoint: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How the files ran is told with the result, not among the decisions; the last line is a command to paste."""
    out = tmp_path / "模型 it's"
    model = checkpoint("llama3-untied", layers=1)
    done = run_here(["build", str(model), "-o", str(out), "--name", "it"], capsys)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("  it-q4_0.gguf: loaded in ")]
    assert "loaded in" not in done.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert list(report["runs"]) == ["it-q4_0.gguf"]
    assert report["runs"]["it-q4_0.gguf"].startswith("loaded in ")
    assert shlex.split(lines[-1]) == ["next:", "quantkit", "chat", str(out)]


@pytest.mark.parametrize("name", ["q-and-v", "ia3-llama"])
def test_versions_of_what_decides_the_bytes(checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str) -> None:
    base = checkpoint(VARIANTS[name].kind, dtype="f32")
    recipe = Recipe(base, (adapter(name),), ("q8_0",), out=tmp_path / "out", name="it")
    found = json.loads((build(recipe, verify=False).folder / "manifest.json").read_text(encoding="utf-8"))["versions"]
    assert found["torch"] == version("torch")
    assert found.get("peft") == (version("peft") if name == "ia3-llama" else None)


class Order(Reporter):
    """Keeps what was done and said, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    @contextmanager
    def phase(self, name: str, total: int, unit: str = "weights") -> Iterator[Callable[[int], None]]:
        self.all.append(name)
        yield lambda amount: None

    def note(self, text: str) -> None:
        self.all.append(text)


def test_what_only_those_with_ollama_need_to_know_is_said_last(checkpoint: Maker, tmp_path: Path) -> None:
    order = Order()
    build(model=checkpoint("llama3-untied", layers=1), out=tmp_path / "out", verify=False, reporter=order)
    assert "writing" in order.all
    assert [text.startswith("Ollama: ") for text in order.all] == [False] * (len(order.all) - 1) + [True]
