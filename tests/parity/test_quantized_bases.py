"""Bases that are stored quantized: the same file as llama.cpp's converter, the same model as PEFT's on the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.system.progress import Reporter
from tests.parity.test_merge import (
    LOGIT_TOLERANCE,
    TENSOR_TOLERANCE,
    difference,
    load,
    logits,
    saved_tensors,
    with_peft,
)
from tests.support.adapters import VARIANTS, make_adapter
from tests.support.gguf_compare import differences
from tests.support.quantized import CONVERTED, OTHERS, SCHEMES, make_fp8, make_nf4

Maker = Callable[..., Path]
BITSANDBYTES = Path(__file__).parents[1] / "golden" / "bnb_checkpoints"
# 288 and 416 are no multiples of 128: the last blocks are cut, in rows and in columns.
SHAPE = {"hidden": 288, "intermediate": 416, "heads": 9, "kv_heads": 3, "layers": 1}


@pytest.fixture(scope="module")
def fp8(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """``fp8(scheme)``: a checkpoint in float8."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("fp8") / name
            made[name] = make_fp8(folder, checkpoint("llama3-untied", **SHAPE), SCHEMES[name])
        return made[name]

    return get


@pytest.mark.parametrize("scheme", CONVERTED)
def test_float8_converts_as_in_llama_cpp(fp8: Maker, reference_gguf: Maker, tmp_path: Path, scheme: str) -> None:
    model = fp8(scheme)
    for outtype in ("f16", "bf16") if scheme == "deepseek" else ("f16",):
        ours = convert(model, tmp_path / f"{outtype}.gguf", outtype=outtype)
        assert differences(ours, reference_gguf(model, outtype, pre="llama-bpe")) == []


@pytest.mark.parametrize(("scheme", "same"), [("fbgemm", "compressed-rows"), ("compressed-matrix", "modelopt")])
def test_float8_that_llama_cpp_refuses(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, scheme: str, same: str
) -> None:
    """The same numbers under settings that the converter reads give the same file."""
    assert scheme in OTHERS
    plain = checkpoint("llama3-untied", **SHAPE)
    ours = convert(make_fp8(tmp_path / "ours", plain, SCHEMES[scheme]), tmp_path / "ours.gguf")
    twin = make_fp8(tmp_path / "twin", plain, SCHEMES[scheme])
    config = json.loads((twin / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = SCHEMES[same].settings
    (twin / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert differences(ours, reference_gguf(twin, "f16", pre="llama-bpe")) == []


def test_scales_in_another_shard(fp8: Maker, tmp_path: Path) -> None:
    model = shutil.copytree(fp8("deepseek"), tmp_path / "sharded")
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith("_scale_inv")}
    save_file({name: tensor for name, tensor in tensors.items() if name not in scales}, shard(model, 1))
    save_file(scales, shard(model, 2))
    ours = convert(model, tmp_path / "sharded.gguf")
    assert ours.read_bytes() == convert(fp8("deepseek"), tmp_path / "whole" / "sharded.gguf").read_bytes()


def shard(folder: Path, number: int) -> Path:
    return folder / f"model-{number:05d}-of-00002.safetensors"


def test_nf4_converts_as_the_weights_it_stands_for(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path) -> None:
    """What those are, tests/unit/test_dequantize.py asks of bitsandbytes; here they go the way of every weight."""
    model = make_nf4(tmp_path / "nf4", checkpoint("llama3-untied", **SHAPE))
    plain = merge(model, tmp_path / "plain", adapters=[], dtype="f32")
    assert differences(convert(model, tmp_path / "ours.gguf"), reference_gguf(plain, "f16", pre="llama-bpe")) == []


@pytest.mark.parametrize("kind", ["nf4-double", "int8"])
def test_merged_logits_are_pefts_on_the_dequantized_base(tmp_path: Path, kind: str) -> None:
    base, variant = BITSANDBYTES / kind, VARIANTS["seven-projections"]
    plain = merge(base, tmp_path / "plain", adapters=[], dtype="f32")
    adapter = make_adapter(tmp_path / "adapter", plain, variant, seed=1)
    merged = merge(base, tmp_path / "merged", adapters=[adapter], dtype="f32")
    expected = with_peft(plain, [(adapter, variant)], merged=True).state_dict()
    ours = saved_tensors(merged)
    far = {key: difference(value, expected[key]) for key, value in ours.items()}
    assert {key: value for key, value in far.items() if not value <= TENSOR_TOLERANCE} == {}
    trained = logits(with_peft(plain, [(adapter, variant)], merged=False))
    assert difference(logits(load(merged)), trained) <= LOGIT_TOLERANCE
    assert difference(logits(load(plain)), trained) > 1e-3


def test_a_merged_folder_is_no_longer_quantized(tmp_path: Path) -> None:
    reporter = Reporter()
    base = BITSANDBYTES / "fp4"
    folder = merge(base, tmp_path / "merged", adapters=[], reporter=reporter)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    tensors = saved_tensors(folder)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    exact = saved_tensors(merge(base, tmp_path / "exact", adapters=[], dtype="f32"))
    assert all(torch.equal(tensors[name], exact[name].bfloat16()) for name in tensors)
    assert any(not torch.equal(tensors[name].float(), exact[name]) for name in tensors)
    assert reporter.notes == [
        "fp4 is quantized: 6 tensors in bitsandbytes fp4 are dequantized to f32",
        "the dequantized tensors are written as bf16; use --dtype f32 to keep every bit",
    ]
