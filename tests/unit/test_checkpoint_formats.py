"""One folder with several formats of the same model: the safetensors files are the model."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.errors import CheckpointError
from tests.support.bits import bits

Maker = Callable[..., Path]


@pytest.mark.parametrize("storage", [{}, {"shards": 3}], ids=["one-file", "shards"])
def test_other_formats_are_passed_over(checkpoint: Maker, tmp_path: Path, storage: dict[str, int]) -> None:
    sound = checkpoint("llama3-untied", layers=1, **storage)
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    # None of them is looked into: each would be refused.
    for name in (
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "consolidated.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "consolidated.safetensors.index.json",
        "consolidated.00.pth",
        "params.json",
        "tekken.json",
        "original/consolidated.00.pth",
        "original/params.json",
        "model-f16.gguf",
        "tf_model.h5",
        "model.onnx",
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"another format")
    with open_checkpoint(sound) as expected, open_checkpoint(folder) as found:
        assert found.tensors.keys() == expected.tensors.keys()
        assert {spec.file.suffix for spec in found.tensors.values()} == {".safetensors"}
        for name in expected.tensors:
            assert bits(found.read(name)) == bits(expected.read(name))


def test_bin_where_there_is_nothing_else(checkpoint: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama3-untied", layers=1, binary=True), folder)
    (folder / "consolidated.safetensors").write_bytes(b"another format")
    with open_checkpoint(folder) as found:
        assert {spec.file.name for spec in found.tensors.values()} == {"pytorch_model.bin"}


def test_a_command_to_paste(tmp_path: Path) -> None:
    """Also where the path has blanks and letters that a shell would part or miss."""
    path = tmp_path / "模型 it's" / "a model.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    expected = ["quantkit", "quantize", str(path), "--quant", "q4_0", "-o", "OUT.gguf"]
    with pytest.raises(CheckpointError, match="the folder has only GGUF files") as caught, open_checkpoint(path.parent):
        pass
    assert shlex.split(caught.value.hint.partition(": ")[2]) == expected
    with pytest.raises(CheckpointError, match="is a GGUF file") as caught, open_checkpoint(path):
        pass
    assert shlex.split(caught.value.hint.partition(", or ")[0]) == expected
