"""``--rope-scaling`` and ``--rope-theta``: what training used and config.json does not say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantkit.arch.rope_override import RopeOverride, lost_theta_note, override_rope, read_override
from quantkit.errors import ArchitectureError, QuantkitError
from quantkit.gguf.model import read_whole_model
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from tests.checkpoints.case import edit_json
from tests.faults.cli import run_here

Maker = Callable[..., Path]


def metadata(model: Path, **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    with prepare(Recipe(model, **options)) as prepared:
        found = {entry.key: entry.value for entry in prepared.plan.metadata}
        return found, prepared.plan.notes


@pytest.mark.parametrize("style", [4, 5])
@pytest.mark.parametrize("kind", ["llama3-untied", "qwen2"])
def test_the_metadata_is_that_of_a_config_that_says_so(
    checkpoint: Maker, tmp_path: Path, kind: str, style: int
) -> None:
    """Every key, for both ways in which config.json may hold the settings."""
    plain = checkpoint(kind, layers=1, style=style)
    config = json.loads((plain / "config.json").read_text(encoding="utf-8"))
    trained = config["max_position_embeddings"]
    for scaling in ("linear:2", "yarn:4"):
        name, factor = scaling.split(":")
        said = {"rope_type": name, "factor": float(factor), "original_max_position_embeddings": trained}
        folder = Path(shutil.copytree(plain, tmp_path / name, dirs_exist_ok=True))
        edit_json(
            folder / "config.json",
            rope_scaling=said,
            rope_parameters=None,
            rope_theta=70000.0,
            max_position_embeddings=trained * int(factor),
        )
        wanted, _ = metadata(folder, name="it")
        found, notes = metadata(plain, name="it", rope_scaling=scaling, rope_theta=70000)
        assert found == wanted
        arch = found["general.architecture"]
        assert found[f"{arch}.rope.scaling.type"] == name
        assert [note for note in notes if note.startswith(f"rope scaling {name} by {factor} (--rope-scaling)")]
        assert [note for note in notes if note.startswith("rope theta 70000 (--rope-theta) instead of ")]


def test_llama_3_1s_scaling_is_replaced(checkpoint: Maker) -> None:
    model = checkpoint("llama3-rope", layers=1)
    with prepare(Recipe(model, rope_scaling="linear:2")) as prepared:
        values = {entry.key: entry.value for entry in prepared.plan.metadata}
        assert values["llama.context_length"] == 16384  # 8192 tokens before any scaling
        assert not [tensor for tensor in prepared.plan.tensors if tensor.name == "rope_freqs.weight"]


def test_only_full_attention_is_scaled() -> None:
    saved = {
        "max_position_embeddings": 100,
        "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
    }
    config, _ = override_rope(saved, RopeOverride(("linear", 2.0), 5.0))
    assert config["rope_parameters"] == {
        "full_attention": {
            "rope_theta": 5.0,
            "rope_type": "linear",
            "factor": 2.0,
            "original_max_position_embeddings": 100,
        },
        "sliding_attention": {"rope_theta": 1e4},
    }
    assert saved["max_position_embeddings"] == 100


def test_the_manifest_records_it(checkpoint: Maker, tmp_path: Path) -> None:
    recipe = Recipe(checkpoint("llama3-untied", layers=1), (), ("q8_0",), tmp_path / "out", rope_scaling="linear:2")
    manifest = json.loads((build(recipe, verify=False).folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["recipe"]["rope_scaling"], manifest["recipe"]["rope_theta"]) == ("linear:2", None)
    assert [note for note in manifest["notes"] if "--rope-scaling" in note]


def test_convert(checkpoint: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = checkpoint("llama3-untied", layers=1)
    python = convert(model, tmp_path / "a.gguf", rope_theta=1234, device="cpu")
    done = run_here(["convert", str(model), "-o", str(tmp_path / "b.gguf"), "--rope-theta", "1234"], capsys)
    assert done.code == 0, done.stderr
    for file in (python, tmp_path / "b.gguf"):
        assert read_whole_model(file).header.value("llama.rope.freq_base") == 1234


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("gemma2", {"rope_theta": 5.0}, "rope_theta 5.0 is not supported"),
        (
            "qwen",
            {"rope_scaling": "linear:2"},
            "--rope-scaling linear:2: llama.cpp's graph for qwen has no such scaling",
        ),
        ("gemma3", {"rope_scaling": "yarn:2"}, "rope scaling 'yarn' is not supported"),
    ],
)
def test_what_a_family_does_not_have(checkpoint: Maker, kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArchitectureError, match=said), prepare(Recipe(checkpoint(kind), **options)):
        pass


@pytest.mark.parametrize("scaling", ["linear", "linear:", "linear:1", "linear:inf", "llama3:8", "dynamic:2", ":2", ""])
def test_scalings_that_are_refused(scaling: str) -> None:
    with pytest.raises(QuantkitError, match="is not TYPE:FACTOR") as caught:
        Recipe("m", rope_scaling=scaling)
    assert "--rope-scaling linear:2" in caught.value.hint


@pytest.mark.parametrize("theta", [0, -1, float("nan"), float("inf")])
def test_bases_that_are_refused(theta: float) -> None:
    with pytest.raises(QuantkitError, match="is not above 0"):
        read_override(None, theta)


def test_not_with_another_converter() -> None:
    with pytest.raises(QuantkitError, match="cannot go with --via-llama-cpp"):
        Recipe("m", rope_theta=5, via_llama_cpp="llama.cpp")


def test_a_lost_theta_is_said(checkpoint: Maker, tmp_path: Path) -> None:
    """By a tool that replaced rope_parameters."""
    model = Path(shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "m"))
    edit_json(model / "config.json", rope_theta=None, rope_parameters={"rope_type": "linear", "factor": 2.0})
    note = "rotary settings without rope_theta: 10000 is assumed"
    assert [said for said in metadata(model)[1] if note in said]
    assert not [said for said in metadata(model, rope_theta=500000)[1] if note in said]


@pytest.mark.parametrize(
    "config",
    [
        {},  # Llama 2's first configs
        {"rope_theta": 5, "rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_parameters": {"rope_theta": 5, "rope_type": "default"}},
        {"rope_parameters": {"full_attention": {"rope_theta": 5}, "sliding_attention": {"rope_theta": 6}}},
        {"rope_scaling": None},
    ],
)
def test_no_theta_is_lost(config: dict[str, Any]) -> None:
    assert lost_theta_note(config, 10000.0) == []
