"""Checkpoints whose tensors have names of another kind of model, of PEFT, or of two readings."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.checkpoints.case import Case, edit_tensors
from tests.checkpoints.defect import CONVERT, GEMMA2, MERGE, MIXTRAL, defect

Tensors = dict[str, torch.Tensor]
Q = "model.layers.0.self_attn.q_proj"
STACK = "model.layers.1.mlp.experts.gate_up_proj"


def _rename(case: Case, rename: Callable[[str], str]) -> None:
    def change(tensors: Tensors) -> None:
        renamed = {rename(name): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(case.weights, change)


def _add(case: Case, **tensors: torch.Tensor) -> None:
    edit_tensors(case.weights, lambda found: found.update(tensors))


@defect("{model}", f"{Q}.lora_A.default.weight", "not merged", hint="merge_and_unload")
def factors_that_are_not_merged(case: Case) -> None:
    _rename(case, lambda name: name.replace("q_proj.weight", "q_proj.base_layer.weight"))
    _add(case, **{f"{Q}.lora_A.default.weight": torch.ones(4, 64), f"{Q}.lora_B.default.weight": torch.zeros(64, 4)})


@defect("'score.weight' is the head of a classifier or reward model", hint="cannot chat")
def the_head_of_a_reward_model(case: Case) -> None:
    edit_tensors(case.weights, lambda tensors: tensors.pop("lm_head.weight"))
    _add(case, **{"score.weight": torch.ones(1, 64)})


@defect("config.json", "Qwen2ForSequenceClassification is a classifier or reward model", hint="cannot chat")
def a_classifier(case: Case) -> None:
    case.config(architectures=["Qwen2ForSequenceClassification"])


@defect(f"'_orig_mod.{Q}.weight'", f"are both '{Q}.weight'", hint="two copies")
def one_tensor_under_two_names(case: Case) -> None:
    _add(case, **{f"_orig_mod.{Q}.weight": torch.ones(64, 64)})


@defect("'lm_head.weight' differs from the embedding", hint="tied", base=GEMMA2)
def a_head_that_is_not_the_embedding(case: Case) -> None:
    def add(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"][-1, -1] += 1

    edit_tensors(case.weights, add)


@defect("{model}", Q.replace("q_proj", "x_proj"), "unexpected", f"'{Q}.weight' is missing", hint="different")
def another_name_for_a_projection(case: Case) -> None:
    _rename(case, lambda name: name.replace(f"{Q}.", Q.replace("q_proj", "x_proj.")))


def _stack(case: Case, layout: Callable[[torch.Tensor], torch.Tensor], *, keep: bool = False) -> None:
    """Stack the gate and up matrices of one layer's experts."""
    module = "model.layers.1.block_sparse_moe.experts"

    def change(tensors: Tensors) -> None:
        take = tensors.__getitem__ if keep else tensors.pop
        experts = [torch.cat([take(f"{module}.{i}.{kind}.weight") for kind in ("w1", "w3")]) for i in range(4)]
        tensors[STACK] = layout(torch.stack(experts)).contiguous()

    edit_tensors(case.weights, change)


@defect("model.safetensors", STACK, "[4, 64, 256]", "[4, 256, 64]", "transposed", hint="save_pretrained", base=MIXTRAL)
def stacked_experts_in_another_layout(case: Case) -> None:
    _stack(case, lambda stack: stack.transpose(1, 2))


@defect("model.safetensors", STACK, "[3, 256, 64]", "4 experts", command=CONVERT, base=MIXTRAL)
def stacked_experts_that_are_too_few(case: Case) -> None:
    _stack(case, lambda stack: stack[:3])


@defect("experts.0.w1.weight", "is also stored within", STACK, command=MERGE, base=MIXTRAL)
def experts_that_are_stacked_and_single(case: Case) -> None:
    _stack(case, lambda stack: stack, keep=True)


@defect("score.weight", "head of a classifier or reward model (task_type SEQ_CLS)", hint="CAUSAL_LM", command=MERGE)
def the_adapter_of_a_reward_model(case: Case) -> None:
    case.adapter_config(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    head = {"base_model.model.score.weight": torch.ones(1, 64)}
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update(head))


@defect("self_attn.qkv_proj", "[64, 64]", "[128, 64]", hint="a/base", command=MERGE)
def lora_on_a_matrix_that_the_base_has_in_other_parts(case: Case) -> None:
    """B has fewer rows than q, k and v together, so the matrix is not theirs."""

    def fuse(tensors: Tensors) -> None:
        for name in list(tensors):
            if ".v_proj." in name:
                tensors.pop(name)
            else:
                tensors[name.replace("q_proj", "qkv_proj")] = tensors.pop(name)

    edit_tensors(case.adapter_weights, fuse)
    case.adapter_config(target_modules=["qkv_proj"])
