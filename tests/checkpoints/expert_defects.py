"""Mixtures of experts whose config and weights do not go together, and first Qwens that llama.cpp does not run."""

from __future__ import annotations

import torch

from tests.checkpoints.case import Case, edit_tensors
from tests.checkpoints.defect import CONVERT, MIXTRAL, QWEN, defect

LAYER = "model.layers.1.block_sparse_moe"
EXPERT = f"{LAYER}.experts.2.w3.weight"


@defect(f"tensor '{EXPERT}' is absent", hint="download", base=MIXTRAL)
def one_expert_is_missing(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop(EXPERT))


@defect("experts.3.w1.weight", "has no place", base=MIXTRAL)
def more_experts_than_the_config_says(case: Case) -> None:
    case.config(num_local_experts=3)

    def smaller_routers(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.endswith("block_sparse_moe.gate.weight"):
                tensors[name] = tensors[name][:3].clone()

    edit_tensors(case.weights, smaller_routers)


@defect("block_sparse_moe.gate.weight", "[4, ", "[5, ", base=MIXTRAL)
def fewer_experts_than_the_config_says(case: Case) -> None:
    case.config(num_local_experts=5)


@defect("num_local_experts", "None", base=MIXTRAL)
def no_number_of_experts(case: Case) -> None:
    case.config(num_local_experts=None)


@defect("num_experts_per_tok is 5, of 4 experts", base=MIXTRAL)
def more_experts_used_than_there_are(case: Case) -> None:
    case.config(num_experts_per_tok=5)


@defect(EXPERT, "has shape", base=MIXTRAL)
def an_expert_of_another_shape(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({EXPERT: tensors[EXPERT][:-2].clone()}))


@defect(EXPERT, "NaN", base=MIXTRAL, command=CONVERT)
def an_expert_that_is_not_finite(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors[EXPERT][5].fill_(torch.nan))


@defect(f"{LAYER}.gate.bias", "has no place", base=MIXTRAL)
def a_router_with_a_bias(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({f"{LAYER}.gate.bias": torch.zeros(4)}))


@defect("config.json", "no_bias", base=QWEN)
def a_first_qwen_with_all_biases(case: Case) -> None:
    case.config(no_bias=False)


@defect("tensor 'transformer.h.1.attn.c_attn.bias' is absent", base=QWEN)
def a_first_qwen_without_its_biases(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop("transformer.h.1.attn.c_attn.bias"))


@defect("kv_channels", base=QWEN)
def heads_of_another_size_than_the_model(case: Case) -> None:
    case.config(kv_channels=48)
