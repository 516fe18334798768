"""Norms in F16, with which llama.cpp aborts: widened, refused or shown, by command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.errors import GGUFError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.model import read_model
from quantkit.jobs.convert import convert
from quantkit.jobs.inspect import inspect
from quantkit.jobs.package import package
from quantkit.jobs.quantize import quantize
from quantkit.system.progress import Reporter
from tests.support.narrow_norms import narrow_norms


@pytest.fixture(scope="module")
def sound(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("norms")
    return convert(checkpoint("llama3-untied", layers=1), folder / "m.gguf", device="cpu")


@pytest.fixture(scope="module")
def narrow(sound: Path) -> Path:
    return narrow_norms(sound, sound.with_name("narrow.gguf"))


@pytest.mark.parametrize("quant", ["f16", "q8_0"])
def test_quantize_widens_them(sound: Path, narrow: Path, tmp_path: Path, quant: str) -> None:
    """The norms of this model are bf16 values that F16 holds too, so the files are equal in every byte."""
    reporter = Reporter()
    made = quantize(narrow, tmp_path / "narrow.gguf", quant=quant, reporter=reporter)
    expected = quantize(sound, tmp_path / "sound.gguf", quant=quant)
    assert {info.type for info in read_model(made).header.tensors.values() if len(info.shape) == 1} == {GGMLType.F32}
    assert made.read_bytes() == expected.read_bytes()
    (note,) = (note for note in reporter.notes if "without loss" in note)
    assert note.startswith("tensor 'blk.0.attn_norm.weight' and 2 more norms or biases are f16")


def test_package_refuses_them(narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="abort unless they are f32") as caught:
        package(narrow, tmp_path / "p")
    assert "quantkit quantize" in caught.value.hint
    assert not (tmp_path / "p").exists()


def test_inspect_shows_them(sound: Path, narrow: Path) -> None:
    assert "llama.cpp aborts" in inspect(narrow)["problem"]
    assert "problem" not in inspect(sound)
