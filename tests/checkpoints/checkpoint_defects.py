"""Broken checkpoints: files, headers, config, weights."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.checkpoints.case import (
    Case,
    change_json,
    cut,
    edit_header,
    edit_json,
    edit_tensors,
    read_header,
    replace_header,
)
from tests.checkpoints.defect import BINARY, CONVERT, MERGE, QWEN2, SHARDED, TIED, defect

Q, V = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qv")
NORM = "model.norm.weight"
SECOND = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


# Files


@defect("{model}", "no such folder", hint="config.json")
def model_folder_missing(case: Case) -> None:
    shutil.rmtree(case.model)


@defect(
    "model.safetensors",
    "is a file, not a checkpoint folder",
    hint="give the folder",
    command=("build", "{model}/model.safetensors", "-o", "{out}"),
)
def model_is_a_file(case: Case) -> None:
    pass


@defect("{adapter}", "adapter, not a model", hint="--adapter", command=("convert", "{adapter}", "-o", "{out}"))
def adapter_given_as_model(case: Case) -> None:
    pass


@defect("{model}", "no weights", hint="weight files")
def no_weights(case: Case) -> None:
    case.weights.unlink()


@defect(SECOND, "missing", hint="download", base=SHARDED)
def shard_missing_with_index(case: Case) -> None:
    (case.model / SECOND).unlink()


@defect(SECOND, "missing", hint="download", base=SHARDED)
def shard_missing_without_index(case: Case) -> None:
    (case.model / SECOND).unlink()
    (case.model / INDEX).unlink()


@defect("model-00003-of-00003.safetensors", "missing", hint="download", base=SHARDED)
def last_shard_missing_without_index(case: Case) -> None:
    (case.model / "model-00003-of-00003.safetensors").unlink()
    (case.model / INDEX).unlink()


@defect(SECOND, "missing", hint="download", base=SHARDED)
def shard_is_a_link_to_nowhere(case: Case) -> None:
    (case.model / SECOND).unlink()
    (case.model / SECOND).symlink_to(case.root / "nowhere")


@defect("model.safetensors", "no weights", hint="weight files")
def weights_are_a_folder(case: Case) -> None:
    case.weights.unlink()
    case.weights.mkdir()


@defect(SECOND, "truncated", "ends at byte", hint="download", base=SHARDED)
def shard_truncated(case: Case) -> None:
    cut(case.model / SECOND, 100)


@defect("model.safetensors", "truncated", hint="download")
def truncated_in_the_header(case: Case) -> None:
    cut(case.weights, case.weights.stat().st_size - 200)


@defect("model.safetensors", "0 bytes", hint="download")
def empty_file(case: Case) -> None:
    case.weights.write_bytes(b"")


@defect("model.safetensors", "safetensors", hint="download")
def web_page_in_place_of_weights(case: Case) -> None:
    case.weights.write_text("<!doctype html><html><body>Not found</body></html>", encoding="utf-8")


@defect("model.safetensors", "git-lfs pointer", hint="lfs pull")
def git_lfs_pointer_in_place_of_weights(case: Case) -> None:
    case.weights.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n", encoding="utf-8"
    )


# Headers


@defect("model.safetensors", "not valid JSON", hint="download")
def header_is_not_json(case: Case) -> None:
    replace_header(case.weights, b'{"model.norm.weight": ')


@defect("model.safetensors", "not a JSON object", hint="download")
def header_is_a_list(case: Case) -> None:
    replace_header(case.weights, b"[1, 2]")


@defect("model.safetensors", NORM, "invalid header entry")
def header_entry_without_offsets(case: Case) -> None:
    edit_header(case.weights, lambda header: header[NORM].pop("data_offsets"))


@defect("model.safetensors", NORM, "invalid header entry")
def unknown_dtype(case: Case) -> None:
    edit_header(case.weights, lambda header: header[NORM].update(dtype="F12"))


@defect("model.safetensors", NORM, "invalid header entry")
def negative_offset(case: Case) -> None:
    edit_header(case.weights, lambda header: header[NORM].update(data_offsets=[-128, 0]))


@defect("model.safetensors", "overlaps", hint="download")
def overlapping_offsets(case: Case) -> None:
    def change(header: dict[str, Any]) -> None:
        begin, end = header[Q]["data_offsets"]
        header[Q]["data_offsets"] = [begin - 2, end - 2]

    edit_header(case.weights, change)


@defect("model.safetensors", Q, "ends at byte", hint="download")
def offsets_out_of_range(case: Case) -> None:
    def change(header: dict[str, Any]) -> None:
        begin, end = header[Q]["data_offsets"]
        header[Q]["data_offsets"] = [begin + 2**40, end + 2**40]

    edit_header(case.weights, change)


@defect("model.safetensors", Q, "bytes", "expected")
def fewer_bytes_than_the_shape(case: Case) -> None:
    def change(header: dict[str, Any]) -> None:
        begin, end = header[Q]["data_offsets"]
        header[Q]["data_offsets"] = [begin, end - 2]

    edit_header(case.weights, change)


@defect("model.safetensors", NORM, "twice", hint="download")
def duplicate_tensor_in_header(case: Case) -> None:
    text = str(read_header(case.weights)[NORM]).replace("'", '"')
    header = f'{{"{NORM}": {text}, "{NORM}": {text}}}'
    replace_header(case.weights, header.encode())


@defect("also in", NORM, base=SHARDED)
def tensor_in_two_shards(case: Case) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NORM] = torch.ones(64, dtype=torch.bfloat16)

    for file in sorted(case.model.glob("model-*.safetensors")):
        edit_tensors(file, add)


# The tensors and the config


@defect("missing", Q, INDEX, hint="download", base=SHARDED)
def tensor_absent_that_the_index_promises(case: Case) -> None:
    for file in case.model.glob("model-*.safetensors"):
        edit_tensors(file, lambda tensors: tensors.pop(Q, None))


@defect(INDEX, "extra.weight", base=SHARDED)
def tensor_that_the_index_does_not_know(case: Case) -> None:
    edit_tensors(case.model / SECOND, lambda tensors: tensors.update({"extra.weight": torch.ones(4)}))


@defect("{model}", Q, "missing", hint="save_pretrained")
def tensor_absent_that_the_config_demands(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop(Q))


@defect("{model}", "lm_head.weight", "missing", hint="tie_word_embeddings")
def head_absent_in_an_untied_model(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop("lm_head.weight"))


@defect("{model}", "model.layers.0.self_attn.q_proj.bias", "missing", hint="save_pretrained", base=QWEN2)
def bias_absent(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop("model.layers.0.self_attn.q_proj.bias"))


@defect("model.safetensors", "model.layers.0.extra.weight", "unexpected tensor", hint="config.json")
def unknown_tensor(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.ones(4)}))


@defect("model.safetensors", "model.layers.1", "unexpected tensor", hint="config.json")
def more_layers_than_the_config(case: Case) -> None:
    case.config(num_hidden_layers=1)


@defect("model.layers.2.input_layernorm.weight", "missing", hint="config.json")
def fewer_layers_than_the_config(case: Case) -> None:
    case.config(num_hidden_layers=3)


@defect("model.safetensors", Q, "[64, 64]", "[48, 64]", hint="config.json")
def wrong_shape(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({Q: tensors[Q][:48].clone()}))


@defect("model.safetensors", "model.embed_tokens.weight", "shape", hint="config.json")
def wrong_vocabulary_size(case: Case) -> None:
    edit_json(case.model / "config.json", vocab_size=5000)


@defect("model.safetensors", Q, "I8", hint="bf16")
def integer_weights(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({Q: tensors[Q].to(torch.int8)}))


@defect("model.safetensors", Q, "weight_scale", "no quantization_config", hint="config.json")
def float8_weights_whose_config_is_lost(case: Case) -> None:
    edit_tensors(case.weights, _to_float8)


@defect("model.safetensors", Q, "quantized", "weight_scale_inv", "missing", hint="download")
def float8_weights_without_their_scale(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({Q: tensors[Q].to(torch.float8_e4m3fn)}))
    case.config(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})


@defect("model.safetensors", Q, "weight_scale", "[1, 1]", hint="bf16", command=MERGE)
def float8_scale_of_another_block(case: Case) -> None:
    edit_tensors(case.weights, _to_float8)
    case.config(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})


def _to_float8(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q] = tensors[Q].to(torch.float8_e4m3fn)
    tensors[f"{Q}_scale"] = torch.ones(2, 2)


@defect("{model}", "are quantized", "bitsandbytes", "none of them is", hint="f16")
def bitsandbytes_config_over_plain_weights(case: Case) -> None:
    case.config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


@defect("{model}", "are quantized (gptq)", "none of them is", hint="remove quantization_config")
def gptq_config_over_plain_weights(case: Case) -> None:
    case.config(quantization_config={"quant_method": "gptq", "bits": 4})


@defect("model.safetensors", Q, "absmax", "missing", hint="download")
def bitsandbytes_weight_without_absmax(case: Case) -> None:
    _to_nf4(case, blocksize=64)


@defect("model.safetensors", Q, "blocksize 63", command=MERGE)
def bitsandbytes_weight_of_odd_blocks(case: Case) -> None:
    _to_nf4(case, blocksize=63)


def _to_nf4(case: Case, blocksize: int) -> None:
    """A weight as bitsandbytes packs it, less its scales."""
    state = json.dumps({"quant_type": "nf4", "blocksize": blocksize, "dtype": "bfloat16", "shape": [64, 64]})

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q] = torch.zeros(2048, 1, dtype=torch.uint8)
        tensors[f"{Q}.quant_state.bitsandbytes__nf4"] = torch.tensor(list(state.encode()), dtype=torch.uint8)

    edit_tensors(case.weights, pack)
    case.config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


def _pack(case: Case) -> None:
    """A weight of integers, as methods that fit them write it."""

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[Q]
        tensors[Q.replace("weight", "qweight")] = torch.zeros(8, 64, dtype=torch.int32)

    edit_tensors(case.weights, pack)


@defect("{model}", "already quantized", "gptq", "fits its integers", hint="f16", command=MERGE)
def gptq_checkpoint(case: Case) -> None:
    _pack(case)
    case.config(quantization_config={"quant_method": "gptq", "bits": 4})


@defect("{model}", "already quantized", "awq", "fits its integers", hint="org/Full-7B")
def awq_checkpoint_that_names_its_origin(case: Case) -> None:
    _pack(case)
    case.config(quantization_config={"quant_method": "awq", "bits": 4})
    (case.model / "README.md").write_text("---\nbase_model: org/Full-7B\n---\n", encoding="utf-8")


@defect("{model}", "already quantized", "mxfp4", hint="bf16", command=CONVERT)
def mxfp4_checkpoint(case: Case) -> None:
    _pack(case)
    case.config(quantization_config={"quant_method": "mxfp4"})


@defect("{model}", "already quantized", "compressed-tensors, format pack-quantized", hint="bf16")
def compressed_tensors_in_four_bits(case: Case) -> None:
    group = {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    case.config(quantization_config=settings)


def _replace_values(case: Case, name: str, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[11] = value

    edit_tensors(case.weights, change)


@defect("model.safetensors", Q, "NaN", hint="download")
def nan_in_a_weight(case: Case) -> None:
    _replace_values(case, Q, float("nan"))


@defect("model.safetensors", NORM, "infinite", hint="download", command=CONVERT)
def infinity_in_a_weight(case: Case) -> None:
    _replace_values(case, NORM, float("inf"))


@defect("model.safetensors", "model.embed_tokens.weight", "NaN", hint="download", base=TIED)
def nan_in_a_tied_embedding(case: Case) -> None:
    _replace_values(case, "model.embed_tokens.weight", float("nan"))


@defect("model.safetensors", V, "infinite", hint="download", command=MERGE)
def infinity_in_a_weight_under_an_adapter(case: Case) -> None:
    _replace_values(case, V, float("-inf"))


@defect(Q, "70144", "f16", hint="--outtype bf16")
def f16_overflow(case: Case) -> None:
    _replace_values(case, Q, 70000.0)


@defect(V, "f16", hint="--dtype bf16", command=(*MERGE, "--dtype", "f16"))
def f16_overflow_in_a_merge(case: Case) -> None:
    _replace_values(case, V, -1e6)


# The index


@defect(INDEX, "outside of the folder", "../secret.safetensors", base=SHARDED)
def index_points_to_the_parent(case: Case) -> None:
    shutil.copyfile(case.model / SECOND, case.root / "secret.safetensors")
    _point_index(case, "../secret.safetensors")


@defect(INDEX, "outside of the folder", "secret.safetensors", base=SHARDED)
def index_points_to_an_absolute_path(case: Case) -> None:
    shutil.copyfile(case.model / SECOND, case.root / "secret.safetensors")
    _point_index(case, str(case.root / "secret.safetensors"))


def _point_index(case: Case, name: str) -> None:
    def change(index: dict[str, Any]) -> None:
        weight_map = index["weight_map"]
        index["weight_map"] = {tensor: name if file == SECOND else file for tensor, file in weight_map.items()}

    change_json(case.model / INDEX, change)


@defect(INDEX, "weight_map", hint="download", base=SHARDED)
def index_without_weight_map(case: Case) -> None:
    (case.model / INDEX).write_text("{}", encoding="utf-8")


@defect(INDEX, "not valid JSON", hint="download", base=SHARDED)
def index_truncated(case: Case) -> None:
    cut(case.model / INDEX, 40)


# Pickles


class _Payload:
    """What a malicious checkpoint does: code that unpickling runs."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def _pickled(case: Case) -> Path:
    return case.model / "pytorch_model.bin"


@defect("pytorch_model.bin", "more than tensors", hint="safetensors", base=BINARY)
def pickle_with_code(case: Case) -> None:
    torch.save({NORM: torch.ones(64), "x": _Payload(case.marker)}, _pickled(case))


@defect("pytorch_model.bin", "more than tensors", hint="safetensors", base=BINARY)
def plain_pickle_with_code(case: Case) -> None:
    _pickled(case).write_bytes(pickle.dumps(_Payload(case.marker), protocol=2))


@defect("pytorch_model.bin", "epoch", "int", hint="safetensors", base=BINARY)
def pickle_with_other_values(case: Case) -> None:
    torch.save({NORM: torch.ones(64), "epoch": 3}, _pickled(case))


@defect("pytorch_model.bin", "list", hint="safetensors", base=BINARY)
def pickle_of_a_list(case: Case) -> None:
    torch.save([torch.ones(64)], _pickled(case))


@defect("pytorch_model.bin", "truncated", hint="download", base=BINARY)
def pickle_truncated(case: Case) -> None:
    cut(_pickled(case), 5000)


@defect("pytorch_model.bin", "truncated", hint="download", base=BINARY)
def pickle_empty(case: Case) -> None:
    _pickled(case).write_bytes(b"")
