"""Adapters that change nothing, and adapters whose change is in the base already."""

from __future__ import annotations

import json
import shutil

import torch
from safetensors.torch import load_file

import quantkit
from tests.checkpoints.case import Case, adapter_keys, edit_tensors
from tests.checkpoints.defect import BUILD_ADAPTER, CONVERT, MERGE, defect

CONVERT_ADAPTER = (*CONVERT, "--adapter", "{adapter}")
AGAIN, SAVED_AFTER = "--merge-again", "after training"


def _zero(case: Case, part: str) -> None:
    edit_tensors(
        case.adapter_weights, lambda tensors: [tensor.zero_() for key, tensor in tensors.items() if part in key]
    )


@defect("{adapter}", "adapter_model.safetensors", "all 4 lora_B factors are zero", hint=SAVED_AFTER, command=MERGE)
def saved_before_training(case: Case) -> None:
    _zero(case, "lora_B")


@defect("{adapter}", "all 4 lora_A factors are zero", hint=SAVED_AFTER, command=CONVERT_ADAPTER)
def factors_of_the_other_side_are_zero(case: Case) -> None:
    _zero(case, "lora_A")


@defect("{adapter}", "lora_alpha is 0", "changes nothing", hint="lora_alpha", command=BUILD_ADAPTER)
def adapter_without_scaling(case: Case) -> None:
    case.adapter_config(lora_alpha=0)


@defect("adapter", "changes nothing", "all 5 tensors", hint=SAVED_AFTER, command=MERGE)
def saved_before_training_with_a_copy_of_the_head(case: Case) -> None:
    _zero(case, "lora_B")
    head = load_file(case.weights)["lm_head.weight"]
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({"base_model.model.lm_head.weight": head}))
    case.adapter_config(modules_to_save=["lm_head"])


@defect("{adapter}", "given twice", hint=AGAIN, command=(*BUILD_ADAPTER, "--adapter", "{adapter}"))
def adapter_given_twice(case: Case) -> None:
    """The folders are sound; the request is not."""


@defect("{root}/copy", "given twice", "{adapter}", hint=AGAIN, command=(*MERGE, "--adapter", "{root}/copy"))
def adapter_given_twice_under_two_names(case: Case) -> None:
    shutil.copytree(case.adapter, case.root / "copy")


@defect("{adapter}", "part of {model} already", "merged_adapters.json", hint=AGAIN, command=BUILD_ADAPTER)
def adapter_that_the_base_contains(case: Case) -> None:
    quantkit.merge(case.model, case.root / "merged", adapters=case.adapter, device="cpu")
    shutil.rmtree(case.model)
    (case.root / "merged").rename(case.model)


@defect("{model}/merged_adapters.json", '"base"', hint="original folder", command=BUILD_ADAPTER)
def broken_record_of_merges(case: Case) -> None:
    (case.model / "merged_adapters.json").write_text(json.dumps({"adapters": 5}), encoding="utf-8")


@defect("adapter", "weights already", "4 of 4 matrices", "PiSSA", hint="pissa_converted", command=MERGE)
def principal_factors_on_the_original_model(case: Case) -> None:
    """What PiSSA's training begins with is part of the original weights; its settings are those of plain LoRA."""
    base, rank = load_file(case.weights), 4

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            for name in ("q_proj", "v_proj"):
                a, b = adapter_keys(layer, name)
                u, s, v = torch.linalg.svd(base[f"model.layers.{layer}.self_attn.{name}.weight"].float())
                root = s[:rank].sqrt()
                tensors[b], tensors[a] = (u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous()

    edit_tensors(case.adapter_weights, change)
    case.adapter_config(lora_alpha=rank)


@defect("init_lora_weights", "residual", hint="adapter/pissa_converted", command=BUILD_ADAPTER)
def pissa_with_its_converted_adapter_beside_it(case: Case) -> None:
    shutil.copytree(case.adapter, case.adapter / "pissa_converted")
    case.adapter_config(init_lora_weights="pissa_niter_16")
