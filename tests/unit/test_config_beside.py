"""The config.json beside an adapter: what it says of the model that was trained is compared with the build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantkit.model.config_beside import config_notes

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "rope_theta": 500000.0}
METADATA = {"general.architecture": "llama", "llama.rope.freq_base": 500000.0}


def notes(tmp_path: Path, theirs: dict[str, Any] | str, **metadata: Any) -> list[str]:
    folder = tmp_path / "lora"
    folder.mkdir()
    text = theirs if isinstance(theirs, str) else json.dumps(theirs)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return list(config_notes(folder, tmp_path / "base", CONFIG, {**METADATA, **metadata}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"vocab_size": 7}, []),
        ({"model_type": "qwen2"}, ["model_type is qwen2 there and llama here"]),
        ({"hidden_size": 128, "rope_theta": 1e4}, ["hidden_size is 128 there and 64 here"]),
        ({"rope_theta": 1e6}, ["--rope-theta 1e+06"]),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, ["--rope-theta 1e+06"]),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, ["pass --rope-scaling linear:4"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.5}}, ["pass --rope-scaling yarn:2.5"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, []),
        ({"rope_scaling": {"type": "linear", "factor": 1}}, []),
        ({"rope_scaling": {"type": "linear", "factor": "4"}, "rope_theta": True}, []),
        ({"rope_scaling": "linear"}, []),
    ],
)
def test_what_it_contradicts(tmp_path: Path, changes: dict[str, Any], expected: list[str]) -> None:
    found = notes(tmp_path, {**CONFIG, **changes})
    assert len(found) == len(expected)
    assert all(text in note and note.startswith("lora/config.json") for text, note in zip(expected, found, strict=True))


def test_the_option_that_mends_it_silences_it(tmp_path: Path) -> None:
    theirs = {**CONFIG, "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4}}
    assert notes(tmp_path, theirs, **{"llama.rope.freq_base": 1e6, "llama.rope.scaling.type": "linear"}) == []


def test_settings_of_the_language_model_count(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, {"model_type": "gemma3", "text_config": {**CONFIG, "num_hidden_layers": 3}})
    assert "num_hidden_layers is 3 there and 2 here" in note


def test_a_file_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, "{")
    assert "not compared" in note


def test_one_folder_has_one_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 1}), encoding="utf-8")
    assert list(config_notes(tmp_path, tmp_path, CONFIG, METADATA)) == []
