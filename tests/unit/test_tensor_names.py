"""Names of a checkpoint's tensors: what each reading explains, what is left out, and what is refused by name."""

from __future__ import annotations

import pytest

from quantkit.checkpoint.name_tables import READINGS, Reading
from quantkit.checkpoint.tensor_names import read_tensor_names
from quantkit.errors import CheckpointError

LAYER = "model.layers.0"
KNOWN = (
    "model.embed_tokens.weight",
    f"{LAYER}.self_attn.q_proj.weight",
    f"{LAYER}.self_attn.q_proj.bias",
    f"{LAYER}.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
)


def test_plain_names_are_kept_without_a_note() -> None:
    names = read_tensor_names("m", KNOWN, KNOWN)
    assert (dict(names.own), names.left_out, names.notes) == ({name: name for name in KNOWN}, {}, ())


@pytest.mark.parametrize("trunk", ["model.", "backbone."])
@pytest.mark.parametrize("reading", READINGS[1:], ids=lambda reading: reading.who)
def test_every_prefix_of_every_reading(reading: Reading, trunk: str) -> None:
    known = [name.replace("model.", trunk) for name in KNOWN]
    for stored, own in reading.pairs:
        prefix = own.replace("{}", trunk)
        if own == "lm_head." or stored == prefix:  # the latter are the names of the model itself
            continue
        decoder = {stored + name.removeprefix(prefix): name for name in known if not name.startswith("lm_head.")}
        names = read_tensor_names("m", decoder, known)
        assert dict(names.own) == decoder
        assert any(reading.who in note for note in names.notes)


def test_a_name_that_nothing_explains_is_kept() -> None:
    names = read_tensor_names("m", [*KNOWN, "model.layers.0.extra.weight"], KNOWN)
    assert names.own["model.layers.0.extra.weight"] == "model.layers.0.extra.weight"
    assert names.notes == ()


def test_vision_is_left_out_only_of_a_model_that_sees() -> None:
    tower = "vision_tower.layers.0.weight"
    assert tower in read_tensor_names("m", [*KNOWN, tower], KNOWN).own
    assert tower in read_tensor_names("m", [*KNOWN, tower], KNOWN, vision=True).left_out
    seen = [name.replace("model.", "model.language_model.") for name in KNOWN]
    names = read_tensor_names("m", [*seen, "model.visual.merger.weight"], KNOWN)
    assert set(names.own.values()) == set(KNOWN)
    assert list(names.left_out) == ["model.visual.merger.weight"]
    assert len(names.notes) == 2
    assert len(read_tensor_names("m", [*seen, tower], KNOWN, vision=True).notes) == 1  # such names are expected there


def test_a_language_model_that_is_stored_twice_keeps_its_plain_names() -> None:
    other = [name.replace("model.", "language_model.model.") for name in KNOWN if name.startswith("model.")]
    names = read_tensor_names("m", [*KNOWN, *other], KNOWN)
    assert [names.own[name] for name in other] == other


def test_two_readings_that_explain_as_much_are_refused() -> None:
    known = ["model.model.norm.weight", "model.norm.weight", "lm_head.weight"]
    with pytest.raises(
        CheckpointError, match=r"may be those of the decoder alone .* or of .* holds the model"
    ) as caught:
        read_tensor_names("m", ["model.lm_head.weight", "norm.weight"], known)
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize("prefix", ["policy.", "_forward_module.", "model.base_model.model.", "a.b.c."])
def test_a_module_of_any_name_that_holds_the_model(prefix: str) -> None:
    stored = {prefix + name: name for name in KNOWN}
    names = read_tensor_names("m", [*stored, f"{prefix}v_head.summary.weight"], KNOWN)
    assert dict(names.own) == stored
    first, second = names.notes
    assert f"holds the model as `{prefix[:-1]}`" in first
    assert "v_head.summary.weight' is left out: the value head" in second
    with pytest.raises(CheckpointError, match=r"score.weight' is the head of a classifier"):
        read_tensor_names("m", [*stored, f"{prefix}score.weight"], KNOWN)


def test_two_models_in_one_file_are_refused() -> None:
    stored = [prefix + name for prefix in ("student.", "teacher.") for name in KNOWN]
    with pytest.raises(CheckpointError, match=r"holds two models, 'student\.' and 'teacher\.'") as caught:
        read_tensor_names("m", stored, KNOWN)
    assert "save_pretrained" in caught.value.hint


def test_a_second_copy_beside_the_plain_names_is_kept_to_be_refused() -> None:
    names = read_tensor_names("m", [*KNOWN, *(f"ema.{name}" for name in KNOWN)], KNOWN)
    assert {own for name, own in names.own.items() if name.startswith("ema.")} == {f"ema.{name}" for name in KNOWN}


def test_what_peft_keeps_of_a_module() -> None:
    q = f"base_model.model.{LAYER}.self_attn.q_proj"
    stored = {
        f"{q}.base_layer.weight": f"{LAYER}.self_attn.q_proj.weight",
        f"{q}.base_layer.bias": f"{LAYER}.self_attn.q_proj.bias",
        "base_model.model.model.embed_tokens.weight": "model.embed_tokens.weight",
        "base_model.model.lm_head.modules_to_save.default.weight": "lm_head.weight",
    }
    before = "base_model.model.lm_head.original_module.weight"
    names = read_tensor_names("m", [*stored, before], KNOWN)
    assert dict(names.own) == stored
    assert list(names.left_out) == [before]
    assert names.notes == (
        f"4 tensors have the names that PEFT saves: '{q}.base_layer.weight' is read as "
        f"'{LAYER}.self_attn.q_proj.weight'",
        f"{before!r} is left out: the values before training of a module that was trained in full",
    )
    alone = read_tensor_names("m", [before], KNOWN)  # no module was trained in its place
    assert dict(alone.own) == {before: "lm_head.weight"}


def test_two_trained_copies_of_a_module_are_refused() -> None:
    copies = [f"lm_head.modules_to_save.{name}.weight" for name in ("default", "other")]
    with pytest.raises(CheckpointError, match=r"'.*default.weight' and '.*other.weight' are both 'lm_head.weight'"):
        read_tensor_names("m", copies, KNOWN)


@pytest.mark.parametrize("key", ["lora_A.default.weight", "lora_magnitude_vector", "ia3_l", "hada_w1_a", "lokr_w1"])
def test_factors_of_an_adapter_are_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"{key}' belongs to an adapter that is not merged") as caught:
        read_tensor_names("m", [*KNOWN, f"{LAYER}.self_attn.q_proj.{key}"], KNOWN)
    assert "merge_and_unload" in caught.value.hint


@pytest.mark.parametrize("head", ["v_head.summary.weight", "value_head.weight", "model.v_head.0.bias"])
def test_value_heads_are_left_out_with_a_note(head: str) -> None:
    names = read_tensor_names("m", [*KNOWN, head], KNOWN)
    assert list(names.left_out) == [head]
    (note,) = names.notes
    assert f"{head!r} is left out: the value head of PPO training" in note


@pytest.mark.parametrize("head", ["score.weight", "classifier.bias", "model.score.weight", "qa_outputs.weight"])
def test_heads_of_classifiers_are_refused(head: str) -> None:
    with pytest.raises(CheckpointError, match=f"'{head}' is the head of a") as caught:
        read_tensor_names("m", [*KNOWN, head], KNOWN)
    assert "cannot chat" in caught.value.hint


def test_the_first_qwens_names() -> None:
    known = ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", "lm_head.weight")
    alone = [name.removeprefix("transformer.") for name in known]
    assert tuple(read_tensor_names("m", alone, known).own.values()) == known
