"""Folders with files that a build would pass over although the user may want them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.case import Case, edit_tensors
from tests.checkpoints.defect import BUILD, BUILD_ADAPTER, MERGE, SHARDED, defect
from tests.checkpoints.format_defects import only

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"
INDEX = "model.safetensors.index.json"


def touch(*paths: Path, text: str = "x") -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def newer(path: Path, than: Path) -> None:
    """Give a file a later time than another has."""
    later = than.stat().st_mtime_ns + 10_000_000_000
    os.utime(path, ns=(later, later))


def other_values(path: Path, made: Path) -> None:
    """Save the tensors of a file in another one, each a little different."""
    tensors = {name: tensor * 1.5 for name, tensor in load_file(path).items()}
    if made.suffix == ".bin":
        torch.save(tensors, made)
    else:
        save_file(tensors, made)


# Downloads


@defect("model.safetensors.aria2", "unfinished download", hint="--ignore model.safetensors.aria2")
def a_control_file_of_aria2(case: Case) -> None:
    touch(case.model / "model.safetensors.aria2")


@defect("tokenizer.json.crdownload", "unfinished download", hint="finish the download")
def a_download_of_a_browser(case: Case) -> None:
    touch(case.model / "tokenizer.json.crdownload")


@defect("adapter_model.safetensors.incomplete", "unfinished download", hint="finish", command=BUILD_ADAPTER)
def an_unfinished_adapter(case: Case) -> None:
    touch(case.adapter / "adapter_model.safetensors.incomplete")


@defect("._____temp", "unfinished download of ModelScope", hint="modelscope download")
def an_unfinished_download_of_modelscope(case: Case) -> None:
    touch(case.model / "._____temp" / "model-00002-of-00002.safetensors")


@defect(".incomplete", "unfinished download of Hugging Face", hint="hf download")
def an_unfinished_download_of_the_hub(case: Case) -> None:
    touch(case.model / ".cache" / "huggingface" / "download" / "abc.incomplete")


# Copies, and what is no file


@defect("config (1).json", "another version of config.json", hint="--ignore 'config (1).json'")
def another_config_of_a_browser(case: Case) -> None:
    touch(case.model / "config (1).json", text="{}")


@defect("tokenizer - Copy.json", "a copy of tokenizer.json, which is missing", hint="name it tokenizer.json")
def a_tokenizer_under_the_name_of_a_copy(case: Case) -> None:
    (case.model / "tokenizer.json").rename(case.model / "tokenizer - Copy.json")


@defect("config.json is missing", hint="config copy.json is there: name it config.json")
def a_config_under_the_name_of_a_copy(case: Case) -> None:
    (case.model / "config.json").rename(case.model / "config copy.json")


@defect("adapter_config.json is missing", hint="name it adapter_config.json", command=BUILD_ADAPTER)
def an_adapters_config_under_the_name_of_a_copy(case: Case) -> None:
    (case.adapter / "adapter_config.json").rename(case.adapter / "Copy of adapter_config.json")


@defect("pytorch_lora_weights.safetensors", hint="name the file adapter_model.safetensors", command=BUILD_ADAPTER)
def an_adapters_tensors_under_another_name(case: Case) -> None:
    case.adapter_weights.rename(case.adapter / "pytorch_lora_weights.safetensors")


@defect("model_merged.safetensors", "no weights", hint="name the file model.safetensors")
def the_only_weights_under_another_name(case: Case) -> None:
    case.weights.rename(case.model / "model_merged.safetensors")


@defect("chat_template.txt", "a chat template under a name that is not read", hint="--template FILE")
def a_chat_template_as_a_text(case: Case) -> None:
    touch(case.model / "chat_template.txt")


@defect("tokenizer.model", "a link to ../blobs/abc, which is not there", hint="download the folder again")
def a_tokenizer_whose_link_leads_nowhere(case: Case) -> None:
    (case.model / "tokenizer.model").symlink_to("../blobs/abc")


@defect("model.safetensors", "a link to blobs/abc, which is not there", hint="download the folder again")
def weights_whose_link_leads_nowhere(case: Case) -> None:
    case.weights.unlink()
    case.weights.symlink_to("blobs/abc")


@defect("adapter_model.bin", "a link to blobs/abc, which is not there", hint="--ignore", command=BUILD_ADAPTER)
def an_adapter_whose_link_leads_nowhere(case: Case) -> None:
    (case.adapter / "adapter_model.bin").symlink_to("blobs/abc")


@defect("chat_template.jinja", "a folder under the name of a file", hint="another name", command=BUILD_ADAPTER)
def a_folder_in_place_of_a_template(case: Case) -> None:
    touch(case.adapter / "chat_template.jinja" / "x")


@defect("generation_config.json", "not a regular file", hint="the file itself")
def a_pipe_in_place_of_a_file(case: Case) -> None:
    path = case.model / "generation_config.json"
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@defect("tokenizer.json", "git-lfs pointer", hint="lfs pull")
def a_git_lfs_pointer_in_place_of_the_tokenizer(case: Case) -> None:
    touch(case.model / "tokenizer.json", text=POINTER)


@defect("adapter_model.safetensors", "git-lfs pointer", hint="lfs pull", command=BUILD_ADAPTER)
def a_git_lfs_pointer_in_place_of_an_adapter(case: Case) -> None:
    touch(case.adapter_weights, text=POINTER)


@defect(
    "models--org--name", "config.json is missing", hint="snapshots/abc", command=("build", "{root}/models--org--name")
)
def the_cache_folder_in_place_of_its_snapshot(case: Case) -> None:
    shutil.copytree(case.model, case.root / "models--org--name" / "snapshots" / "abc")


# Two sets of weights


@defect("model-00001-of-00003.safetensors", "second set of weights", "other values", hint="--ignore", base=SHARDED)
def an_old_single_file_beside_shards(case: Case) -> None:
    tensors = {name: t for file in case.model.glob("model-*.safetensors") for name, t in load_file(file).items()}
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, case.weights)


@defect(
    "pytorch_model.bin", "second set of weights", "other values", hint="--ignore model.safetensors or --ignore pytorch"
)
def a_newer_pickle_beside_old_safetensors(case: Case) -> None:
    made = case.model / "pytorch_model.bin"
    other_values(case.weights, made)
    newer(made, case.weights)


@defect("model-00001-of-00002.safetensors", "second set of weights", "only one of them", base=SHARDED)
def shards_of_two_counts_with_an_index(case: Case) -> None:
    for number in (1, 2):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file({f"model.layers.{number}.extra.weight": torch.ones(2, 2)}, case.model / name)


@defect(INDEX, "the index and the files disagree", "of-00030", hint=f"delete {INDEX}", base=SHARDED)
def an_index_with_another_count(case: Case) -> None:
    path = case.model / INDEX
    index = path.read_text(encoding="utf-8").replace("of-00003", "of-00030")
    path.write_text(index, encoding="utf-8")


@defect("adapter_model.bin", "second set of weights", hint="--ignore adapter_model.bin", command=BUILD_ADAPTER)
def a_newer_pickle_beside_an_adapter(case: Case) -> None:
    made = case.adapter / "adapter_model.bin"
    other_values(case.adapter_weights, made)
    newer(made, case.adapter_weights)


# Adapters and trained tensors that would be passed over


@defect("adapter_config.json", "an adapter in the model's folder", hint="--ignore 'adapter_*'")
def an_adapter_in_the_model(case: Case) -> None:
    shutil.copytree(case.adapter, case.model, dirs_exist_ok=True)


@defect("lora_adapter: an", "an adapter that would be passed over", hint="--ignore lora_adapter")
def an_adapter_below_the_model(case: Case) -> None:
    shutil.copytree(case.adapter, case.model / "lora_adapter")


@defect("checkpoint-100: an", "an adapter that would be passed over", hint="--adapter")
def an_adapter_in_a_checkpoint_of_the_model(case: Case) -> None:
    shutil.copytree(case.adapter, case.model / "checkpoint-100")


@defect("non_lora_trainables.bin", "LLaVA", hint="--ignore non_lora_trainables.bin", command=BUILD_ADAPTER)
def trained_tensors_beside_an_adapter(case: Case) -> None:
    touch(case.adapter / "non_lora_trainables.bin")


@defect("new_embeddings.safetensors", "trained embeddings", hint="merge", command=MERGE)
def trained_embeddings_beside_an_adapter(case: Case) -> None:
    touch(case.adapter / "new_embeddings.safetensors")


@defect("pytorch_model.bin", "whole model's weights", hint="without --adapter", command=BUILD_ADAPTER)
def a_model_beside_an_adapter(case: Case) -> None:
    touch(case.adapter / "pytorch_model.bin")


@defect("extra.safetensors", "under a name that is not read", hint="save_pretrained")
def weights_under_another_name(case: Case) -> None:
    shutil.copy(case.weights, case.model / "extra.safetensors")


@defect("tok: a folder", "a tokenizer that would be passed over", hint="copy its files")
def another_tokenizer_below_the_model(case: Case) -> None:
    touch(case.model / "tok" / "tokenizer.json", text="{}")


@defect("templates: a folder with a chat template", hint="--template")
def templates_below_the_model(case: Case) -> None:
    touch(case.model / "templates" / "chat.jinja")


@defect("my_template.jinja", "under a name that is not read", hint="--template")
def a_template_under_another_name(case: Case) -> None:
    touch(case.model / "my_template.jinja")


@defect(
    "pissa_init",
    "residual base",
    hint="pissa_converted",
    command=(*BUILD, "--adapter", "{adapter}/pissa_init"),
)
def the_start_of_pissa_as_adapter(case: Case) -> None:
    for name in ("pissa_init", "pissa_backup", "pissa_converted"):
        shutil.copytree(case.adapter, case.root / "adapters" / name)
    shutil.copytree(case.root / "adapters", case.adapter, dirs_exist_ok=True)


@defect(
    "pissa_backup", "residual base", hint="--ignore pissa_backup", command=(*MERGE, "--adapter", "{root}/pissa_backup")
)
def the_backup_of_pissa_as_adapter(case: Case) -> None:
    shutil.copytree(case.adapter, case.root / "pissa_backup")


@defect("init_lora_weights", "residual base", hint="pissa_converted", command=BUILD_ADAPTER)
def pissa_with_the_converted_one_in_it(case: Case) -> None:
    shutil.copytree(case.adapter, case.root / "converted")
    shutil.copytree(case.root / "converted", case.adapter / "pissa_converted")
    case.adapter_config(init_lora_weights="pissa_niter_16")


@defect("--ignore 'no-such-*'", "matches no file", hint="quantkit inspect", command=(*BUILD, "--ignore", "no-such-*"))
def an_ignored_name_that_is_not_there(case: Case) -> None:
    pass


@defect("config.json", "--ignore", "needed", command=(*BUILD, "--ignore", "*.json"))
def an_ignored_file_that_is_needed(case: Case) -> None:
    pass


# Training state in place of weights


@defect("{model}", "no weights", "DeepSpeed's training state", "global_step10", hint="zero_to_fp32.py")
def only_the_state_of_deepspeed(case: Case) -> None:
    only(case, "global_step10/zero_pp_rank_0_mp_rank_00_optim_states.pt", "latest", "zero_to_fp32.py")


@defect("{model}", "torch.distributed", "__0_0.distcp", hint="dcp_to_torch")
def only_a_distributed_checkpoint(case: Case) -> None:
    only(case, "__0_0.distcp", ".metadata")


@defect("{model}", "torch.distributed", "pytorch_model_fsdp_0", hint="accelerate merge-weights")
def only_a_sharded_folder_of_fsdp(case: Case) -> None:
    only(case, "pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata")


@defect("{model}", "FSDP's training state (pytorch_model_fsdp.bin)", hint="save_pretrained")
def only_the_state_of_fsdp(case: Case) -> None:
    only(case, "pytorch_model_fsdp.bin", "optimizer.bin")


@defect("{model}", "Megatron's checkpoint", hint="export")
def only_the_state_of_megatron(case: Case) -> None:
    only(case, "iter_0000100/common.pt", "latest_checkpointed_iteration.txt")


@defect("{model}", "verl's sharded training state", hint="verl.model_merger")
def only_the_state_of_verl(case: Case) -> None:
    only(case, "model_world_size_8_rank_0.pt")


@defect("adapter_model.safetensors is missing", "DeepSpeed", hint="zero_to_fp32.py", command=BUILD_ADAPTER)
def an_adapter_with_only_the_state_of_deepspeed(case: Case) -> None:
    case.adapter_weights.unlink()
    touch(case.adapter / "global_step10" / "mp_rank_00_model_states.pt", case.adapter / "zero_to_fp32.py")


@defect("model.safetensors", "shape [0]", "sharded training", hint="stage3_gather")
def weights_that_were_not_gathered(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({name: torch.zeros(0) for name in tensors}))


@defect("adapter_model.safetensors", "shape [0]", "sharded training", hint="zero_to_fp32.py", command=BUILD_ADAPTER)
def an_embedding_of_an_adapter_that_was_not_gathered(case: Case) -> None:
    key = "base_model.model.model.embed_tokens.weight"
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({key: torch.zeros(0)}))
    case.adapter_config(modules_to_save=["embed_tokens"])
    touch(case.adapter / "zero_to_fp32.py")


@defect(
    "{root}/run", "config.json is missing", "checkpoint-500", hint="checkpoint-1000", command=("build", "{root}/run")
)
def a_run_with_checkpoints(case: Case) -> None:
    for step in (500, 1000):
        shutil.copytree(case.model, case.root / "run" / f"checkpoint-{step}")


@defect("adapter_config.json is missing", hint="checkpoint-1000", command=(*BUILD, "--adapter", "{root}/run"))
def a_run_with_adapters(case: Case) -> None:
    for step in (500, 1000):
        shutil.copytree(case.adapter, case.root / "run" / f"checkpoint-{step}")


# MLX


@defect("model.safetensors", "quantized by MLX", ".scales", hint="mlx_lm.convert")
def quantized_by_mlx(case: Case) -> None:
    quantize_by_mlx(case)
    settings = {"group_size": 64, "bits": 4}
    case.config(quantization=settings, quantization_config=settings)


@defect("model.safetensors", "quantized by MLX", hint="org/Full-7B")
def quantized_by_mlx_and_not_said(case: Case) -> None:
    quantize_by_mlx(case)
    touch(case.model / "README.md", text="---\nbase_model: org/Full-7B\n---\n")


def quantize_by_mlx(case: Case) -> None:
    """Store a projection as MLX does."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.layers.0.mlp.down_proj"
        rows, columns = tensors[f"{name}.weight"].shape
        tensors[f"{name}.weight"] = torch.zeros(rows, columns // 8, dtype=torch.uint32)
        tensors[f"{name}.scales"] = tensors[f"{name}.biases"] = torch.ones(rows, columns // 64, dtype=torch.bfloat16)
        tensors[f"{name}.biases"] = tensors[f"{name}.scales"].clone()

    edit_tensors(case.weights, change)
