"""Mixtures of experts whose config and weights do not go together, and first Qwens that llama.cpp does not run."""

from __future__ import annotations

import torch

from tests.checkpoints.case import Case, edit_tensors
from tests.checkpoints.defect import BUILD_ADAPTER, CONVERT, MERGE, MIXTRAL, QWEN, defect

LAYER = "model.layers.1.block_sparse_moe"
EXPERT = f"{LAYER}.experts.2.w3.weight"


@defect(f"tensor '{EXPERT}' is missing", hint="save_pretrained", base=MIXTRAL)
def one_expert_is_missing(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop(EXPERT))


@defect("experts.3.w1.weight", "unexpected tensor", base=MIXTRAL)
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


@defect("num_experts_per_tok is 5, but there are only 4 experts", base=MIXTRAL)
def more_experts_used_than_there_are(case: Case) -> None:
    case.config(num_experts_per_tok=5)


@defect(EXPERT, "has shape", base=MIXTRAL)
def an_expert_of_another_shape(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({EXPERT: tensors[EXPERT][:-2].clone()}))


@defect(EXPERT, "NaN", base=MIXTRAL, command=CONVERT)
def an_expert_that_is_not_finite(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors[EXPERT][5].fill_(torch.nan))


@defect(f"{LAYER}.gate.bias", "unexpected tensor", base=MIXTRAL)
def a_router_with_a_bias(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.update({f"{LAYER}.gate.bias": torch.zeros(4)}))


@defect("config.json", "no_bias", base=QWEN)
def a_first_qwen_with_all_biases(case: Case) -> None:
    case.config(no_bias=False)


@defect("tensor 'transformer.h.1.attn.c_attn.bias' is missing", base=QWEN)
def a_first_qwen_without_its_biases(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop("transformer.h.1.attn.c_attn.bias"))


@defect("kv_channels", base=QWEN)
def heads_of_another_size_than_the_model(case: Case) -> None:
    case.config(kv_channels=48)


FUSED = "base_model.model.model.layers.{}.mlp.experts"


def train_experts(case: Case, *, experts: int = 4, rank: int = 4) -> None:
    """Give the adapter what PEFT writes for ``target_parameters``: the factors of all experts of a layer in one."""
    hidden, inner = 64, 128

    def add(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            for module, out, width in ((".base_layer", 2 * inner, hidden), ("", hidden, inner)):
                key = FUSED.format(layer) + module
                tensors[f"{key}.lora_A.weight"] = torch.ones(rank * experts, width)
                tensors[f"{key}.lora_B.weight"] = torch.ones(out, rank * experts)

    edit_tensors(case.adapter_weights, add)
    case.adapter_config(target_parameters=["gate_up_proj", "down_proj"])


@defect("layers.1.mlp.experts.gate_up_proj", "not in the file", hint="again", command=MERGE, base=MIXTRAL)
def lora_on_experts_without_one_parameter(case: Case) -> None:
    train_experts(case)

    def remove(tensors: dict[str, torch.Tensor]) -> None:
        for side in "AB":
            del tensors[f"{FUSED.format(1)}.base_layer.lora_{side}.weight"]

    edit_tensors(case.adapter_weights, remove)


@defect("experts.down_proj", "[32, 128]", "4 experts", hint="base_model", command=BUILD_ADAPTER, base=MIXTRAL)
def lora_on_more_experts_than_there_are(case: Case) -> None:
    train_experts(case, experts=8)


@defect("experts.lora_B.weight", "NaN", hint="diverged", command=BUILD_ADAPTER, base=MIXTRAL)
def lora_on_experts_that_is_not_finite(case: Case) -> None:
    train_experts(case)
    edit_tensors(case.adapter_weights, lambda tensors: tensors[f"{FUSED.format(0)}.lora_B.weight"][3].fill_(torch.nan))


@defect("target_parameters", "q_proj.weight", hint="merge_and_unload", command=MERGE, base=MIXTRAL)
def lora_on_a_dense_parameter(case: Case) -> None:
    case.adapter_config(target_parameters=["q_proj.weight"])
