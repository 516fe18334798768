"""The architectures: row order against transformers' rotary embedding, rope factors by hand, metadata, refusals."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from quantkit.arch.decoder import interleave_halves
from quantkit.arch.families import ARCHITECTURES, BY_MODEL_TYPE, FAMILIES, INSIDE, class_notes, find_architecture
from quantkit.arch.rope_factors import _PLAIN_POWERS, _frequencies
from quantkit.checkpoint.dtypes import BF16
from quantkit.errors import ArchitectureError
from tests.support.bits import as_tensor, bits

LLAMA, QWEN2 = ARCHITECTURES["LlamaForCausalLM"], ARCHITECTURES["Qwen2ForCausalLM"]
CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
LLAMA_3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def plain(entries: list[Any]) -> dict[str, Any]:
    return {entry.key: (entry.type.name, entry.value) for entry in entries}


def test_rows_of_two_heads_by_hand() -> None:
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    expected = rows[[0, 2, 1, 3, 4, 6, 5, 7]]
    assert bits(interleave_halves(rows, 4)) == bits(expected)
    assert bits(interleave_halves(rows[:, 0], 4)) == bits(expected[:, 0])  # a bias
    assert bits(interleave_halves(rows, 8)) == bits(rows[[0, 4, 1, 5, 2, 6, 3, 7]])
    assert bits(interleave_halves(rows, 2)) == bits(rows)
    assert bits(interleave_halves(rows.view(BF16), 4)) == bits(expected.view(BF16))


@given(heads=st.integers(1, 4), half=st.integers(1, 9), position=st.integers(0, 5000))
def test_rotating_neighbours_is_rotating_halves(heads: int, half: int, position: int) -> None:
    """ggml's rope on rows in our order gives transformers' rope, in our order."""
    size = 2 * half
    query = torch.randn(heads, size, dtype=torch.float64, generator=torch.Generator().manual_seed(half))
    angles = position * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    both = torch.cat([angles, angles])
    rotated, _ = apply_rotary_pos_emb(
        query[None, :, None], query[None, :, None], both.cos()[None, None], both.sin()[None, None]
    )
    ours = torch.from_numpy(interleave_halves(query.reshape(-1).numpy(), size).reshape(heads, half, 2))
    turned = torch.view_as_real(torch.view_as_complex(ours) * torch.polar(torch.ones_like(angles), angles))
    expected = torch.from_numpy(interleave_halves(rotated.reshape(-1).numpy(), size).reshape(heads, half, 2))
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-12)


def test_only_whole_heads_move() -> None:
    rules = {rule.target: rule for rule in LLAMA.rules({**CONFIG, "attention_bias": True})}
    moved = {name for name, rule in rules.items() if rule.arrange is not None}
    assert moved == {f"blk.{i}.attn_{p}.{leaf}" for i in range(2) for p in "qk" for leaf in ("weight", "bias")}
    assert {rules[name].unit for name in moved} == {8}
    assert {rule.unit for name, rule in rules.items() if name not in moved} == {1}
    assert all(rule.arrange is None for rule in QWEN2.rules(CONFIG))


def test_llama_rope_factors_by_hand() -> None:
    # Head size 8: frequencies 1, 0.1, 0.01, 0.001; wavelengths 2 pi times 1, 10, 100, 1000. Below 8192 / 4 nothing is
    # slowed; 6283.2 lies between 2048 and 8192, where (8192 / 6283.19 - 1) / (4 - 1) = 0.101268 of it stays.
    (made,) = LLAMA.generated({**CONFIG, "rope_scaling": LLAMA_3})
    assert made.target == "rope_freqs.weight"
    assert made.values.dtype == np.float32
    assert made.values.tolist() == pytest.approx([1.0, 1.0, 1.0, 4.681517], rel=1e-5)
    (slow,) = LLAMA.generated({**CONFIG, "rope_scaling": {**LLAMA_3, "original_max_position_embeddings": 1024}})
    # 1024: 628.3 lies between 256 and 1024: (1024 / 628.319 - 1) / 3 = 0.2099155; 6283 is beyond.
    assert slow.values.tolist() == pytest.approx([1.0, 1.0, 3.239642, 8.0], rel=1e-5)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_llama_rope_factors_are_transformers(theta: float, size: int) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = {**CONFIG, "head_dim": size, "rope_theta": theta, "rope_scaling": {**LLAMA_3, "factor": 32.0}}
    (made,) = LLAMA.generated(config)
    theirs = LlamaConfig(
        hidden_size=8 * size,
        num_attention_heads=8,
        head_dim=size,
        max_position_embeddings=8192 * 32,
        rope_parameters={**LLAMA_3, "factor": 32.0, "rope_theta": theta},
    )
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    frequencies = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    torch.testing.assert_close(frequencies / as_tensor(made.values), slowed, rtol=1e-6, atol=0)
    assert made.values.min() == 1.0
    assert made.values.max() == 32.0


def llama_cpps_factors(config: Mapping[str, Any], size: int) -> torch.Tensor:
    """As ``generate_extra_tensors`` of llama.cpp's conversion/llama.py writes it down, in torch."""
    rope = config["rope_scaling"]
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for frequency in 1.0 / (config["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)):
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            factors.append(1)
        elif wavelength > context / low:
            factors.append(rope["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(factors, dtype=torch.float32)


@pytest.mark.parametrize("size", [64, 96, 128, 256])
@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1000000.0])
def test_llama_rope_factors_are_llama_cpps_in_every_bit(theta: float, size: int) -> None:
    for factor, low, high, context in (
        (8.0, 1.0, 4.0, 8192),
        (32.0, 1.0, 4.0, 8192),
        (7.3, 0.9, 31.7, 5000),
        (3, 1, 50, 9999),
        (16.0, 1.0, 1.0, 8192),
    ):
        scaling = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        scaling = {**LLAMA_3, **scaling, "original_max_position_embeddings": context}
        config = {**CONFIG, "head_dim": size, "rope_theta": theta, "rope_scaling": scaling}
        (made,) = LLAMA.generated(config)
        assert bits(made.values) == bits(llama_cpps_factors(config, size))


@pytest.mark.parametrize(("base", "size"), _PLAIN_POWERS)
def test_frequencies_of_the_released_models_are_torchs(base: float, size: int) -> None:
    assert bits(_frequencies(base, size)) == bits(
        1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    )


def test_frequencies_of_the_released_models_need_no_torch() -> None:
    code = (
        f"import sys; from quantkit.arch.rope_factors import _frequencies; [_frequencies(*a) for a in {_PLAIN_POWERS}]"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    "rope",
    [
        {},
        {"rope_scaling": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_type": "default"}},
    ],
    ids=repr,
)
def test_no_rope_factors_without_scaling(rope: dict[str, Any]) -> None:
    assert LLAMA.generated({**CONFIG, **rope}) == []


def test_llama_metadata() -> None:
    assert plain(LLAMA.metadata(CONFIG)) == {
        "llama.block_count": ("UINT32", 2),
        "llama.context_length": ("UINT32", 8192),
        "llama.embedding_length": ("UINT32", 64),
        "llama.feed_forward_length": ("UINT32", 96),
        "llama.attention.head_count": ("UINT32", 8),
        "llama.attention.head_count_kv": ("UINT32", 2),
        "llama.rope.freq_base": ("FLOAT32", 10000.0),
        "llama.attention.layer_norm_rms_epsilon": ("FLOAT32", 1e-5),
        "llama.attention.key_length": ("UINT32", 8),
        "llama.attention.value_length": ("UINT32", 8),
        "llama.vocab_size": ("UINT32", 100),
        "llama.rope.dimension_count": ("UINT32", 8),
    }


def test_qwen2_metadata() -> None:
    assert plain(QWEN2.metadata({**CONFIG, "use_sliding_window": False})) == {
        "qwen2.block_count": ("UINT32", 2),
        "qwen2.context_length": ("UINT32", 8192),
        "qwen2.embedding_length": ("UINT32", 64),
        "qwen2.feed_forward_length": ("UINT32", 96),
        "qwen2.attention.head_count": ("UINT32", 8),
        "qwen2.attention.head_count_kv": ("UINT32", 2),
        "qwen2.rope.freq_base": ("FLOAT32", 10000.0),
        "qwen2.attention.layer_norm_rms_epsilon": ("FLOAT32", 1e-5),
    }


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, {"scaling.type": "linear", "scaling.factor": 2.0}),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}, {"freq_base": 5e5}),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
            {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 32768},
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                    "beta_fast": 32,
                    "beta_slow": 1,
                    "attention_factor": 1.1386294361119891,
                }
            },
            {
                "scaling.yarn_beta_fast": 32.0,
                "scaling.yarn_beta_slow": 1.0,
                "scaling.yarn_attn_factor": 1.1386294361119891,
            },
        ),
        ({"rope_theta": None}, {"freq_base": 10000.0}),
        ({"rope_scaling": LLAMA_3}, {"freq_base": 10000.0}),
    ],
    ids=["linear", "version-5", "yarn", "yarn-betas", "no-theta", "llama3"],
)
def test_rope_metadata(rope: dict[str, Any], expected: dict[str, Any]) -> None:
    found = plain(LLAMA.metadata({**CONFIG, **rope}))
    assert {key: found[f"llama.rope.{key}"][1] for key in expected} == expected
    if rope.get("rope_scaling") is LLAMA_3:
        assert not any("scaling" in key for key in found)


