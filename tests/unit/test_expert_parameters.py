"""LoRA on experts that are one parameter of the trained model: whose factors are whose, and what is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quantkit.adapter.changes import LowRank, Slice
from quantkit.adapter.folder import Adapter, open_adapter
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError
from tests.support.bits import as_tensor

HIDDEN, INNER, EXPERTS, RANK = 5, 3, 2, 2
MODEL, LAYER = "base_model.model.", "model.layers.0"
FUSED, ROUTER = f"{MODEL}{LAYER}.mlp.experts", f"{MODEL}{LAYER}.mlp.gate"
BOTH = ["gate_up_proj", "mlp.experts.down_proj"]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 6,
    "target_modules": [],
    "target_parameters": BOTH,
    "peft_version": "0.19.0",
}
NAMES = {"mlp": ("gate_proj", "up_proj", "down_proj"), "block_sparse_moe": ("w1", "w3", "w2")}


def base(mixture: str = "mlp", inner: int = INNER, experts: int = EXPERTS) -> dict[str, TensorSpec]:
    """A layer's experts, its router and q projection."""
    gate, up, down = NAMES[mixture]
    shapes = {f"{LAYER}.{mixture}.gate.weight": (experts, HIDDEN), f"{LAYER}.self_attn.q_proj.weight": (4, HIDDEN)}
    for expert in range(experts):
        module = f"{LAYER}.{mixture}.experts.{expert}"
        shapes |= {f"{module}.{name}.weight": (inner, HIDDEN) for name in (gate, up)}
        shapes[f"{module}.{down}.weight"] = (HIDDEN, inner)
    return {
        name: TensorSpec(name, "F32", shape, Path("model"), 0, 4 * math.prod(shape)) for name, shape in shapes.items()
    }


def factors(module: str, out: int, width: int, rank: int = RANK, experts: int = EXPERTS) -> dict[str, torch.Tensor]:
    """Values that say where they are stored."""
    a = torch.arange(rank * experts * width, dtype=torch.float32).reshape(rank * experts, width)
    b = torch.arange(out * rank * experts, dtype=torch.float32).reshape(out, rank * experts) + 1000
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


GATE_UP = factors(f"{FUSED}.base_layer", 2 * INNER, HIDDEN)
DOWN = factors(FUSED, HIDDEN, INNER)


@contextmanager
def opened(
    folder: Path, tensors: Mapping[str, torch.Tensor], specs: Mapping[str, TensorSpec] | None = None, **config: Any
) -> Iterator[Adapter]:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    adapter = open_adapter(folder, specs or base())
    try:
        yield adapter
    finally:
        adapter.close()


@pytest.mark.parametrize("mixture", NAMES)
def test_each_expert_gets_its_rows_and_columns(tmp_path: Path, mixture: str) -> None:
    gate, up, down = NAMES[mixture]
    module = f"{LAYER}.{mixture}.experts.1"
    with opened(tmp_path / "a", {**GATE_UP, **DOWN}, base(mixture)) as adapter:
        assert adapter.changes.keys() == {name for name in base(mixture) if ".experts." in name}
        b, a = f"{FUSED}.base_layer.lora_B.weight", f"{FUSED}.base_layer.lora_A.weight"
        assert adapter.changes[f"{module}.{gate}.weight"] == (LowRank(b, a, False, 3.0, part=Slice(1, 2, 0, 3)),)
        assert adapter.changes[f"{module}.{up}.weight"] == (LowRank(b, a, False, 3.0, part=Slice(1, 2, 3, 6)),)
        found = {name: adapter.factors(adapter.changes[f"{module}.{name}.weight"][0]) for name in (gate, up, down)}
        ranks = {adapter.rank(change) for (change,) in adapter.changes.values()}
    # Four columns of B: rank 0 of both experts, then rank 1 of both. Of A, the last two rows are the second expert's.
    left = torch.tensor([[1001.0, 1003], [1005, 1007], [1009, 1011], [1013, 1015], [1017, 1019], [1021, 1023]])
    right = torch.tensor([[10.0, 11, 12, 13, 14], [15, 16, 17, 18, 19]])
    assert torch.equal(as_tensor(found[gate][0]), left[:3])
    assert torch.equal(as_tensor(found[up][0]), left[3:])
    assert torch.equal(as_tensor(found[gate][1]), right)
    assert torch.equal(as_tensor(found[up][1]), right)
    assert torch.equal(as_tensor(found[down][0]), left[:5])
    assert torch.equal(as_tensor(found[down][1]), torch.tensor([[6.0, 7, 8], [9, 10, 11]]))
    assert ranks == {RANK}


