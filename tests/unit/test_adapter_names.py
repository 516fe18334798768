"""Keys of adapters: every beginning trainers write, read against the base's names; what cannot be read is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantkit.adapter.names import read_names
from quantkit.errors import AdapterError

LLAMA = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight")
QWEN = ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.w1.weight")
VISION = ("model.language_model.layers.0.self_attn.q_proj.weight", "model.visual.merger.weight", "lm_head.weight")
Q = "layers.0.self_attn.q_proj"
# As transformers 5 saves Qwen2.5-VL.
APART = ("model.language_model.layers.0.self_attn.q_proj.weight", "visual.merger.weight", "lm_head.weight")
OLD_VISION = (f"language_model.model.{Q}.weight", "language_model.lm_head.weight", "vision_tower.merger.weight")
NEOX = ("gpt_neox.embed_in.weight", "gpt_neox.layers.0.attention.dense.weight", "embed_out.weight")
PATH = Path("adapter")


@pytest.mark.parametrize(
    ("base", "key", "expected"),
    [
        (LLAMA, f"base_model.model.model.{Q}.lora_A.weight", f"model.{Q}.lora_A.weight"),
        (LLAMA, f"model.{Q}.lora_A.default.weight", f"model.{Q}.lora_A.default.weight"),
        (LLAMA, f"base_model.model.base_model.model.model.{Q}.lora_B.weight", f"model.{Q}.lora_B.weight"),
        (LLAMA, f"_orig_mod.base_model.model.model.{Q}.lora_B.weight", f"model.{Q}.lora_B.weight"),
        (LLAMA, f"module.base_model.model._orig_mod.model.{Q}.lora_B.weight", f"model.{Q}.lora_B.weight"),
        (LLAMA, f"module._orig_mod.base_model.model.model.{Q}.lora_B.weight", f"model.{Q}.lora_B.weight"),
        (LLAMA, f"base_model.model.{Q}.lora_A.weight", f"model.{Q}.lora_A.weight"),
        (LLAMA, f"base_model.model.model.language_model.{Q}.lora_A.weight", f"model.{Q}.lora_A.weight"),
        (LLAMA, f"base_model.model.language_model.model.{Q}.lora_A.weight", f"model.{Q}.lora_A.weight"),
        (LLAMA, "base_model.model.language_model.lm_head.weight", "lm_head.weight"),
        (LLAMA, f"base_model.model.language_model.{Q}.lora_A.weight", f"model.{Q}.lora_A.weight"),
        # A module of any name that holds the model.
        (LLAMA, f"base_model.model.model.model.{Q}.lora_A.weight", f"model.{Q}.lora_A.weight"),
        (LLAMA, f"model.base_model.model.model.{Q}.lora_A.weight", f"model.{Q}.lora_A.weight"),
        (LLAMA, "base_model.model.policy.lm_head.modules_to_save.weight", "lm_head.modules_to_save.weight"),
        (VISION, f"base_model.model.model.{Q}.lora_A.weight", f"model.language_model.{Q}.lora_A.weight"),
        (OLD_VISION, f"base_model.model.model.{Q}.lora_A.weight", f"language_model.model.{Q}.lora_A.weight"),
        (
            OLD_VISION,
            f"base_model.model.model.language_model.{Q}.lora_A.weight",
            f"language_model.model.{Q}.lora_A.weight",
        ),
        (OLD_VISION, "base_model.model.lm_head.weight", "language_model.lm_head.weight"),
        (OLD_VISION, "base_model.model.model.vision_tower.merger.lora_A.weight", "vision_tower.merger.lora_A.weight"),
        (
            VISION,
            f"base_model.model.language_model.model.{Q}.lora_A.weight",
            f"model.language_model.{Q}.lora_A.weight",
        ),
        (NEOX, "base_model.model.lm_head.lora_A.weight", "embed_out.lora_A.weight"),
        # As Qwen-7B's finetune.py saves them.
        (
            QWEN,
            "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
            "transformer.h.0.attn.c_attn.lora_A.weight",
        ),
        (QWEN, "base_model.model.transformer.h.0.mlp.w1.lora_B.weight", "transformer.h.0.mlp.w1.lora_B.weight"),
        (QWEN, "base_model.model.transformer.wte.weight", "transformer.wte.weight"),
    ],
)
def test_a_key_is_brought_to_the_bases_name(base: tuple[str, ...], key: str, expected: str) -> None:
    names = read_names(PATH, [key], base)
    bare = names.bare[key]
    assert names.in_base(bare) == expected


def test_a_module_that_holds_the_model_is_noted() -> None:
    held = read_names(PATH, [f"base_model.model.policy.model.{Q}.lora_A.weight"], LLAMA)
    assert held.notes(PATH) == ["adapter was trained in a module that holds the model as 'policy'"]
    assert held.in_training("lm_head.weight") == "policy.lm_head.weight"
    assert read_names(PATH, [f"base_model.model.model.{Q}.lora_A.weight"], LLAMA).notes(PATH) == []


def test_the_config_speaks_of_the_model_that_was_trained() -> None:
    key = f"base_model.model.model.language_model.{Q}.lora_A.weight"
    names = read_names(PATH, [key], LLAMA)
    assert names.in_training(f"model.{Q}.weight") == f"model.language_model.{Q}.weight"
    assert names.in_training("lm_head.weight") == "lm_head.weight"
    without_head = read_names(PATH, [f"base_model.model.{Q}.lora_A.weight"], LLAMA)
    assert without_head.in_training(f"model.{Q}.weight") == f"{Q}.weight"
    assert without_head.in_training("lm_head.weight") is None
    text = read_names(PATH, [f"base_model.model.model.{Q}.lora_A.weight"], VISION)
    assert text.in_training("model.visual.merger.weight") is None


def test_both_parts_of_a_model_that_sees() -> None:
    """The names of all tensors follow, also of those that the file does not change."""
    keys = [f"base_model.model.model.{part}.lora_A.weight" for part in (f"language_model.{Q}", "visual.merger")]
    for base, visual in ((VISION, "model.visual"), (APART, "visual")):
        names = read_names(PATH, keys, base)
        assert {names.in_base(names.bare[key]).removesuffix(".lora_A.weight") for key in keys} == {
            f"model.language_model.{Q}",
            f"{visual}.merger",
        }
        assert [names.in_training(name) for name in base] == list(VISION)


def test_a_key_of_nothing_is_left_to_the_method() -> None:
    names = read_names(PATH, ["base_model.vera_A", "something.weird"], LLAMA)
    assert names.bare == {"base_model.vera_A": "base_model.vera_A", "something.weird": "something.weird"}


def test_two_ways_to_read_a_file_are_refused() -> None:
    base = (*LLAMA, f"{Q}.weight")
    with pytest.raises(AdapterError, match=r"may belong to .* or to .*: the base model has both"):
        read_names(PATH, [f"base_model.model.{Q}.lora_A.weight"], base)


@pytest.mark.parametrize(
    ("key", "library"),
    [
        ("layers.0.attn.q_proj.lora_a.weight", "torchtune"),
        ("layers.3.mlp.w1.lora_b.weight", "torchtune"),
        ("layers.0.attn.output_proj.magnitude", "torchtune"),
        ("output.lora_a.weight", "torchtune"),
        ("model.layers.0.self_attn.q_proj.lora_a", "MLX"),
    ],
)
def test_other_libraries_layouts_are_refused_with_the_way_on(key: str, library: str) -> None:
    with pytest.raises(AdapterError, match=f"{library}'s") as caught:
        read_names(PATH, [key], LLAMA)
    assert caught.value.hint