def test_rules_of_llama() -> None:
    rules = LLAMA.rules(CONFIG)
    assert [(rule.target, rule.shape) for rule in rules if not rule.target.startswith("blk.1.")] == [
        ("token_embd.weight", (100, 64)),
        ("blk.0.attn_norm.weight", (64,)),
        ("blk.0.attn_q.weight", (64, 64)),
        ("blk.0.attn_k.weight", (16, 64)),
        ("blk.0.attn_v.weight", (16, 64)),
        ("blk.0.attn_output.weight", (64, 64)),
        ("blk.0.ffn_norm.weight", (64,)),
        ("blk.0.ffn_gate.weight", (96, 64)),
        ("blk.0.ffn_up.weight", (96, 64)),
        ("blk.0.ffn_down.weight", (64, 96)),
        ("output_norm.weight", (64,)),
        ("output.weight", (100, 64)),
    ]
    assert len({rule.source for rule in rules}) == len(rules) == 3 + 2 * 9
    assert not any(rule.optional for rule in rules)


def test_rules_follow_the_config() -> None:
    assert [r.target for r in LLAMA.rules({**CONFIG, "tie_word_embeddings": True}) if r.optional] == ["output.weight"]
    wide = {rule.target: rule.shape for rule in LLAMA.rules({**CONFIG, "head_dim": 12})}
    assert (wide["blk.0.attn_q.weight"], wide["blk.0.attn_output.weight"]) == ((96, 64), (64, 96))
    old = {rule.target: rule.shape for rule in LLAMA.rules({**CONFIG, "num_key_value_heads": None})}
    assert old["blk.0.attn_k.weight"] == (64, 64)
    biases = {rule.target for rule in LLAMA.rules({**CONFIG, "mlp_bias": True}) if rule.target.endswith("bias")}
    assert biases == {f"blk.{i}.ffn_{part}.bias" for i in range(2) for part in ("gate", "up", "down")}
    biases = {rule.target for rule in QWEN2.rules(CONFIG) if rule.target.endswith("bias")}
    assert biases == {f"blk.{i}.attn_{part}.bias" for i in range(2) for part in "qkv"}