def test_patterns_see_the_parameters_name(tmp_path: Path) -> None:
    tensors = {**factors(f"{FUSED}.base_layer", 2 * INNER, HIDDEN, rank=4), **DOWN}
    config = {
        "rank_pattern": {r".*\.gate_up_proj": 4},
        "alpha_pattern": {"layers.0.mlp.experts.down_proj": 10},
        "use_rslora": True,
    }
    with opened(tmp_path / "a", tensors, **config) as adapter:
        scales = {name.split(".")[-2]: change.scale for name, (change,) in adapter.changes.items()}
    assert scales == {"gate_proj": 3.0, "up_proj": 3.0, "down_proj": 10 / math.sqrt(2)}


@pytest.mark.parametrize(("target", "tensors"), [("gate_up_proj", (2 * INNER, HIDDEN)), ("down_proj", (HIDDEN, INNER))])
def test_a_single_parameter_is_not_nested(tmp_path: Path, target: str, tensors: tuple[int, int]) -> None:
    with opened(tmp_path / "a", factors(FUSED, *tensors), target_parameters=[target]) as adapter:
        matrices = {name.split(".")[-2] for name in adapter.changes}
    assert matrices == ({"down_proj"} if target == "down_proj" else {"gate_proj", "up_proj"})


def test_the_router_beside_plain_modules(tmp_path: Path) -> None:
    q = f"{LAYER}.self_attn.q_proj"
    tensors = {**factors(ROUTER, EXPERTS, HIDDEN, experts=1), **factors(f"{MODEL}{q}", 4, HIDDEN, experts=1)}
    config = {"target_parameters": ["gate.weight"], "target_modules": ["q_proj"]}
    with opened(tmp_path / "a", tensors, base("block_sparse_moe"), **config) as adapter:
        (change,) = adapter.changes[f"{LAYER}.block_sparse_moe.gate.weight"]
        left, right = adapter.factors(change)
        assert adapter.changes.keys() == {f"{LAYER}.block_sparse_moe.gate.weight", f"{q}.weight"}
    assert torch.equal(as_tensor(left), tensors[f"{ROUTER}.lora_B.weight"])
    assert torch.equal(as_tensor(right), tensors[f"{ROUTER}.lora_A.weight"])


def test_without_target_modules_only_parameters_are_targets(tmp_path: Path) -> None:
    with opened(tmp_path / "a", {**GATE_UP, **DOWN}, target_modules=None) as adapter:
        assert len(adapter.changes) == 3 * EXPERTS


@pytest.mark.parametrize("version", ["0.19.0", "0.21.2", "1.0"])
def test_square_parameters_of_a_known_layout(tmp_path: Path, version: str) -> None:
    square = factors(FUSED, HIDDEN, HIDDEN)
    with opened(
        tmp_path / "a", square, base(inner=HIDDEN), target_parameters=["down_proj"], peft_version=version
    ) as adapter:
        assert len(adapter.changes) == EXPERTS


@pytest.mark.parametrize(
    ("inner", "version"), [(INNER, "0.17.0"), (INNER, None), (HIDDEN, "0.18.1")], ids=["old", "unsaid", "square"]
)
def test_factors_of_transposed_experts(tmp_path: Path, inner: int, version: str | None) -> None:
    """PEFT before 0.19: ``delta = einsum("o r e, e r i -> e i o", B, A)`` for a parameter [experts, i, o]."""
    tensors = {**factors(f"{FUSED}.base_layer", HIDDEN, 2 * inner), **factors(FUSED, inner, HIDDEN)}
    with opened(tmp_path / "a", tensors, base(inner=inner), peft_version=version) as adapter:
        found = {
            name: as_tensor(left) @ as_tensor(right)
            for name, (change,) in adapter.changes.items()
            for left, right in [adapter.factors(change)]
        }
    module = f"{LAYER}.mlp.experts"
    for part, key in (("gate_up", f"{FUSED}.base_layer"), ("down", FUSED)):
        a, b = tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"]
        a, b = a.reshape(EXPERTS, -1, a.shape[-1]), b.reshape(b.shape[0], -1, EXPERTS)
        delta = torch.einsum("o r e, e r i -> e i o", b, a)
        for expert in range(EXPERTS):
            names = ("gate_proj", "up_proj") if part == "gate_up" else ("down_proj",)
            ours = torch.cat([found[f"{module}.{expert}.{name}.weight"] for name in names])
            assert torch.equal(ours, delta[expert])


