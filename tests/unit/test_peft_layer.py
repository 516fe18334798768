"""Methods that PEFT merges: a file that lacks tensors, or has others, is refused when it is opened."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.adapter.changes import Module, Replace
from quantkit.adapter.config import NOT_MERGEABLE, SUPPORTED
from quantkit.adapter.folder import open_adapter
from quantkit.adapter.names import read_names
from quantkit.adapter.peft_layer import PeftLayers
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError
from quantkit.jobs.merge import merge
from quantkit.model.opening import open_merged
from tests.support.adapters import VARIANTS
from tests.support.bits import as_array, as_tensor

Maker = Callable[..., Path]
Tensors = dict[str, torch.Tensor]

PREFIX = "base_model.model."
Q, V, NORM = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "model.layers.0.input_layernorm"
SHAPES: dict[str, tuple[int, ...]] = {
    f"{Q}.weight": (8, 6),
    f"{Q}.bias": (8,),
    f"{V}.weight": (4, 6),
    f"{NORM}.weight": (6,),
    "lm_head.weight": (10, 6),
}
BASE = {name: TensorSpec(name, "F32", shape, Path("model"), 0, 4 * math.prod(shape)) for name, shape in SHAPES.items()}
IA3: dict[str, Any] = {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []}
IA3_TENSORS = {f"{PREFIX}{Q}.ia3_l": torch.arange(1.0, 9).unsqueeze(1)}
VERA: dict[str, Any] = {"peft_type": "VERA", "target_modules": ["q_proj", "v_proj"], "r": 2, "save_projection": True}
VERA_TENSORS = {
    "base_model.vera_A": torch.ones(2, 6),
    "base_model.vera_B": torch.ones(8, 2),
    **{f"{PREFIX}{module}.vera_lambda_d": torch.ones(2) for module in (Q, V)},
    f"{PREFIX}{Q}.vera_lambda_b": torch.ones(8),
    f"{PREFIX}{V}.vera_lambda_b": torch.ones(4),
}
SHIRA: dict[str, Any] = {"peft_type": "SHIRA", "target_modules": ["v_proj"], "r": 1}
SHIRA_TENSORS = {
    f"{PREFIX}{V}.shira_weight": torch.ones(10),
    f"{PREFIX}{V}.shira_indices": torch.stack([torch.arange(10) % 4, torch.arange(10) % 6]).int(),
}


def write(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def layers_of(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> PeftLayers:
    file = open_tensor_file(write(folder, config, tensors) / "adapter_model.safetensors", AdapterError)
    return PeftLayers.open(folder, config, read_names(folder, file.specs, BASE).bare, file, BASE)


def test_every_method_of_peft_is_merged_or_refused_with_a_reason() -> None:
    from peft import PeftType

    assert {kind.value for kind in PeftType} | {"BONE"} == SUPPORTED | NOT_MERGEABLE.keys()
    assert not SUPPORTED & NOT_MERGEABLE.keys()
    assert {variant.method for variant in VARIANTS.values()} == SUPPORTED, "methods without a parity test"


def test_changes_weight_and_bias(tmp_path: Path) -> None:
    tensors = {**IA3_TENSORS, f"{PREFIX}lm_head.weight": torch.ones(10, 6)}
    opened = open_adapter(write(tmp_path / "a", {**IA3, "modules_to_save": ["lm_head"]}, tensors), BASE)
    assert opened.changes == {
        "lm_head.weight": (Replace(f"{PREFIX}lm_head.weight"),),
        f"{Q}.weight": (Module(Q, "weight"),),
        f"{Q}.bias": (Module(Q, "bias"),),
    }
    opened.close()


def test_a_module_saved_in_full_is_no_target(tmp_path: Path) -> None:
    config = {**IA3, "target_modules": ".*(q_proj|lm_head)", "modules_to_save": ["lm_head"]}
    tensors = {**IA3_TENSORS, f"{PREFIX}lm_head.weight": torch.ones(10, 6)}
    opened = open_adapter(write(tmp_path / "a", config, tensors), BASE)
    assert opened.changes["lm_head.weight"] == (Replace(f"{PREFIX}lm_head.weight"),)
    opened.close()


def test_ia3_scales_rows_and_bias(tmp_path: Path) -> None:
    layers = layers_of(tmp_path / "a", IA3, IA3_TENSORS)
    weight, bias = layers.merge(Q, as_array(torch.ones(8, 6)), as_array(torch.full((8,), 2.0)))
    scale = torch.arange(1.0, 9)
    assert bias is not None
    assert torch.equal(as_tensor(weight), scale.unsqueeze(1).expand(8, 6))
    assert torch.equal(as_tensor(bias), 2 * scale)


def test_vera_is_sized_by_the_largest_module(tmp_path: Path) -> None:
    layers = layers_of(tmp_path / "a", VERA, VERA_TENSORS)
    weight, bias = layers.merge(V, np.zeros((4, 6), dtype=np.float32), None)
    assert bias is None
    assert torch.equal(as_tensor(weight), torch.full((4, 6), 2.0))  # lambda_b * (B @ (lambda_d * A)) of ones


def test_shira_adds_at_its_places(tmp_path: Path) -> None:
    layers = layers_of(tmp_path / "a", SHIRA, SHIRA_TENSORS)
    weight, _ = layers.merge(V, np.zeros((4, 6), dtype=np.float32), None)
    expected = torch.zeros(4, 6)
    for i in range(10):
        expected[i % 4, i % 6] += 1
    assert torch.equal(as_tensor(weight), expected)


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if not key.endswith(name)}


OTHER_SHAPE = {f"{PREFIX}{Q}.ia3_l": torch.ones(6, 1)}
REFUSED: dict[str, tuple[dict[str, Any], Tensors, str]] = {
    "another-tensor": (
        IA3,
        {**IA3_TENSORS, f"{PREFIX}{Q}.lora_A.weight": torch.ones(2, 6)},
        r"unexpected tensor '.*q_proj\.lora_A\.weight' in this IA3 adapter",
    ),
    "another-module": (
        IA3,
        {**IA3_TENSORS, f"{PREFIX}{V}.ia3_l": torch.ones(4, 1)},
        r"unexpected tensor '.*v_proj\.ia3_l' in this IA3 adapter",
    ),
    "module-missing": (
        {**IA3, "target_modules": ["q_proj", "v_proj"]},
        IA3_TENSORS,
        f"target_modules names '{V}', but its weights are not in the file",
    ),
    "shape": (IA3, OTHER_SHAPE, r"ia3_l' has shape \[6, 1\]; with this base model, .* needs \[8, 1\]"),
    "no-projections": (VERA, without(VERA_TENSORS, "vera_A"), r"tensor 'base_model\.vera_A' is not in the file"),
    "projections-unsaid": (
        {**VERA, "save_projection": False},
        VERA_TENSORS,
        r"unexpected tensor 'base_model\.vera_A' in this VERA adapter",
    ),
    "one-factor": (VERA, without(VERA_TENSORS, "q_proj.vera_lambda_b"), r"q_proj\.vera_lambda_b' is not in the file"),
    "shared-shape": (
        VERA,
        {**VERA_TENSORS, "base_model.vera_A": torch.ones(2, 7)},
        r"vera_A' has shape \[2, 7\]; .* needs \[2, 6\]",
    ),
    "no-mask": (SHIRA, without(SHIRA_TENSORS, "indices"), r"v_proj\.shira_indices' is not in the file"),
    "unknown-setting": (
        {**IA3, "new_setting": 5},
        IA3_TENSORS,
        "the installed PEFT does not know the setting new_setting",
    ),
    "bad-setting": ({**VERA, "r": -1}, VERA_TENSORS, "PEFT rejects .*: "),
    "not-linear": (
        {**VERA, "target_modules": ["input_layernorm"]},
        {f"{PREFIX}{NORM}.vera_lambda_b": torch.ones(6)},
        "PEFT rejects .*: ",
    ),
    "no-targets": ({**IA3, "target_modules": ["nothing"]}, IA3_TENSORS, "target_modules in .* matches no module"),
    "broken-pattern": (
        {**VERA, "some_pattern": {"(": 1}},
        VERA_TENSORS,
        "the installed PEFT does not know the setting some_pattern",
    ),
    "broken-rank-pattern": (
        {"peft_type": "LOHA", "target_modules": ["q_proj"], "r": 2, "rank_pattern": {"(": 1}},
        {f"{PREFIX}{Q}.hada_w1_a": torch.ones(8, 2)},
        "PEFT rejects .*: error: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    config, tensors, message = REFUSED[name]
    with pytest.raises(AdapterError, match=message):
        open_adapter(write(tmp_path / "a", config, tensors), BASE).close()


def test_places_outside_of_the_weight(tmp_path: Path) -> None:
    key = f"{PREFIX}{V}.shira_indices"
    for value in (4, -1):
        indices = SHIRA_TENSORS[key].clone()
        indices[0, 3] = value
        layers = layers_of(tmp_path / "a", SHIRA, {**SHIRA_TENSORS, key: indices})
        with pytest.raises(AdapterError, match=r"shira_indices' has indices outside of \[4, 6\]"):
            layers.merge(V, np.zeros((4, 6), dtype=np.float32), None)


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    tensors = {f"{PREFIX}{Q}.ia3_l": torch.full((8, 1), math.nan)}
    layers = layers_of(tmp_path / "a", IA3, tensors)
    with pytest.raises(AdapterError, match="ia3_l' has NaN or infinite values"):
        layers.merge(Q, as_array(torch.ones(8, 6)), as_array(torch.ones(8)))


def test_a_bias_that_the_base_has_no_place_for(tmp_path: Path) -> None:
    config = {"peft_type": "BEFT", "target_modules": ["v_proj"]}
    layers = layers_of(tmp_path / "a", config, {f"{PREFIX}{V}.beft_bias": torch.ones(1, 4)})
    with pytest.raises(AdapterError, match=r"PEFT rejects .*v_proj: ValueError: Base layer has no bias"):
        layers.merge(V, np.ones((4, 6), dtype=np.float32), None)


def test_the_result_does_not_depend_on_workers_or_ranges(
    checkpoint: Maker, adapter: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several workers take ranges of modules that are merged once; all get the same rows."""
    monkeypatch.setattr("quantkit.engine.ranges.CHUNK_WEIGHTS", 1 << 14)
    base, changes = checkpoint("qwen2", dtype="f32"), adapter("boft-bias")
    folders = [
        merge(base, tmp_path / str(threads), adapters=[changes], dtype="f32", threads=threads) for threads in (1, 4)
    ]
    one, four = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() == four.keys()
    assert all(torch.equal(one[key], four[key]) for key in one)


