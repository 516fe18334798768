"""Qwen3-Next and Qwen3.5: gated delta nets among attention, M-RoPE, layers for multi-token prediction."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from quantkit.arch.base import Rule
from quantkit.arch.families import ARCHITECTURES
from quantkit.arch.mtp import DEEPSEEK, GLM, QWEN, Settled, settle, untrained
from quantkit.errors import ArchitectureError
from quantkit.plan.order import indices, runs_between, tiled
from tests.support.bits import bits

NEXT, DENSE, SPARSE = "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM"
PLAIN: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "rope_parameters": {"mrope_section": [2, 1, 1], "rope_type": "default", "rope_theta": 1e7},
}
EXPERTS = {
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}
OWN: Mapping[str, Mapping[str, Any]] = {NEXT: EXPERTS, DENSE: {"intermediate_size": 96}, SPARSE: EXPERTS}


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    architecture = ARCHITECTURES[name]
    entries = architecture.metadata(architecture.settings({**PLAIN, **OWN[name], **changes}))
    return {entry.key.removeprefix(f"{architecture.name}."): entry.value for entry in entries}


def rules(name: str, **changes: Any) -> dict[str, Rule]:
    architecture = ARCHITECTURES[name]
    found = architecture.rules(architecture.settings({**PLAIN, **OWN[name], **changes}))
    assert len({rule.target for rule in found}) == len(found)
    return {rule.target: rule for rule in found}


@pytest.mark.parametrize("name", OWN)
def test_metadata(name: str) -> None:
    found = metadata(name)
    expected = {
        "block_count": 4,
        "rope.dimension_count": 8,
        "rope.freq_base": 1e7,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 8,
        "ssm.group_count": 2,
        "ssm.time_step_rank": 6,
        "ssm.inner_size": 48,
        "full_attention_interval": 4,
        "attention.recurrent_layers": [True, True, True, False],
    }
    assert {key: found[key] for key in expected} == expected
    assert found.get("rope.dimension_sections") == (None if name == NEXT else [2, 1, 1, 0])
    assert found.get("expert_shared_feed_forward_length") == (None if name == DENSE else 48)
    assert ("feed_forward_length" in found) == (name != SPARSE)  # Qwen3-Next's class has a size that nothing uses
    assert "nextn_predict_layers" not in found


@pytest.mark.parametrize("name", OWN)
def test_a_layer_for_multi_token_prediction(name: str) -> None:
    found, made = metadata(name, mtp_num_hidden_layers=1), rules(name, mtp_num_hidden_layers=1)
    assert (found["block_count"], found["nextn_predict_layers"]) == (5, 1)
    assert found["attention.recurrent_layers"] == [True, True, True, False, False]
    own = {target for target in made if target.startswith("blk.4.")}
    nextn = {f"nextn.{name}.weight" for name in ("eh_proj", "enorm", "hnorm", "shared_head_norm")}
    full = {target.replace("blk.3.", "blk.4.") for target in made if target.startswith("blk.3.")}
    assert own == full | {f"blk.4.{name}" for name in nextn}
    assert made["blk.4.attn_q.weight"].source == "mtp.layers.0.self_attn.q_proj.weight"
    assert (made["blk.4.nextn.eh_proj.weight"].source, made["blk.4.nextn.eh_proj.weight"].shape) == (
        "mtp.fc.weight",
        (64, 128),
    )
    assert all(made[f"blk.4.{norm}"].arrange is not None for norm in nextn if "eh_proj" not in norm)


def test_value_heads_are_tiled() -> None:
    """Three of each of two key heads, of 8 rows: HF's 0 1 2 | 3 4 5 becomes 0 3 1 4 2 5."""
    made = rules(DENSE)
    order = np.concatenate([np.arange(8) + 8 * head for head in (0, 3, 1, 4, 2, 5)])
    assert indices(made["blk.0.attn_gate.weight"].row_order).tolist() == order.tolist()
    assert indices(made["blk.0.ssm_out.weight"].column_order).tolist() == order.tolist()
    mixed = [*range(32), *(32 + order)]  # queries and keys stay
    assert indices(made["blk.0.attn_qkv.weight"].row_order).tolist() == mixed
    assert indices(made["blk.0.ssm_conv1d.weight"].row_order).tolist() == mixed
    for target in ("ssm_beta.weight", "ssm_alpha.weight", "ssm_dt.bias", "ssm_a"):
        assert indices(made[f"blk.0.{target}"].row_order).tolist() == [0, 3, 1, 4, 2, 5]
    alone = rules(DENSE, linear_num_value_heads=2)
    assert not any(rule.row_order or rule.column_order for rule in alone.values())


