"""Broken, unsupported and foreign adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from tests.checkpoints.case import Case, adapter_keys, cut, edit_header, edit_tensors
from tests.checkpoints.defect import BUILD, BUILD_ADAPTER, MERGE, QWEN2, TIED, defect, request

A, B = adapter_keys(0, "q_proj")
Q = "model.layers.0.self_attn.q_proj"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_HINT = "base_model_name_or_path"
MERGE_HINT = "merge_and_unload"


@defect("{adapter}", "no such folder", hint=CONFIG, command=BUILD_ADAPTER)
def adapter_folder_missing(case: Case) -> None:
    shutil.rmtree(case.adapter)


@defect("{adapter}", CONFIG, "missing", hint="save_pretrained", command=MERGE)
def adapter_config_missing(case: Case) -> None:
    (case.adapter / CONFIG).unlink()


@defect(CONFIG, "not valid JSON", hint="download", command=BUILD_ADAPTER)
def adapter_config_is_not_json(case: Case) -> None:
    (case.adapter / CONFIG).write_text("{", encoding="utf-8")


@defect("{adapter}", WEIGHTS, "missing", hint="download", command=BUILD_ADAPTER)
def adapter_weights_missing(case: Case) -> None:
    case.adapter_weights.unlink()


@defect(WEIGHTS, "truncated", hint="download", command=BUILD_ADAPTER)
def adapter_weights_truncated(case: Case) -> None:
    cut(case.adapter_weights, 10)


@defect(WEIGHTS, "truncated", hint="download", command=BUILD_ADAPTER)
def adapter_header_truncated(case: Case) -> None:
    cut(case.adapter_weights, case.adapter_weights.stat().st_size - 100)


@defect(WEIGHTS, "overlaps", hint="download", command=BUILD_ADAPTER)
def adapter_with_overlapping_offsets(case: Case) -> None:
    def change(header: dict[str, dict[str, list[int]]]) -> None:
        entries = sorted((e for k, e in header.items() if k.startswith("base_model")), key=lambda e: e["data_offsets"])
        entries[1]["data_offsets"] = [number - 4 for number in entries[1]["data_offsets"]]

    edit_header(case.adapter_weights, change)


@defect("{adapter}", "no tensors", hint="save", command=BUILD_ADAPTER)
def adapter_without_tensors(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.clear())


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.marker,)  # type: ignore[return-value]


@defect("adapter_model.bin", "more than tensors", hint="safetensors", command=BUILD_ADAPTER)
def adapter_pickle_with_code(case: Case) -> None:
    case.adapter_weights.unlink()
    torch.save({A: torch.ones(4, 64), "x": _Payload(case.marker)}, case.adapter / "adapter_model.bin")


# Keys and shapes


@defect("{adapter}", "model.layers.7.self_attn.q_proj", "does not have", hint=BASE_HINT, command=BUILD_ADAPTER)
def key_matches_no_base_tensor(case: Case) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in (A, B):
            tensors[key.replace("layers.0", "layers.7")] = tensors[key].clone()

    edit_tensors(case.adapter_weights, change)


@defect("{adapter}", "something.weird", "unexpected tensor", command=BUILD_ADAPTER)
def key_without_meaning(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({"something.weird": torch.ones(4)}))


@defect("{adapter}", "lora_C", "not part of LoRA", command=BUILD_ADAPTER)
def key_of_another_method(case: Case) -> None:
    edit_tensors(
        case.adapter_weights, lambda tensors: tensors.update({A.replace("lora_A", "lora_C"): torch.ones(4, 4)})
    )


@defect("{adapter}", Q, "more than one adapter", command=BUILD_ADAPTER)
def two_adapters_in_one_file(case: Case) -> None:
    edit_tensors(
        case.adapter_weights,
        lambda tensors: tensors.update({A.replace(".weight", ".second.weight"): torch.ones(4, 64)}),
    )


@defect(
    "{adapter}",
    Q,
    "adapter was trained on hidden size 128, but this base model has 64",
    hint=BASE_HINT,
    command=BUILD_ADAPTER,
)
def trained_on_another_hidden_size(case: Case) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key, tensor in tensors.items():
            size = (4, 128) if "lora_A" in key else (2 * tensor.shape[0], 4)
            tensors[key] = torch.ones(size)

    edit_tensors(case.adapter_weights, change)


@defect("{adapter}", Q, "[128, 64]", "[64, 64]", hint=BASE_HINT, command=MERGE)
def trained_on_other_heads(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({B: torch.ones(128, 4)}))


@defect("{adapter}", Q, "rank 4", CONFIG, "8", command=BUILD_ADAPTER)
def rank_mismatch(case: Case) -> None:
    case.adapter_config(r=8)


@defect("{adapter}", Q, "rank", "2", command=BUILD_ADAPTER)
def factors_of_different_ranks(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({B: torch.ones(64, 2)}))


@defect("{adapter}", Q, "no lora_B", hint="save", command=BUILD_ADAPTER)
def lora_b_missing(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.pop(B))


@defect("{adapter}", Q, "no lora_A", hint="save", command=BUILD_ADAPTER)
def lora_a_missing(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.pop(A))


@defect("{adapter}", Q, "[0]", hint="ZeRO-3", command=BUILD_ADAPTER)
def weights_of_sharded_training(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({A: torch.empty(0), B: torch.empty(0)}))


@defect("{adapter}", "model.layers.1.self_attn.v_proj", "target_modules", hint="save", command=BUILD_ADAPTER)
def target_without_weights(case: Case) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in adapter_keys(1, "v_proj"):
            del tensors[key]

    edit_tensors(case.adapter_weights, change)


@defect("{adapter}", "target_modules", "k_proj", hint="save", command=BUILD_ADAPTER)
def target_modules_names_absent_weights(case: Case) -> None:
    case.adapter_config(target_modules=["q_proj", "v_proj", "k_proj"])


@defect("{adapter}", "v_proj", "does not name", hint="saved", command=BUILD_ADAPTER)
def weights_that_target_modules_leaves_out(case: Case) -> None:
    case.adapter_config(target_modules=["q_proj"])


@defect("{adapter}", "pattern", command=BUILD_ADAPTER)
def target_modules_is_a_broken_regex(case: Case) -> None:
    case.adapter_config(target_modules="(q_proj")


@defect("{adapter}", "modules_to_save", "lm_head", hint="save", command=BUILD_ADAPTER)
def module_to_save_without_weights(case: Case) -> None:
    case.adapter_config(modules_to_save=["lm_head"])


@defect("{adapter}", B.replace(".weight", ".bias"), command=BUILD_ADAPTER)
def lora_bias_without_a_bias_in_the_base(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({B.replace(".weight", ".bias"): torch.ones(64)}))


# Values


@defect("{adapter}", B, "NaN", hint="diverged", command=BUILD_ADAPTER)
def nan_in_the_adapter(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors[B].fill_(float("nan")))


@defect("{adapter}", A, "infinite", hint="diverged", command=MERGE)
def infinity_in_the_adapter(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors[A].fill_(float("inf")))


@defect("{adapter}", "I64", command=BUILD_ADAPTER)
def integer_adapter_weights(case: Case) -> None:
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({A: tensors[A].long()}))


@defect("self_attn", "f16", hint="--outtype bf16", command=BUILD_ADAPTER)
def merged_weight_overflows_f16(case: Case) -> None:
    case.adapter_config(lora_alpha=1e9)


@defect(Q, "f32", hint="adapter", command=(*MERGE, "--dtype", "f32"))
def merged_weight_overflows_f32(case: Case) -> None:
    case.adapter_config(lora_alpha=3e38)
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({A: torch.full((4, 64), 1e30)}))


# Methods


@defect("{adapter}", "use_dora", Q, "lora_magnitude_vector", hint="same saved folder", command=BUILD_ADAPTER)
def dora_without_magnitudes(case: Case) -> None:
    case.adapter_config(use_dora=True)


@defect("{adapter}", "lora_magnitude_vector", "use_dora", command=BUILD_ADAPTER)
def dora_weights_under_a_plain_config(case: Case) -> None:
    key = A.replace("lora_A.weight", "lora_magnitude_vector.weight")
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({key: torch.ones(64)}))


@defect("{adapter}", "lora_magnitude_vector", "[32]", "[64]", command=BUILD_ADAPTER)
def dora_magnitudes_of_another_size(case: Case) -> None:
    case.adapter_config(use_dora=True)
    key = A.replace("lora_A.weight", "lora_magnitude_vector")
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({key: torch.ones(32)}))


LORA_SETTINGS = ("r", "lora_alpha", "use_dora", "use_rslora", "init_lora_weights", "lora_dropout", "bias")


def other_method(case: Case, tensors: dict[str, torch.Tensor], **config: object) -> None:
    """Make the adapter one of another method, on the q projections."""
    case.adapter_config(**{**dict.fromkeys(LORA_SETTINGS), **config})
    edit_tensors(case.adapter_weights, lambda stored: (stored.clear(), stored.update(tensors)))


IA3 = [adapter_keys(layer, "q_proj")[0].replace("lora_A.weight", "ia3_l") for layer in range(2)]
IA3_CONFIG = {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []}


@defect("{adapter}", "layers.1.self_attn.q_proj", "not in the file", hint="incomplete", command=BUILD_ADAPTER)
def ia3_without_a_layer(case: Case) -> None:
    other_method(case, {IA3[0]: torch.ones(64, 1)}, **IA3_CONFIG)


@defect("{adapter}", "ia3_l", "[32, 1]", "[64, 1]", hint=BASE_HINT, command=MERGE)
def ia3_of_another_size(case: Case) -> None:
    other_method(case, {key: torch.ones(32, 1) for key in IA3}, **IA3_CONFIG)


@defect("{adapter}", "new_setting", "PEFT", hint="pip install -U peft", command=BUILD_ADAPTER)
def setting_that_peft_does_not_know(case: Case) -> None:
    other_method(case, {key: torch.ones(64, 1) for key in IA3}, **IA3_CONFIG, new_setting=1)


@defect("{adapter}", "ia3_l", "NaN", hint="earlier checkpoint of the adapter", command=BUILD_ADAPTER)
def ia3_with_a_nan(case: Case) -> None:
    other_method(case, {key: torch.full((64, 1), torch.nan) for key in IA3}, **IA3_CONFIG)


@defect("{adapter}", "base_model.vera_A", "not in the file", hint="incomplete", command=BUILD_ADAPTER)
def vera_without_projections(case: Case) -> None:
    tensors = {}
    for key in IA3:
        tensors |= {key.replace("ia3_l", "vera_lambda_b"): torch.ones(64)}
        tensors |= {key.replace("ia3_l", "vera_lambda_d"): torch.ones(4)}
    other_method(case, tensors, peft_type="VERA", target_modules=["q_proj"], r=4, save_projection=True)


@defect("{adapter}", "vera_lambda_b", "not in the file", command=BUILD_ADAPTER)
def lora_weights_under_another_method(case: Case) -> None:
    case.adapter_config(**{**dict.fromkeys(LORA_SETTINGS), "peft_type": "VERA", "target_modules": ["q_proj"]})


@defect("{adapter}", Q, "PEFT rejects", "`r`", hint="PEFT", command=BUILD_ADAPTER)
def loha_with_a_rank_of_zero(case: Case) -> None:
    tensors = {key.replace("ia3_l", "hada_w1_a"): torch.ones(64, 4) for key in IA3}
    other_method(case, tensors, peft_type="LOHA", target_modules=["q_proj"], r=0, alpha=8)


@defect(CONFIG, "peft_type is NOVEL", "LOHA", hint=MERGE_HINT, command=BUILD_ADAPTER)
def method_that_nobody_knows(case: Case) -> None:
    case.adapter_config(peft_type="NOVEL")


@defect(CONFIG, "PREFIX_TUNING", "nothing to merge", hint="another adapter", command=BUILD_ADAPTER)
def prefix_tuning(case: Case) -> None:
    case.adapter_config(peft_type="PREFIX_TUNING")


@defect(CONFIG, "UNILORA", "all modules", hint=MERGE_HINT, command=MERGE)
def method_of_the_whole_model(case: Case) -> None:
    case.adapter_config(peft_type="UNILORA")


@defect(CONFIG, "peft_type", "missing", command=BUILD_ADAPTER)
def no_method(case: Case) -> None:
    case.adapter_config(peft_type=None)


@defect(CONFIG, "pissa", hint="save_pretrained", command=BUILD_ADAPTER)
def pissa_initialisation(case: Case) -> None:
    case.adapter_config(init_lora_weights="pissa_niter_16")


TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@defect("{adapter}", "trained tokens for 0 modules", hint="incomplete", command=BUILD_ADAPTER)
def trained_tokens_missing(case: Case) -> None:
    case.adapter_config(trainable_token_indices=[5, 6])


@defect("{adapter}", "trainable_tokens_delta", "[1, 64]", "[2, 64]", command=BUILD_ADAPTER)
def trained_tokens_of_another_count(case: Case) -> None:
    case.adapter_config(trainable_token_indices=[5, 6])
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({TOKENS: torch.ones(1, 64)}))


@defect("{adapter}", "token 2007", "2007 rows", hint="vocabulary", command=BUILD_ADAPTER)
def trained_tokens_beyond_the_vocabulary(case: Case) -> None:
    case.adapter_config(trainable_token_indices=[2007])
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({TOKENS: torch.ones(1, 64)}))


@defect(CONFIG, "trainable_token_indices", command=BUILD_ADAPTER)
def trained_tokens_that_are_texts(case: Case) -> None:
    case.adapter_config(trainable_token_indices=["<|eot_id|>"])


@defect("{adapter}", "nan", hint="0.5", command=(*BUILD, "--adapter-scaled", "{adapter}", "nan"))
def weight_that_is_no_number(case: Case) -> None:
    pass


@defect(CONFIG, "layer replication", hint=MERGE_HINT, command=BUILD_ADAPTER)
def layer_replication(case: Case) -> None:
    case.adapter_config(layer_replication=[[0, 2], [1, 2]])


@defect(CONFIG, "r is None", command=BUILD_ADAPTER)
def rank_missing(case: Case) -> None:
    case.adapter_config(r=None)


@defect(CONFIG, "lora_alpha", command=BUILD_ADAPTER)
def alpha_is_a_text(case: Case) -> None:
    case.adapter_config(lora_alpha="16")


@defect(CONFIG, "rank_pattern", command=BUILD_ADAPTER)
def rank_pattern_is_a_list(case: Case) -> None:
    case.adapter_config(rank_pattern=["q_proj"])


@defect(CONFIG, "rank_pattern", command=BUILD_ADAPTER)
def rank_pattern_holds_a_text(case: Case) -> None:
    case.adapter_config(rank_pattern={"q_proj": "four"})


@defect(CONFIG, "pattern", command=BUILD_ADAPTER)
def rank_pattern_is_a_broken_regex(case: Case) -> None:
    case.adapter_config(rank_pattern={"(q_proj": 4})


@defect(CONFIG, "target_modules", command=BUILD_ADAPTER)
def target_modules_of_another_type(case: Case) -> None:
    case.adapter_config(target_modules=7)


@defect("{adapter}", "ensure_weight_tying", hint=MERGE_HINT, command=BUILD_ADAPTER, base=TIED)
def tied_weights_trained_together_with_a_head_of_their_own(case: Case) -> None:
    case.adapter_config(ensure_weight_tying=True, modules_to_save=["lm_head"])
    key = "base_model.model.lm_head.weight"
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({key: torch.ones(2007, 64)}))


@defect(CONFIG, "use_something_new", "does not know this setting", hint=MERGE_HINT, command=BUILD_ADAPTER)
def a_setting_of_a_newer_peft(case: Case) -> None:
    case.adapter_config(use_something_new=True)


@defect(CONFIG, "bias is 'some'", "lora_only", command=BUILD_ADAPTER)
def a_bias_of_no_known_kind(case: Case) -> None:
    case.adapter_config(bias="some")


@defect("{adapter}", "bias is 'all'", "self_attn.k_proj.bias", hint="incomplete", command=BUILD_ADAPTER, base=QWEN2)
def trained_biases_missing(case: Case) -> None:
    case.adapter_config(bias="all")


@defect("{adapter}", "bias is 'lora_only'", "q_proj.bias", hint="incomplete", command=MERGE, base=QWEN2)
def biases_of_the_targets_missing(case: Case) -> None:
    case.adapter_config(bias="lora_only")


for _verb in ("build", "convert", "merge"):
    request(
        f"an-adapter-without-the-model-for-{_verb}",
        "{adapter}",
        "MODEL is missing",
        hint=f"quantkit {_verb} a/base --adapter",
        command=(_verb, "-o", "{out}", "--adapter", "{adapter}"),
    )