@pytest.mark.parametrize("architecture", [LLAMA, QWEN2], ids=lambda found: found.name)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic' is not supported"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope|original_max_position_embeddings"),
        ({"rope_scaling": {"type": "su"}}, "rope scaling 'su' is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is None; expected a number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": math.inf}}, "factor is inf; expected a number"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "original_max_position_embeddings is None"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_theta": "large"}, "rope_theta is 'large'; expected a number"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan; expected a number"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None; expected a number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected a positive whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True; expected a positive whole number"),
        ({"vocab_size": -1}, "vocab_size is -1; expected"),
        ({"hidden_size": 64.0}, "hidden_size is 64.0; expected a positive whole number"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None; expected"),
        ({"num_attention_heads": 10, "head_dim": None}, "hidden_size 64 is not a multiple of 10 attention heads"),
        ({"head_dim": 7}, "attention heads have size 7; rotary embeddings need an even size"),
        ({"num_key_value_heads": 3}, "8 attention heads are not a multiple of 3 key/value heads"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_settings_that_would_be_lost(architecture: Any, change: dict[str, Any], message: str) -> None:
    config = {**CONFIG, **change}
    with pytest.raises(ArchitectureError, match=message):
        (architecture.metadata(config), architecture.rules(config))


@pytest.mark.parametrize(
    "missing", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
)
def test_llama_scaling_needs_all_its_numbers(missing: str) -> None:
    scaling = {key: value for key, value in LLAMA_3.items() if key != missing}
    with pytest.raises(ArchitectureError, match=f"rope_scaling: {missing} is None"):
        LLAMA.generated({**CONFIG, "rope_scaling": scaling})


def test_qwen2_with_a_sliding_window() -> None:
    with pytest.raises(ArchitectureError, match="use_sliding_window True is not supported"):
        QWEN2.metadata({**CONFIG, "use_sliding_window": True})


def test_find_architecture() -> None:
    assert find_architecture({"architectures": ["LlamaForCausalLM"]}, "x") is LLAMA
    assert find_architecture({"architectures": ["Qwen2ForCausalLM"]}, "x") is QWEN2
    with pytest.raises(ArchitectureError, match=r"x: architecture 'MambaForCausalLM' is not supported") as caught:
        find_architecture({"architectures": ["MambaForCausalLM"]}, "x")
    assert caught.value.hint.endswith(", ".join(sorted({*ARCHITECTURES, *(wrapper for wrapper, _ in INSIDE)})))
    for nothing in ({}, {"architectures": []}, {"architectures": None}, {"architectures": "LlamaForCausalLM"}):
        with pytest.raises(ArchitectureError, match="x: architectures is missing"):
            find_architecture(nothing, "x")


def test_qwen2_loses_no_llama_scaling() -> None:
    with pytest.raises(ArchitectureError, match="llama3"):
        QWEN2.metadata({**CONFIG, "rope_scaling": LLAMA_3})


@pytest.mark.parametrize("rope", ["linear", 4, {"full_attention": {"rope_type": "yarn", "factor": 4.0}}], ids=repr)
def test_rope_of_a_wrong_kind(rope: Any) -> None:
    with pytest.raises(ArchitectureError, match="rope_"):
        LLAMA.metadata({**CONFIG, "rope_parameters": rope})


@pytest.mark.parametrize(
    "change", [{"high_freq_factor": 0}, {"low_freq_factor": 0}, {"high_freq_factor": 0.5}, {"factor": 0}], ids=repr
)
def test_llama_scaling_that_divides_by_zero(change: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError):
        LLAMA.generated({**CONFIG, "rope_scaling": {**LLAMA_3, "original_max_position_embeddings": 1024, **change}})


def test_numbers_too_large_for_the_file() -> None:
    changes: list[dict[str, Any]] = [{"max_position_embeddings": 2**40}, {"rope_theta": 1e40}, {"rms_norm_eps": 1e308}]
    for change in changes:
        with pytest.raises(ArchitectureError, match=next(iter(change))):
            LLAMA.metadata({**CONFIG, **change})


def test_architectures_of_a_wrong_kind() -> None:
    with pytest.raises(ArchitectureError):
        find_architecture({"architectures": [["x"]]}, "config.json")


def test_more_layers_than_llama_cpp_has_room_for() -> None:
    assert LLAMA.metadata({**CONFIG, "num_hidden_layers": 512})
    for layers in (513, 2**70):
        for ask in (LLAMA.metadata, LLAMA.rules):
            with pytest.raises(ArchitectureError, match="num_hidden_layers"):
                ask({**CONFIG, "num_hidden_layers": layers})


@pytest.mark.parametrize(
    ("saved", "note"),
    [
        (None, "names no class in architectures"),
        ([], "names no class in architectures"),
        (["PeftModelForCausalLM"], "names PeftModelForCausalLM"),
        (["AutoModelForCausalLMWithValueHead"], "names AutoModelForCausalLMWithValueHead"),
        (["FSDPLlamaForCausalLM"], "names FSDPLlamaForCausalLM"),
        (["LlamaModel"], "names LlamaModel"),
        (["LlamaForCausalLM"], ""),
    ],
)
def test_the_class_of_a_wrapper_or_none_is_that_of_the_model_type(saved: list[str] | None, note: str) -> None:
    config = {"architectures": saved, "model_type": "llama"}
    assert find_architecture(config, "config.json").name == "llama"
    notes = class_notes(config)
    assert bool(notes) is bool(note)
    assert all(note in one and "is taken for LlamaForCausalLM" in one for one in notes)


@pytest.mark.parametrize(
    "saved", [["Qwen2Model"], ["FSDPFoo"], ["LlamaForSequenceClassification"], ["PeftModel"], None]
)
def test_a_class_that_is_no_wrapper_of_the_model_type_is_refused(saved: list[str] | None) -> None:
    kind = "llama" if saved and saved != ["PeftModel"] else "new"
    with pytest.raises(ArchitectureError):
        find_architecture({"architectures": saved, "model_type": kind}, "config.json")


def test_every_class_by_model_type_is_a_family() -> None:
    assert set(BY_MODEL_TYPE.values()) <= FAMILIES.keys()
