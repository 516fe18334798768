"""Quantized weights: against what bitsandbytes made of them, and against values worked out by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.checkpoint.dequantize.bnb4 import CODEBOOKS, Nested, look_up, pair_table, scale_blocks
from quantkit.checkpoint.dequantize.bnb8 import dequantize_rows
from quantkit.checkpoint.dequantize.fp8 import expand_scale, to_float32
from quantkit.checkpoint.dtypes import BF16, Array
from quantkit.checkpoint.folder import Checkpoint, open_checkpoint
from quantkit.checkpoint.tensor_file import flat_shape
from quantkit.errors import CheckpointError
from quantkit.jobs.inspect import inspect
from tests.support.bits import as_array, bits

GOLDEN = Path(__file__).parents[1] / "golden" / "bnb_checkpoints"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))["sha256"]
FORMATS = {
    "nf4": "bitsandbytes nf4",
    "nf4-double": "bitsandbytes nf4, double quantization",
    "fp4": "bitsandbytes fp4",
    "int8": "bitsandbytes int8",
}


def saved(folder: Path, tensors: Mapping[str, torch.Tensor], settings: Any = None, **config: Any) -> Path:
    """A checkpoint of these tensors."""
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    text = json.dumps({**config, **({} if settings is None else {"quantization_config": settings})})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def in_ranges(checkpoint: Checkpoint, name: str, step: int) -> Array:
    rows = flat_shape(checkpoint.tensors[name].shape)[0]
    return np.concatenate([checkpoint.read(name, start, min(rows, start + step)) for start in range(0, rows, step)])


# bitsandbytes


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_weight_is_bitsandbytes_own(kind: str) -> None:
    with open_checkpoint(GOLDEN / kind) as checkpoint:
        assert checkpoint.formats == dict.fromkeys(EXPECTED[kind], FORMATS[kind])
        for name, digest in EXPECTED[kind].items():
            weight = checkpoint.read(name)
            assert weight.dtype == np.float32
            assert weight.shape == checkpoint.tensors[name].shape
            assert hashlib.sha256(weight.tobytes()).hexdigest() == digest, name


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("step", [1, 3, 64])
def test_rows_do_not_depend_on_the_range(kind: str, step: int) -> None:
    with open_checkpoint(GOLDEN / kind) as checkpoint:
        for name in EXPECTED[kind]:
            assert bits(in_ranges(checkpoint, name, step)) == bits(checkpoint.read(name)), name


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_logical_checkpoint_shows_nothing_of_the_storage(kind: str) -> None:
    with open_checkpoint(GOLDEN / kind) as checkpoint:
        assert "quantization_config" not in checkpoint.config
        assert all(name.endswith("weight") for name in checkpoint.tensors)
        assert {spec.dtype for name, spec in checkpoint.tensors.items() if name in checkpoint.formats} == {"F32"}
        assert {spec.dtype for name, spec in checkpoint.tensors.items() if name not in checkpoint.formats} == {"BF16"}
        hidden, inner = checkpoint.config["hidden_size"], checkpoint.config["intermediate_size"]
        assert checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].shape == (inner, hidden)
        data = sum(file.stat().st_size for file in (GOLDEN / kind).glob("*.safetensors"))
        assert 0.7 * data < checkpoint.nbytes < data


def test_the_user_hears_of_it() -> None:
    with open_checkpoint(GOLDEN / "int8") as checkpoint:
        assert checkpoint.notes == ("int8 is quantized: 7 tensors in bitsandbytes int8 are dequantized to f32",)
    assert inspect(GOLDEN / "fp4")["types"] == {"BF16": 6, "bitsandbytes fp4": 6}


def test_skipped_modules_are_plain() -> None:
    with open_checkpoint(GOLDEN / "fp4") as checkpoint:
        plain = checkpoint.tensors.keys() - checkpoint.formats.keys()
        assert "model.layers.0.self_attn.v_proj.weight" in plain
        assert checkpoint.read("model.layers.0.self_attn.v_proj.weight").dtype == BF16


def test_a_config_without_quant_method(tmp_path: Path) -> None:
    """As transformers wrote it before there were other methods."""
    for file in (GOLDEN / "nf4").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]["quant_method"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.formats) == 7


@pytest.mark.parametrize("kind", ["int8", "fp4"])
def test_weights_in_a_pickle(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_bytes((GOLDEN / kind / "config.json").read_bytes())
    torch.save(load_file(GOLDEN / kind / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path) as pickled, open_checkpoint(GOLDEN / kind) as checkpoint:
        assert pickled.formats == checkpoint.formats
        assert all(bits(pickled.read(name, 1, 4)) == bits(checkpoint.read(name, 1, 4)) for name in checkpoint.tensors)


def test_the_first_weight_of_a_pair_is_the_high_half() -> None:
    table = pair_table(np.arange(16, dtype=np.float32))
    assert look_up(np.array([0x12, 0xF0], dtype=np.uint8), table).tolist() == [1.0, 2.0, 15.0, 0.0]


def test_blocks_of_four_the_last_one_short() -> None:
    values = np.ones(10, dtype=np.float32)
    assert scale_blocks(values, np.float32([2, 3, 5]), 4).tolist() == [2.0] * 4 + [3.0] * 4 + [5.0] * 2


def test_nested_scales_begin_within_a_block() -> None:
    nested = Nested(np.float32([1, 10]), np.arange(256, dtype=np.float32) / 2, blocksize=4, offset=0.25)
    codes = np.array([2, 4, 6], dtype=np.uint8)
    assert nested.expand(codes, first=3).tolist() == [1.25, 20.25, 30.25]


def test_int8_is_a_scale_a_row() -> None:
    codes = np.array([[127, -128], [1, 0]], dtype=np.int8)
    rows = dequantize_rows(codes, np.float32([2, 127]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.float32([[2.0, -2 * 128 / 127], [1.0, 0.0]]), rtol=1.3e-6, atol=1e-5)


def nf4(shape: tuple[int, int] = (3, 64)) -> dict[str, torch.Tensor]:
    """A weight in NF4, of which every code is 7, that is 0.0, but the first, which is 15, that is 1.0."""
    count = shape[0] * shape[1]
    packed = torch.full((count // 2, 1), 0x77, dtype=torch.uint8)
    packed[0] = 0xF7
    return {
        "a.weight": packed,
        "a.weight.absmax": torch.full((-(-count // 64),), 3.0),
        "a.weight.quant_map": torch.tensor(CODEBOOKS["nf4"]),
        "a.weight.quant_state.bitsandbytes__nf4": state(quant_type="nf4", blocksize=64, shape=list(shape)),
    }


def state(**settings: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps({"dtype": "bfloat16", **settings}).encode()), dtype=torch.uint8)


def test_nf4_by_hand(tmp_path: Path) -> None:
    with open_checkpoint(saved(tmp_path, nf4(), {"quant_method": "bitsandbytes"})) as checkpoint:
        weight = checkpoint.read("a.weight")
    assert weight[0, 0] == 3.0
    assert int((weight != 0).sum()) == 1


# float8


def test_every_float8_value() -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        codes = torch.arange(256, dtype=torch.uint8)
        for values in (codes.view(dtype), codes[:255].view(dtype), codes.flip(0).reshape(16, 16).view(dtype)):
            found, theirs = to_float32(as_array(values)), values.float().numpy()
            assert (found.dtype, found.shape) == (np.float32, theirs.shape)
            np.testing.assert_array_equal(found, theirs)  # NaN where there is NaN
            assert (np.signbit(found) == np.signbit(theirs))[~np.isnan(theirs)].all()


def test_scales_of_cut_blocks() -> None:
    scale = np.float32([[1, 2], [3, 4]])
    rows = expand_scale(scale, np.array([0, 1]), (2, 3), columns=4)
    assert rows.tolist() == [[1.0, 1.0, 1.0, 2.0], [3.0, 3.0, 3.0, 4.0]]
    assert expand_scale(scale[:, :1], np.array([1, 1]), (1, 4), columns=4).tolist() == [[3.0], [3.0]]


BLOCKS = {"quant_method": "fp8", "weight_block_size": [2, 3]}
FP8 = torch.ones(2, 3, 5).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("settings", "scale", "expected"),
    [
        (
            BLOCKS,
            torch.arange(8.0).reshape(2, 2, 2),
            [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [2, 2, 2, 3, 3], [4, 4, 4, 5, 5], [4, 4, 4, 5, 5], [6, 6, 6, 7, 7]],
        ),
        ({"quant_method": "fp8"}, torch.tensor(7.0), [[7] * 5] * 6),
        ({"quant_method": "fp8"}, torch.tensor([2.0, 3.0]), [[2] * 5] * 3 + [[3] * 5] * 3),
        ({"quant_method": "fp8"}, torch.arange(6.0).reshape(2, 3, 1), [[n] * 5 for n in range(6)]),
    ],
    ids=["blocks", "one", "one-a-matrix", "one-a-row"],
)
def test_stacked_matrices(tmp_path: Path, settings: Any, scale: torch.Tensor, expected: list[list[int]]) -> None:
    folder = saved(tmp_path, {"experts.up": FP8, "experts.up_scale_inv": scale}, settings)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.read("experts.up").tolist() == expected
        assert in_ranges(checkpoint, "experts.up", 2).tolist() == expected


# What does not fit


BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
STATE = "a.weight.quant_state.bitsandbytes__nf4"
Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("a.weight.absmax"), "'a.weight' is quantized, but 'a.weight.absmax' is missing"),
        (lambda t: t.pop("a.weight.quant_map"), "'a.weight.quant_map' is missing"),
        (lambda t: t.pop("a.weight"), "'a.weight' is missing"),
        (lambda t: t.pop(STATE), "'a.weight.absmax' belongs to no quantized weight"),
        (lambda t: [t.pop(key) for key in list(t) if key != "a.weight"], "'a.weight' is stored as U8, but"),
        (lambda t: t.update({"a.weight.absmax": torch.ones(2)}), r"\[2\] F32, expected \[3\]"),
        (lambda t: t.update({"a.weight.absmax": torch.ones(3, dtype=torch.uint8)}), "U8, expected"),
        (lambda t: t.update({"a.weight.quant_map": torch.linspace(-1, 1, 16)}), "not the codebook of nf4"),
        (lambda t: t.update({"a.weight": t["a.weight"][1:].clone()}), r"\[95, 1\] U8, but nf4 of \[3, 64\] needs 96"),
        (lambda t: t.update({"a.weight": t["a.weight"].reshape(1, -1)}), r"\[1, 96\] U8"),
        (lambda t: t.update({STATE: state(quant_type="fp4", blocksize=64, shape=[3, 64])}), "quant_type 'fp4'"),
        (lambda t: t.update({STATE: state(quant_type="nf4", blocksize=48, shape=[3, 64])}), "blocksize 48"),
        (lambda t: t.update({STATE: state(quant_type="nf4", blocksize=64, shape=[-3, 64])}), r"shape \[-3, 64\]"),
        (lambda t: t.update({STATE: state(quant_type="nf4", blocksize=64)}), "shape None"),
        (lambda t: t.update({STATE: t[STATE][:-1].clone()}), "not a JSON object"),
        (
            lambda t: t.update({STATE.replace("nf4", "af4"): t.pop(STATE)}),
            "quantized as af4; supported are nf4 and fp4",
        ),
        (lambda t: t.update({"b.weight": torch.ones(4, 4, dtype=torch.int8)}), "'b.weight' is stored as I8, but"),
        (lambda t: t.update({"b.SCB": torch.ones(4)}), "'b.weight' is missing"),
        (lambda t: t.update({"b.weight": torch.ones(4, 4), "b.SCB": torch.ones(4)}), "must be a matrix of I8"),
        (
            lambda t: t.update({"b.weight": torch.ones(4, 4, dtype=torch.int8), "b.SCB": torch.ones(3)}),
            r"\[3\] F32, expected \[4\]",
        ),
    ],
)
def test_bitsandbytes_tensors_that_do_not_fit(tmp_path: Path, change: Change, message: str) -> None:
    tensors = nf4()
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(saved(tmp_path, tensors, BNB))


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        ({"nested_offset": 0.5}, "nested_blocksize None"),
        ({"nested_offset": 0.5, "nested_blocksize": 0}, "nested_blocksize 0"),
        ({"nested_offset": "x", "nested_blocksize": 256}, "nested_offset 'x'"),
        ({"nested_offset": float("nan"), "nested_blocksize": 256}, "nested_offset nan"),
        ({"nested_offset": 0.5, "nested_blocksize": 256}, "'a.weight.nested_absmax' is missing"),
        ({"nested_offset": 0.5, "nested_blocksize": 2}, "'a.weight.nested_absmax' is missing"),
    ],
)
def test_double_quantization_that_does_not_fit(tmp_path: Path, nested: dict[str, Any], message: str) -> None:
    tensors = nf4() | {"a.weight.absmax": torch.ones(3, dtype=torch.uint8)}
    tensors[STATE] = state(quant_type="nf4", blocksize=64, shape=[3, 64], **nested)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(saved(tmp_path, tensors, BNB))


def test_int8_in_the_order_of_old_gpus(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(4, 4, dtype=torch.int8), "a.SCB": torch.ones(4)}
    tensors["a.weight_format"] = torch.tensor(2, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="weight_format"):
        open_checkpoint(saved(tmp_path, tensors, BNB))


VALUES = torch.ones(4, 6).to(torch.float8_e4m3fn)
GROUP = {"num_bits": 8, "type": "float", "strategy": "channel"}


def compressed(format: str = "float-quantized", **weights: Any) -> dict[str, Any]:
    groups = {"group_0": {"weights": {**GROUP, **weights}}}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": groups}


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        (BLOCKS, {"a.weight": VALUES}, "'a.weight' is quantized, but 'a.weight_scale_inv' is missing"),
        (BLOCKS, {"a.weight": VALUES, "a.weight_scale_inv": torch.ones(2, 3)}, r"\[2, 3\] F32, expected \[2, 2\]"),
        (BLOCKS, {"a.weight": VALUES, "a.weight_scale_inv": torch.ones(())}, r"\[\] F32, expected \[2, 2\]"),
        ({"quant_method": "fp8"}, {"a.weight": VALUES, "a.weight_scale_inv": torch.ones(2, 2)}, r"\[2, 2\] F32"),
        (
            {"quant_method": "fp8"},
            {"a.weight": VALUES, "a.weight_scale": torch.ones(()), "a.weight_scale_inv": torch.ones(())},
            "two scales",
        ),
        (
            {"quant_method": "fp8"},
            {"a.weight": VALUES, "a.weight_scale": torch.ones((), dtype=torch.uint8)},
            "U8, expected",
        ),
        (
            {"quant_method": "fp8"},
            {"a.weight": torch.ones(4, 6), "a.weight_scale": torch.ones(())},
            "'a.weight' is stored as F32, but has a scale",
        ),
        ({"quant_method": "fp8"}, {"a.weight": VALUES[0]}, "must be a matrix"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, {"a.weight": VALUES}, r"blocks of \[128\]"),
        ({"quant_method": "fp8"}, {"a.weight": torch.ones(4, 6)}, "but none of them is"),
        (None, {"a.weight": VALUES, "a.weight_scale": torch.ones(())}, "no quantization_config"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"a.weight": VALUES}, "quant_algo NVFP4"),
        (compressed("pack-quantized"), {"a.weight": VALUES}, "format pack-quantized"),
        (compressed(num_bits=4), {"a.weight": VALUES}, "not float8"),
        (compressed(type="int"), {"a.weight": VALUES}, "not float8"),
        (compressed(symmetric=False), {"a.weight": VALUES}, "asymmetric"),
        (compressed(strategy="group"), {"a.weight": VALUES}, "strategy group"),
        ({**compressed(), "transform_config": {"R1": {}}}, {"a.weight": VALUES}, "transformed or sparse"),
        ({**compressed(), "sparsity_config": {"format": "sparse-24-bitmask"}}, {"a.weight": VALUES}, "sparse"),
        ({**compressed(), "config_groups": {}}, {"a.weight": VALUES}, "format float-quantized"),
        ({**compressed(), "config_groups": {"a": 1}}, {"a.weight": VALUES}, "not float8"),
        ({**compressed(), "format": ["float-quantized"]}, {"a.weight": VALUES}, "format"),
        ({"quant_method": ["fp8"]}, {"a.weight": VALUES}, "already quantized"),
        ({"quant_method": "fp8"}, {"a.weight": VALUES[:, :0].contiguous()}, "must be a matrix"),
        ([1], {"a.weight": VALUES}, "not a JSON object"),
    ],
)
def test_float8_that_does_not_fit(
    tmp_path: Path, settings: Any, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(saved(tmp_path, tensors, settings))


PACKED = {"a.qweight": torch.ones(2, 2, dtype=torch.int32)}


@pytest.mark.parametrize("method", ["gptq", "something-new"])
def test_plain_weights_under_the_settings_of_another_method(tmp_path: Path, method: str) -> None:
    folder = saved(tmp_path, {"a.weight": torch.ones(2, 2)}, {"quant_method": method})
    with pytest.raises(CheckpointError, match=rf"quantized \({method}\), but none of them is") as caught:
        open_checkpoint(folder)
    assert "remove quantization_config" in caught.value.hint


@pytest.mark.parametrize(
    "method", ["aqlm", "awq", "bitnet", "eetq", "gptq", "hqq", "mxfp4", "quanto", "torchao", "something-new"]
)
def test_other_methods_are_refused_by_name(tmp_path: Path, method: str) -> None:
    folder = saved(tmp_path, PACKED, {"quant_method": method})
    with pytest.raises(CheckpointError, match=rf"already quantized \({method}\)") as caught:
        open_checkpoint(folder)
    assert ("fits its integers to the layers' inputs" in str(caught.value)) is (method in ("aqlm", "awq", "gptq"))
    assert "bf16 or f16 checkpoint" in caught.value.hint


@pytest.mark.parametrize(
    "card",
    [
        "---\nlicense: mit\nbase_model: org/Full-7B\n---\n# A model\n",
        "---\nbase_model:\n- org/Full-7B\nlicense: mit\n---\n",
        '---\nbase_model:\n  - "org/Full-7B"\n---\n',
    ],
)
def test_the_refusal_names_the_model_that_the_card_names(tmp_path: Path, card: str) -> None:
    folder = saved(tmp_path, PACKED, {"quant_method": "awq"})
    (folder / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert caught.value.hint.endswith(": org/Full-7B")


def test_a_name_outside_the_cards_metadata_is_not_taken(tmp_path: Path) -> None:
    folder = saved(tmp_path, PACKED, {"quant_method": "awq"})
    (folder / "README.md").write_text("---\nlicense: mit\n---\nbase_model: org/other\n", encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert "org/other" not in caught.value.hint