def test_lora_needs_neither_peft_nor_transformers(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base, changes = checkpoint("llama3-untied", dtype="f32"), adapter("dora")
    code = (
        "import sys; from pathlib import Path; from quantkit.jobs.convert import convert; "
        f"convert(Path({str(base)!r}), Path({str(tmp_path / 'x.gguf')!r}), adapters=[Path({str(changes)!r})]); "
        "print({'peft', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_module_on_one_side_of_a_tied_pair_parts_it(checkpoint: Maker, adapter: Maker) -> None:
    with open_merged(checkpoint("llama3-tied", dtype="f32"), [adapter("loha-tied-head")]) as model:
        assert model.untied
        assert model.adapters[0].changes["lm_head.weight"][-1] == Module("lm_head", "weight")


def test_what_transformers_does_not_have_as_modules_needs_no_weights(tmp_path: Path) -> None:
    """Experts, which it keeps as one parameter, and tensors that it does not load."""
    expert, unread = "model.layers.0.mlp.experts.0.q_proj", "model.layers.1.self_attn.q_proj"
    base = {**BASE, f"{expert}.weight": BASE[f"{Q}.weight"], f"{unread}.weight": BASE[f"{Q}.weight"]}
    folder = write(tmp_path / "a", IA3, IA3_TENSORS)
    adapter = open_adapter(folder, base, idle=[f"{unread}.weight"])
    assert {name for name in adapter.changes if name.endswith("weight")} == {f"{Q}.weight"}
    adapter.close()
    with pytest.raises(AdapterError, match=f"target_modules names '{unread}'"):
        open_adapter(folder, base)
    trained = {**IA3_TENSORS, f"{PREFIX}{expert}.ia3_l": torch.ones(8, 1)}
    adapter = open_adapter(write(tmp_path / "b", IA3, trained), base, idle=[f"{unread}.weight"])
    assert f"{expert}.weight" in adapter.changes
    adapter.close()
