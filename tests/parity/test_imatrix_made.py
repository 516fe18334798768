"""Importance matrices against llama-imatrix, file by file: every byte."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.calibrate.make import make_imatrix
from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import QuantkitError
from quantkit.gguf.model import read_model
from quantkit.jobs.convert import convert
from quantkit.material.ask import tokens_of
from quantkit.material.data_file import CALIBRATION, read_data
from tests.support.llama_tools import llama_tools

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of our text: for the smallest vocabularies some thousand tokens."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(read_data(CALIBRATION).text[:10_000] + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, checkpoint: Maker) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("models"), {}

    def get(kind: str) -> Path:
        if kind not in made:
            path = folder / f"{kind}.gguf"
            made[kind] = convert(BASE, path, adapters=ADAPTER) if kind == "demo" else convert(checkpoint(kind), path)
        return made[kind]

    return get


def theirs(gguf: Path, text: Path, out: Path, context: int, chunks: int) -> Path:
    """llama-imatrix's file, which has the text's name as it is given."""
    command = [str(llama_tools() / "llama-imatrix"), "-m", str(gguf), "-f", text.name, "-o", str(out), "--no-ppl"]
    command += ["-c", str(context), "--chunks", str(chunks), "-t", "1"]
    subprocess.run(command, cwd=text.parent, capture_output=True, check=True)
    return out


# A trained dense model, with chunks that do not fill a batch, and that do not fit one; experts; a sliding window.
@pytest.mark.parametrize(
    ("kind", "context", "chunks"),
    [
        ("demo", 128, 18),
        ("demo", 700, 3),
        ("demo", 2300, 2),
        ("mixtral", 64, 9),
        ("qwen3-moe", 64, 9),
        ("gemma3", 64, 9),
    ],
)
def test_the_file_is_llama_imatrixs(
    models: Callable[[str], Path], text: Path, tmp_path: Path, kind: str, context: int, chunks: int
) -> None:
    gguf = models(kind)
    expected = theirs(gguf, text, tmp_path / "theirs.gguf", context, chunks)
    found = make_imatrix(gguf, tokens_of(gguf, text), tmp_path / "ours.gguf", context=context, chunks=chunks, threads=1)
    assert found.chunks == chunks
    assert found.file.read_bytes() == expected.read_bytes()


def test_values_that_are_not_finite_are_refused(checkpoint: Maker, text: Path, tmp_path: Path) -> None:
    gguf = convert(checkpoint("llama2"), tmp_path / "model.gguf", outtype="f32")
    _, offset = read_model(gguf).locate("blk.0.attn_norm.weight")
    raw = bytearray(gguf.read_bytes())
    raw[offset : offset + 4] = b"\xff\xff\x7f\x7f"  # the largest number: its square is not one
    gguf.write_bytes(bytes(raw))
    out = tmp_path / "out.gguf"
    with pytest.raises(QuantkitError, match=r"blk\.0\.attn_[a-z]+\.weight: llama.cpp computes values") as refused:
        make_imatrix(gguf, tokens_of(gguf, text, 200), out, context=64)
    assert "bf16" in refused.value.hint
    assert [*tmp_path.iterdir()] == [gguf]
