"""Every file in a build's folders is known: what is sound is built as before, and --ignore says "I know"."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.checkpoint.account import account
from quantkit.checkpoint.copies import original
from quantkit.checkpoint.folder import open_checkpoint
from quantkit.checkpoint.ignored import Ignored
from quantkit.checkpoint.known_files import TABLE, UNFINISHED_ENDINGS, known
from quantkit.errors import AdapterError, CheckpointError
from quantkit.model.every_file import check_every_file
from quantkit.model.opening import open_model

Maker = Callable[..., Path]
BESIDE_A_MODEL = (
    *("README.md", "LICENSE", ".gitattributes", "._model.safetensors", ".DS_Store", "training_args.bin"),
    *("optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state_0.pth", "scaler.pt", "trainer_state.json"),
    *("trainer_log.jsonl", "training_loss.png", "all_results.json", "events.out.tfevents.1.host", "value_head.bin"),
    *("runs/Jan01/events.out.tfevents.1.host", "original/consolidated.00.pth", "consolidated.safetensors"),
    *("model-q4_0.gguf", "mmproj.gguf", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "Modelfile"),
    *("modeling_custom.py", "__pycache__/modeling_custom.cpython-311.pyc", "preprocessor_config.json"),
    *("global_step100/mp_rank_00_model_states.pt", "latest", "zero_to_fp32.py", "pytorch_model_fsdp_0/__0_0.distcp"),
    *("figures/loss.png", "additional_chat_templates/tool_use.jinja", "tokenizer.model.v3", "model.gguf.part"),
    *("model.safetensors.bak", "1_Pooling/config.json", "checkpoint-10/trainer_state.json", "random_states_0.pkl"),
)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def model(checkpoint: Maker, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "m")


@pytest.fixture
def lora(adapter: Maker, tmp_path: Path) -> Path:
    return shutil.copytree(adapter("q-and-v"), tmp_path / "a")


def test_what_lies_beside_sound_models_is_passed_over(model: Path) -> None:
    touch(*(model / name for name in BESIDE_A_MODEL if not (model / name).exists()))
    assert check_every_file(model, []) == ()
    roles = {entry.name: entry.role for entry in account(model, "model")}
    assert roles.keys() == {path.name + "/" * path.is_dir() for path in model.iterdir()} | {
        path.name for path in model.iterdir() if path.is_file()
    } - {path.name for path in model.iterdir() if path.is_dir()}
    assert set(roles.values()) == {"read", "harmless", "alone"}


def test_what_lies_beside_sound_adapters_is_passed_over(model: Path, lora: Path) -> None:
    touch(
        *(lora / name for name in ("README.md", "training_args.bin", "optimizer.pt", "runs/x", "config.json")),
        *(
            lora / name
            for name in ("adapter_0.pt", "adapters.safetensors", "adapter.gguf", "global_step10/x.pt", "latest")
        ),
        *(lora / name / "adapter_config.json" for name in ("checkpoint-10", "reference", "pissa_init")),
    )
    assert check_every_file(model, [lora]) == ()


def test_a_file_of_no_known_kind_is_named(model: Path) -> None:
    touch(model / "thing.xyz")
    assert check_every_file(model, []) == ("m: passed over, because quantkit does not know them: thing.xyz",)
    assert check_every_file(model, [], Ignored(("thing.xyz",))) == ("m: passed over, as asked: thing.xyz",)


def test_another_model_below_is_named(model: Path) -> None:
    for name in ("checkpoint-10", "draft"):
        shutil.copytree(model, model / name, ignore=shutil.ignore_patterns("checkpoint-*", "draft"))
    assert check_every_file(model, []) == (
        "m: checkpoint-10/ has a checkpoint of the same training, which is passed over",
        "m: draft/ has a model of its own, which is passed over",
    )


# Two sets of weights


def test_the_same_weights_in_two_formats(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    assert check_every_file(model, []) == ()


def test_the_same_weights_of_another_type(model: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(model / "model.safetensors").items()}
    torch.save(tensors, model / "pytorch_model.bin")
    assert check_every_file(model, []) == ()


def test_an_older_pickle_with_other_values_is_what_was_before(model: Path) -> None:
    tensors = {name: tensor * 2 for name, tensor in load_file(model / "model.safetensors").items()}
    torch.save(tensors, model / "pytorch_model.bin")
    before = (model / "model.safetensors").stat().st_mtime_ns - 1
    os.utime(model / "pytorch_model.bin", ns=(before, before))
    assert check_every_file(model, []) == ()


def test_a_pickle_that_is_a_pointer_or_no_pickle(model: Path) -> None:
    for content in (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"another format"):
        (model / "pytorch_model.bin").write_bytes(content)
        assert check_every_file(model, []) == ()


def test_a_copy_in_shards_is_the_same_set(model: Path) -> None:
    shutil.copy(model / "model.safetensors", model / "model-00001-of-00001.safetensors")
    assert check_every_file(model, []) == ()


def test_the_ignored_set_is_not_read(model: Path) -> None:
    tensors = {name: tensor * 2 for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(tensors, model / "model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match="a second set of weights beside"), open_model(model):
        pass
    for ignored, read in (
        ("model.safetensors", "model-00001-of-00001.safetensors"),
        ("model-*-of-00001.safetensors", "model.safetensors"),
    ):
        with open_model(model, (), [ignored]) as opened:
            assert {spec.file.name for spec in opened.checkpoint.tensors.values()} == {read}
            assert any("passed over, as asked" in note for note in opened.notes)


def test_the_hint_chooses_between_sets_with_an_index(checkpoint: Maker, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama3-untied", layers=1, shards=2), tmp_path / "m")
    tensors = {name: t for file in folder.glob("model-*.safetensors") for name, t in load_file(file).items()}
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="a second set of weights") as caught:
        check_every_file(folder, [])
    shards = "model-*-of-00002.safetensors"
    assert caught.value.hint.endswith(f"choose one: --ignore model.safetensors or --ignore '{shards}'")
    for ignored, count in (("model.safetensors", 2), (shards, 1)):
        with open_model(folder, (), [ignored]) as opened:
            assert len({spec.file for spec in opened.checkpoint.tensors.values()}) == count


def test_an_index_that_names_other_tensors_than_the_single_file(model: Path) -> None:
    names = load_file(model / "model.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "gone.safetensors")}), encoding="utf-8")
    assert check_every_file(model, []) == ()
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*names, "new"], "gone.safetensors")}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="only one of them has tensor 'new'"):
        check_every_file(model, [])


# Adapters in and below the model's folder


def test_an_adapter_below_the_model_that_is_merged(model: Path, lora: Path) -> None:
    for name in ("lora_adapter", "checkpoint-10"):
        shutil.copytree(lora, model / name)
    assert check_every_file(model, [model / "lora_adapter"]) == ()
    with pytest.raises(CheckpointError, match="an adapter that would be passed over"):
        check_every_file(model, [lora])
    noted = check_every_file(model, [lora], Ignored(("lora_adapter", "checkpoint-*")))
    assert noted == ("m: passed over, as asked: checkpoint-10/, lora_adapter/",)


def test_an_adapter_in_the_model_that_is_merged(model: Path, lora: Path) -> None:
    shutil.copytree(lora, model, dirs_exist_ok=True)
    assert check_every_file(model, [model]) == ()
    with pytest.raises(CheckpointError, match="an adapter in the model's folder"):
        check_every_file(model, [])
    assert check_every_file(model, [], Ignored(("adapter_*",)))


def test_two_sets_of_tensors_of_an_adapter_in_the_model(model: Path, lora: Path) -> None:
    shutil.copytree(lora, model, dirs_exist_ok=True)
    tensors = {name: tensor * 2 for name, tensor in load_file(lora / "adapter_model.safetensors").items()}
    torch.save(tensors, model / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: a second set of weights"):
        check_every_file(model, [model])
    assert check_every_file(model, [model], Ignored(("adapter_model.bin",)))


def test_the_ignored_tensors_of_an_adapter_are_not_read(checkpoint: Maker, lora: Path) -> None:
    model = checkpoint("llama3-untied")
    safe, pickle = lora / "adapter_model.safetensors", lora / "adapter_model.bin"
    torch.save({name: tensor * 2 for name, tensor in load_file(safe).items()}, pickle)
    with pytest.raises(AdapterError, match="a second set of weights"), open_model(model, [lora]):
        pass
    for ignored, read in ((safe, pickle), (pickle, safe)):
        with open_model(model, [lora], [ignored.name]) as opened:
            assert {spec.file for spec in opened.adapters[0].file.specs.values()} == {read}


def test_a_config_that_is_left_of_an_adapter(model: Path, lora: Path) -> None:
    shutil.copy(lora / "adapter_config.json", model)
    (note,) = check_every_file(model, [])
    assert "left of an adapter" in note


def test_pissa_on_its_residual_base(model: Path, lora: Path) -> None:
    shutil.copytree(lora, model / "pissa_init")
    assert check_every_file(model, [model / "pissa_init"]) == ()
    assert check_every_file(model, [lora]) == ()  # trained from it
    with pytest.raises(CheckpointError, match="pissa_init: an adapter that would be passed over"):
        check_every_file(model, [])


def test_pissa_on_another_base(model: Path, lora: Path, tmp_path: Path) -> None:
    start = shutil.copytree(lora, tmp_path / "run" / "pissa_init")
    with pytest.raises(AdapterError, match="residual base") as caught:
        check_every_file(model, [start])
    assert "path_initial_model_for_weight_conversion" in caught.value.hint
    shutil.copy(model / "config.json", tmp_path / "run")
    with pytest.raises(AdapterError) as caught:
        check_every_file(model, [start])
    assert "give the residual base as the model" in caught.value.hint
    shutil.copytree(lora, tmp_path / "run" / "pissa_converted")
    with pytest.raises(AdapterError) as caught:
        check_every_file(model, [start])
    assert f"--adapter {tmp_path / 'run' / 'pissa_converted'}" in caught.value.hint
    assert check_every_file(model, [start], Ignored(("pissa_init",))) == ()


# MLX


def test_plain_weights_with_the_settings_of_mlx(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    settings = {"group_size": 64, "bits": 4}
    for keys in (["quantization_config"], ["quantization"], ["quantization", "quantization_config"]):
        (model / "config.json").write_text(json.dumps(config | dict.fromkeys(keys, settings)), encoding="utf-8")
        with open_checkpoint(model) as opened:
            assert opened.notes == (
                "m: config.json has settings of an MLX quantization, but the weights are not quantized: they are used "
                "as they are",
            )
            assert not {"quantization", "quantization_config"} & opened.config.keys()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("config (1).json", "config.json"),
        ("config(2).json", "config.json"),
        ("config - Copy.json", "config.json"),
        ("config - Copy (3).json", "config.json"),
        ("config copy 2.json", "config.json"),
        ("Copy of tokenizer_config.json", "tokenizer_config.json"),
        ("model.safetensors.index (1).json", None),
        ("config.json", None),
        ("copy.json", None),
        ("(1).json", None),
        ("config (old).json", None),
        ("checkpoint (1)", None),
    ],
)
def test_names_of_copies(name: str, meant: str | None) -> None:
    assert original(name) == meant


def test_a_copy_of_what_is_read_is_passed_over(model: Path) -> None:
    shutil.copy(model / "config.json", model / "config (1).json")
    touch(model / "README (1).md", model / "chart (1).png")
    (model / "README.md.link").symlink_to("nowhere")
    (model / "licenses").mkdir()
    assert [note for note in check_every_file(model, []) if "(1)" in note] == []


# The table


@pytest.mark.parametrize("ending", UNFINISHED_ENDINGS)
def test_every_name_of_an_unfinished_download(model: Path, ending: str) -> None:
    touch(model / f"model.safetensors{ending}")
    with pytest.raises(CheckpointError, match="unfinished download"):
        check_every_file(model, [])


def test_every_row_can_be_reached() -> None:
    """No row is hidden by the ones above it."""
    for row in TABLE:
        plain = [
            pattern.replace("[0-9]", "1").replace("[0-9A-Fa-f]", "a").replace("*", "x") for pattern in row.patterns
        ]
        assert any(known(name, place) == row for name in plain for place in row.places), row


def test_rows_that_refuse_say_what_to_do() -> None:
    assert [row for row in TABLE if row.role in ("refused", "alone") and not row.hint] == []