def test_fused_matrices_are_taken_apart() -> None:
    """Qwen3-Next: of each of two key heads 8 rows of q, 8 of k, 24 of v and 24 of z."""
    made = rules(NEXT)
    qkv, z = made["blk.0.attn_qkv.weight"], made["blk.0.attn_gate.weight"]
    assert qkv.source == z.source == "model.layers.0.linear_attn.in_proj_qkvz.weight"
    assert (qkv.shape, z.shape, qkv.shape_of_sources) == ((80, 64), (48, 64), (128, 64))
    q, k, v = ([*range(a, b), *range(64 + a, 64 + b)] for a, b in ((0, 8), (8, 16), (16, 40)))
    assert indices(qkv.row_order).tolist() == [*q, *k, *v]
    assert indices(z.row_order).tolist() == [*range(40, 64), *range(104, 128)]
    assert made["blk.0.ssm_ba.weight"].shape == (12, 64)
    assert not made["blk.0.ssm_a"].row_order


def test_norms_are_one_more_but_those_of_delta_nets() -> None:
    for name in OWN:
        norms = {target: rule for target, rule in rules(name).items() if target.endswith("norm.weight")}
        kept = {target for target, rule in norms.items() if rule.arrange is None}
        assert kept == {f"blk.{i}.ssm_norm.weight" for i in range(3)}
        weights = np.array([0.5, -1.0], dtype=np.float32)
        arrange = norms["output_norm.weight"].arrange
        assert arrange is not None
        assert arrange(weights).tolist() == [1.5, 0.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_decay_has_torchs_bits(dtype: Any) -> None:
    compute = rules(DENSE)["blk.0.ssm_a"].compute
    assert compute is not None
    values = np.linspace(-5, 3, 997).astype(dtype)
    values.flags.writeable = False
    expected = -torch.exp(torch.from_numpy(values.copy()))
    assert bits(compute(values, 0)) == bits(expected.numpy())
    assert compute(values, 0).dtype == dtype


def test_which_layers_attend_to_all() -> None:
    kinds = ["full_attention", "linear_attention", "full_attention", "linear_attention"]
    assert metadata(DENSE, layer_types=kinds)["attention.recurrent_layers"] == [False, True, False, True]
    made = rules(DENSE, layer_types=kinds)
    assert {target for target in made if target.endswith("attn_q.weight")} == {
        "blk.0.attn_q.weight",
        "blk.2.attn_q.weight",
    }
    assert made["blk.0.attn_q.weight"].shape == (512, 64)  # queries and gates
    assert metadata(DENSE, full_attention_interval=2)["attention.recurrent_layers"] == [True, False] * 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, {"hidden_act": "gelu"}, "hidden_act") for name in OWN),
        *((name, {"attention_bias": True}, "attention_bias") for name in OWN),
        *((name, {"attn_output_gate": False}, "attn_output_gate") for name in OWN),
        *((name, {"linear_value_head_dim": 16}, "linear_value_head_dim 16 is not supported") for name in OWN),
        *((name, {"linear_num_value_heads": 5}, "linear_num_value_heads 5 is not a multiple") for name in OWN),
        *((name, {"layer_types": ["full_attention"] * 3}, "layer_types is 3 entries") for name in OWN),
        *((name, {"layer_types": ["sliding_attention"] * 4}, "layer_types 'sliding_attention'") for name in OWN),
        *(
            (name, {"rope_parameters": {"mrope_section": [2, 1, 1], "rope_type": "dynamic"}}, "scaling 'dynamic'")
            for name in OWN
        ),
        (
            DENSE,
            {"rope_parameters": {"mrope_section": [2, 2, 2]}},
            r"mrope_section is \[2, 2, 2\]; expected three .* 4",
        ),
        (DENSE, {"rope_parameters": {"mrope_section": [4]}}, "mrope_section is"),
        (DENSE, {"rope_parameters": {"mrope_section": [1, 1, 2]}}, "llama.cpp does not rotate pair 3"),
        (DENSE, {"rope_parameters": {}}, r"mrope_section is \[11, 11, 10\]; expected three numbers that make 4"),
        (NEXT, {"norm_topk_prob": False}, "norm_topk_prob"),
        (NEXT, {"mlp_only_layers": [1]}, "mlp_only_layers"),
        (SPARSE, {"num_experts_per_tok": 4}, "only 3 experts"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        metadata(name, **change)


def test_the_default_sections_of_qwen35() -> None:
    whole = {"head_dim": 256, "rope_parameters": {"rope_type": "default"}}
    assert metadata(DENSE, **whole)["rope.dimension_sections"] == [11, 11, 10, 0]


def test_runs() -> None:
    runs = (range(10, 14), range(2), range(20, 23))
    assert list(runs_between(runs, 0, 9)) == list(runs)
    assert list(runs_between(runs, 2, 7)) == [range(12, 14), range(2), range(20, 21)]
    assert list(runs_between(runs, 4, 6)) == [range(2)]
    assert indices(runs).tolist() == [10, 11, 12, 13, 0, 1, 20, 21, 22]
    assert tiled(2, 3, 2, 10) == tuple(range(n, n + 2) for n in (10, 16, 12, 18, 14, 20))


def test_what_is_kept_for_multi_token_prediction() -> None:
    stored, config = ["model.norm.weight", "mtp.norm.weight"], {"mtp_num_hidden_layers": 1}
    assert settle(QWEN, config, stored) == settle(QWEN, {}, stored)  # Qwen3-Next's config does not count them
    assert settle(QWEN, config, stored) == Settled(config)
    assert settle(QWEN, config, stored, "drop") == Settled(
        {"mtp_num_hidden_layers": None}, "mtp.", "multi-token prediction (--mtp drop)"
    )
    lost = settle(QWEN, config, stored[:1])
    assert (lost.config, lost.dropped) == ({"mtp_num_hidden_layers": None}, "")
    assert "counts 1 layers" in lost.notes[0]
    for mtp, names in ((QWEN, stored[:1]), (None, stored)):
        assert settle(mtp, {}, names, "drop").notes == (
            "--mtp drop: the model has no layers for multi-token prediction",
        )
    with pytest.raises(ArchitectureError, match="mtp_num_hidden_layers 2 is not supported") as caught:
        settle(QWEN, {"mtp_num_hidden_layers": 2}, stored)
    assert "--mtp drop" in caught.value.hint


def test_layers_behind_the_others() -> None:
    """As GLM has them, which llama.cpp reads also where they are counted and lost."""
    config = {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    stored = ["model.layers.1.enorm.weight", "model.layers.2.enorm.weight"]
    for names in (stored, stored[:1]):
        assert settle(GLM, config, names) == Settled(config)
    found = settle(GLM, config, stored, "drop")
    assert (found.config, found.dropped) == ({**config, "num_nextn_predict_layers": None}, "model.layers.2.")
    left = settle(DEEPSEEK, config, stored)
    assert left.dropped == "model.layers.2."
    assert left.why == "multi-token prediction, which llama.cpp does not have for this family"
    assert settle(DEEPSEEK, config, stored[:1]) == Settled(config)
    assert untrained(GLM, config) == "model.layers.2."
    assert untrained(None, config) == ""


def test_a_plan_does_not_need_torch() -> None:
    code = (
        "import sys; from quantkit.arch.families import ARCHITECTURES as a; "
        f"x = a['{DENSE}']; x.rules(x.settings({{}})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