BASE = base()
UNEQUAL = BASE | {f"{LAYER}.mlp.experts.1.up_proj.weight": BASE[f"{LAYER}.mlp.experts.0.down_proj.weight"]}
LESS = {name: spec for name, spec in BASE.items() if name != f"{LAYER}.mlp.experts.1.up_proj.weight"}
REFUSED: dict[str, tuple[dict[str, Any], Mapping[str, torch.Tensor], Mapping[str, TensorSpec], str]] = {
    "not-a-list": ({"target_parameters": "down_proj"}, DOWN, BASE, "target_parameters is 'down_proj'; expected a list"),
    "unknown": (
        {"target_parameters": ["x"]},
        DOWN,
        BASE,
        "target_parameters names 'x', which the base model",
    ),
    "dense": (
        {"target_parameters": ["q_proj.weight"]},
        DOWN,
        BASE,
        r"target_parameters names 'model\.layers\.0\.self_attn\.q_proj\.weight', but LoRA on parameters",
    ),
    "all": ({"target_parameters": ["weight"]}, DOWN, BASE, r"target_parameters names .*q_proj\.weight'"),
    "dora": ({"use_dora": True}, {**GATE_UP, **DOWN}, BASE, "use_dora and target_parameters are set"),
    "bias": ({"lora_bias": True}, {**GATE_UP, **DOWN}, BASE, "lora_bias and target_parameters are set"),
    "transposed": ({"fan_in_fan_out": True}, {**GATE_UP, **DOWN}, BASE, "fan_in_fan_out and target_parameters are set"),
    "magnitude": (
        {},
        {**GATE_UP, **DOWN, f"{FUSED}.lora_magnitude_vector.weight": torch.ones(5)},
        BASE,
        r"unexpected tensor .*vector\.weight' for the parameter 'model\.layers\.0\.mlp\.experts\.down_proj'",
    ),
    "inner-missing": ({}, DOWN, BASE, r"names '.*experts\.gate_up_proj', but its lora_A is not in the file"),
    "outer-missing": ({}, GATE_UP, BASE, r"names '.*experts\.down_proj', but its lora_A is not in the file"),
    "one-factor": (
        {},
        {**GATE_UP, f"{FUSED}.lora_A.weight": DOWN[f"{FUSED}.lora_A.weight"]},
        BASE,
        r"names '.*experts\.down_proj', but its lora_B is not in the file",
    ),
    "not-named": (
        {"target_parameters": ["down_proj"]},
        {**GATE_UP, **DOWN},
        BASE,
        r"'model\.layers\.0\.mlp\.experts\.base_layer\.weight', which the base model does not have",
    ),
    "other-count": (
        {},
        {**factors(f"{FUSED}.base_layer", 2 * INNER, HIDDEN, experts=3), **DOWN},
        BASE,
        r"gate_up_proj' has factors of shape \[6, 5\] and \[6, 6\], expected \[4, 5\] and \[6, 4\] \(2 experts",
    ),
    "other-rank": (
        {"r": 3},
        {**GATE_UP, **DOWN},
        BASE,
        r"expected \[6, 3\] and \[5, 6\] \(2 experts in the base model, rank 3\)",
    ),
    "other-width": ({}, {**GATE_UP, **DOWN}, base(inner=4), r"expected \[4, 4\] and \[5, 4\]"),
    # As PEFT stored them before 0.19, but saved by 0.19.
    "old-layout": (
        {"target_parameters": ["down_proj"]},
        factors(FUSED, INNER, HIDDEN),
        BASE,
        r"has factors of shape \[4, 5\] and \[3, 4\], expected \[4, 3\] and \[5, 4\]",
    ),
    "square-and-unsaid": (
        {"target_parameters": ["down_proj"], "peft_version": None},
        factors(FUSED, HIDDEN, HIDDEN),
        base(inner=HIDDEN),
        "down_proj' is square, and peft_version",
    ),
    "unlike-experts": ({}, {**GATE_UP, **DOWN}, UNEQUAL, "have different shapes in the base model"),
    "base-incomplete": ({}, {**GATE_UP, **DOWN}, LESS, r"experts\.1\.up_proj\.weight', which the base model does not"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    config, tensors, specs, message = REFUSED[name]
    with pytest.raises(AdapterError, match=message), opened(tmp_path / "a", tensors, specs, **config):
        pass


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    broken = {key: tensor.clone() for key, tensor in DOWN.items()}
    broken[f"{FUSED}.lora_B.weight"][1, 2] = math.nan
    with opened(tmp_path / "a", {**GATE_UP, **broken}) as adapter:
        (change,) = adapter.changes[f"{LAYER}.mlp.experts.0.down_proj.weight"]
        with pytest.raises(AdapterError, match=r"experts\.lora_B\.weight' has NaN or infinite values"):
            adapter.factors(change)
