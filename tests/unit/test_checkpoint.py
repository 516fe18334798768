"""Which files of a folder are its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.errors import ArchitectureError, CheckpointError
from quantkit.model.opening import open_model

Maker = Callable[..., Path]


@pytest.fixture
def folder(checkpoint: Maker, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "m")


def test_shards_with_strange_numbers(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-aaaaa-of-bbbbb.safetensors")
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(folder)


@pytest.mark.parametrize("shard", ["model-00001-of-00001.safetensors", "absent.safetensors"])
def test_a_single_file_wins_over_an_index_as_in_transformers(folder: Path, shard: str) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    names = load_file(folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys([*names, "another"], shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with open_checkpoint(folder) as opened:
        assert {spec.file.name for spec in opened.tensors.values()} == {"model.safetensors"}
        assert opened.tensors.keys() == names.keys()


def test_a_config_that_is_refused_is_named_with_its_folder(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": None}), encoding="utf-8")
    with pytest.raises(ArchitectureError, match="rms_norm_eps") as caught, open_model(folder):
        pass
    assert str(caught.value).startswith(str(folder / "config.json"))
