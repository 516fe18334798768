"""What ``quantkit inspect`` finds in a checkpoint, an adapter and a GGUF file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors import safe_open

from quantkit.cli.inspect import command
from quantkit.errors import AdapterError, CheckpointError, GGUFError, QuantkitError
from quantkit.gguf.header import encode_header
from quantkit.gguf.kv import KVType, array, string
from quantkit.jobs.convert import convert
from quantkit.jobs.inspect import inspect
from quantkit.jobs.package import package
from quantkit.jobs.quantize import quantize
from quantkit.plan.name_ranges import joined_names

Maker = Callable[..., Path]


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({}, ["model.safetensors"]),
        ({"shards": 2}, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        ({"binary": True}, ["pytorch_model.bin"]),
    ],
    ids=["one", "shards", "bin"],
)
def test_a_checkpoint(checkpoint: Maker, options: dict[str, object], files: list[str]) -> None:
    path = checkpoint("llama3-untied", layers=1, **options)
    found = inspect(path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    rows = config["vocab_size"]
    weights = 2 * rows * 256 + 2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256 + 3 * 256
    tensors = {tensor.pop("name"): tensor for tensor in found.pop("tensors")}
    roles = {entry["name"]: entry["role"] for entry in found.pop("account")}
    assert roles.keys() == {file.name for file in path.iterdir()}
    assert all(roles[name] == "read" for name in [*files, "config.json", "tokenizer.json"])
    assert found == {
        "kind": "checkpoint",
        "path": str(path),
        "architecture": "LlamaForCausalLM",
        "files": files,
        "parameters": weights,
        "size": 2 * weights,
        "types": {"BF16": 12},
        "vocabulary": rows,
        "context_length": 8192,
        "tied": False,
    }
    assert tensors["model.layers.0.mlp.down_proj.weight"] == {"type": "BF16", "shape": [256, 512]}
    assert len(tensors) == 12


def test_a_tied_checkpoint(checkpoint: Maker) -> None:
    assert inspect(checkpoint("llama3-tied", layers=1))["tied"] is True


def test_an_adapter(adapter: Maker) -> None:
    path = adapter("rslora-patterns")
    found = inspect(path)
    with safe_open(path / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 -- no mapping
    assert {tensor["name"]: tensor["shape"] for tensor in found.pop("tensors")} == shapes
    assert sorted(found.pop("targets")) == ["o_proj", "q_proj"]
    assert found.pop("parameters") == sum(rows * columns for rows, columns in shapes.values())
    assert Path(found.pop("base")).name
    roles = {entry["name"]: entry["role"] for entry in found.pop("account")}
    assert roles["adapter_model.safetensors"] == roles["adapter_config.json"] == "read"
    assert found == {
        "kind": "adapter",
        "path": str(path),
        "method": "LORA",
        "rank": 16,
        "alpha": 16,
        "rslora": True,
        "modules_to_save": [],
        "files": ["adapter_model.safetensors"],
    }


def test_an_adapter_of_another_method(tmp_path: Path, adapter: Maker) -> None:
    """What cannot be merged can still be looked at."""
    folder = shutil.copytree(adapter("q-and-v"), tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LOHA"}), encoding="utf-8")
    assert inspect(folder)["method"] == "LOHA"


def test_a_gguf(checkpoint: Maker, tmp_path: Path) -> None:
    f16 = convert(checkpoint("llama3-untied", layers=1), tmp_path / "my.gguf")
    path = quantize(f16, tmp_path / "q.gguf", quant="q4_k_m")
    found = inspect(path)
    assert (found["kind"], found["architecture"], found["file_type"]) == ("gguf", "llama", "q4_k_m")
    assert found["size"] == path.stat().st_size
    assert found["types"] == {"q4_K": 6, "f32": 3, "q6_K": 3}
    assert found["metadata"]["general.name"] == "my"
    assert found["metadata"]["llama.block_count"] == 1
    assert found["metadata"]["tokenizer.ggml.tokens"].endswith(" values")
    tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert tensors["blk.0.attn_k.weight"] == {"name": "blk.0.attn_k.weight", "type": "q4_K", "shape": [128, 256]}
    assert found["parameters"] == inspect(f16)["parameters"]
    assert inspect(f16)["file_type"] == "f16"
    json.dumps(found)


def test_paths_that_are_nothing_of_this(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match="no such file or folder"):
        inspect(tmp_path / "none")
    with pytest.raises(QuantkitError, match="not a checkpoint"):
        inspect(tmp_path)
    (tmp_path / "x.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(GGUFError, match="not a GGUF file"):
        inspect(tmp_path / "x.txt")
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        inspect(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no weights"):
        inspect(tmp_path)


def test_a_folder_of_gguf_files_leads_to_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "a b.gguf").touch()
    with pytest.raises(QuantkitError, match="a folder with GGUF files") as caught:
        inspect(tmp_path)
    assert f"quantkit inspect '{tmp_path / 'a b.gguf'}'" in caught.value.hint


def test_a_package(checkpoint: Maker, tmp_path: Path) -> None:
    f16 = convert(checkpoint("llama3-untied", layers=1), tmp_path / "tiny.gguf")
    folder = package(f16, tmp_path / "It", system="Be brief.", parameters={"temperature": 0.2, "stop": "#"})
    found, gguf = inspect(folder), inspect(f16)
    stops = found.pop("stops")
    assert stops[-1] == "#"
    assert found["settings"]["temperature"] == "0.2"
    assert found == {
        "kind": "package",
        "path": str(folder),
        "name": "It",
        "architecture": "llama",
        "parameters": gguf["parameters"],
        "models": [{"file": "tiny.gguf", "type": "f16", "size": f16.stat().st_size}],
        "files": ["manifest.json", "Modelfile", "chat.sh", "chat.ps1", "README.md", "tiny.gguf"],
        "template": "llama-3",
        "system": "Be brief.",
        "settings": found["settings"],
        "notes": found["notes"],
        "tensors": gguf["tensors"],
    }
    shown = CliRunner().invoke(command, [str(folder)]).output
    assert "system           Be brief.\n" in shown
    assert "temperature 0.2" in shown
    assert "  tiny.gguf  f16  " in shown


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], []),
        (["a.weight"], ["a.weight"]),
        (["blk.3.v"], ["blk.3.v"]),
        (["blk.1.v", "out", "blk.0.v", "blk.2.v", "blk.7.v", "blk.1.k"], ["blk.{0-2,7}.v", "out", "blk.1.k"]),
        (["blk.0.v", "blk.2.v"], ["blk.{0,2}.v"]),
    ],
)
def test_names_of_many_layers(names: list[str], shown: list[str]) -> None:
    assert joined_names(names) == shown


def test_names_in_a_file_are_no_commands_for_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header((string("general.\x1b[2J\u202e", "a\x1b]0;t\x07"),), ()))
    shown = CliRunner().invoke(command, [str(path)]).output
    assert "  general.␛[2J� " in shown
    assert "\x1b" not in shown


def test_a_file_type_of_a_wrong_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header([array("general.file_type", [1], KVType.INT32)], []))
    with pytest.raises(GGUFError, match=r"general\.file_type has the type array of int32; llama\.cpp reads uint32"):
        inspect(path)
