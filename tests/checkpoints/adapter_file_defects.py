"""Adapters with vocabularies and names that do not fit, and adapters that a LoRA file for llama.cpp cannot carry."""

from __future__ import annotations

import json
import shutil

import torch

from tests.checkpoints.case import Case, adapter_keys, edit_tensors
from tests.checkpoints.defect import BUILD, BUILD_ADAPTER, CONVERT, MERGE, TIED, defect

EMBEDDING, HEAD = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"
LORA = (*BUILD_ADAPTER, "--adapter-gguf")
CONVERT_ADAPTER = (*CONVERT, "--adapter", "{adapter}", "--adapter-gguf")
LORA_HINT = "leave out --adapter-gguf"
A, B = adapter_keys(0, "q_proj")


def _resize(case: Case, **rows: int) -> None:
    keys = {"embedding": EMBEDDING, "head": HEAD}
    new = {keys[side]: torch.ones(count, 64) for side, count in rows.items()}
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update(new))


@defect("{adapter}", "2100 rows", "2007 tokens", "no tokenizer", hint="tokenizer.json", command=BUILD_ADAPTER)
def resized_without_a_tokenizer(case: Case) -> None:
    _resize(case, embedding=2100, head=2100)


@defect("{adapter}", "1000 rows", "2007 tokens", "no tokenizer", hint="tokenizer.json", command=MERGE)
def cut_without_a_tokenizer(case: Case) -> None:
    _resize(case, embedding=1000, head=1000)


@defect("tokenizer.json", "2005", command=BUILD_ADAPTER)
def resized_to_fewer_rows_than_its_tokenizer_has_tokens(case: Case) -> None:
    _resize(case, embedding=2005, head=2005)
    shutil.copyfile(case.model / "tokenizer.json", case.adapter / "tokenizer.json")


@defect("{adapter}", "embed_tokens", "2100", "lm_head", "not in the file", hint="save_embedding_layers", command=MERGE)
def only_the_embedding_is_resized(case: Case) -> None:
    _resize(case, embedding=2100)


@defect("{adapter}", "lm_head", "2100", "embed_tokens", "2090", hint="save_embedding_layers", command=BUILD_ADAPTER)
def embedding_and_head_of_different_sizes(case: Case) -> None:
    _resize(case, embedding=2090, head=2100)


@defect(
    "{adapter}", "2048", "{root}/second", "2007", hint="one vocabulary", command=(*MERGE, "--adapter", "{root}/second")
)
def two_adapters_of_different_sizes(case: Case) -> None:
    shutil.copytree(case.adapter, case.root / "second")
    edit_tensors(
        case.root / "second" / "adapter_model.safetensors",
        lambda tensors: tensors.update({EMBEDDING: torch.ones(2007, 64), HEAD: torch.ones(2007, 64)}),
    )
    _resize(case, embedding=2048, head=2048)


@defect(
    "{adapter}", "2048", "weight 0.5", hint="--adapter",
    command=("merge", "{model}", "--adapter-scaled", "{adapter}", "0.5", "-o", "{out}", "--device", "cpu"),
)  # fmt: skip
def half_of_a_resized_adapter(case: Case) -> None:
    _resize(case, embedding=2048, head=2048)


@defect("{adapter}", "resized", "lm_head", "not in the file", hint="save_embedding_layers", command=MERGE, base=TIED)
def resized_and_trained_on_one_side_of_a_tied_pair(case: Case) -> None:
    case.adapter_config(modules_to_save=["embed_tokens"])
    _resize(case, embedding=2048)


@defect("{adapter}", "tokenizer.json", "broken", command=BUILD_ADAPTER)
def broken_tokenizer_beside_the_adapter(case: Case) -> None:
    (case.adapter / "tokenizer.json").write_text(json.dumps({"model": {"vocab": 7}}), encoding="utf-8")


# Names


@defect("{adapter}", "decoder.blocks.0.q", "does not have", hint="base_model_name_or_path", command=BUILD_ADAPTER)
def unknown_prefix(case: Case) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in (A, B):
            role = key.split(".", 7)[-1]
            tensors[f"decoder.blocks.0.q.{role}"] = tensors.pop(key)

    edit_tensors(case.adapter_weights, change)


@defect("{adapter}", "torchtune's own layout", hint="adapter_model.safetensors", command=BUILD_ADAPTER)
def torchtunes_own_layout(case: Case) -> None:
    edit_tensors(
        case.adapter_weights, lambda tensors: tensors.update({"layers.0.attn.q_proj.lora_a.weight": tensors.pop(A)})
    )


@defect(
    "{adapter}",
    "adapter, not a model",
    hint="quantkit build unsloth/llama-3-8b --adapter",
    command=("build", "{adapter}", "-o", "{out}"),
)
def adapter_of_a_quantized_base_given_as_model(case: Case) -> None:
    case.adapter_config(base_model_name_or_path="unsloth/llama-3-8b-bnb-4bit")


# --adapter-gguf


@defect("{adapter}", "lm_head", "trained in full", hint=LORA_HINT, command=LORA)
def lora_file_with_a_module_saved_in_full(case: Case) -> None:
    case.adapter_config(modules_to_save=["lm_head"])
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update({HEAD: torch.ones(2007, 64)}))


@defect("{adapter}", "q_proj", "DoRA", hint=LORA_HINT, command=LORA)
def lora_file_with_dora(case: Case) -> None:
    case.adapter_config(use_dora=True)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if "lora_B" in key]:
            tensors[key.replace("lora_B.weight", "lora_magnitude_vector")] = torch.ones(tensors[key].shape[0])

    edit_tensors(case.adapter_weights, change)


@defect("{adapter}", "lora_alpha 0", hint=LORA_HINT, command=CONVERT_ADAPTER)
def lora_file_without_scaling(case: Case) -> None:
    case.adapter_config(lora_alpha=0)


@defect("{adapter}", "embed_tokens", "ties", hint=LORA_HINT, command=LORA, base=TIED)
def lora_file_on_a_tied_embedding(case: Case) -> None:
    case.adapter_config(target_modules=["q_proj", "v_proj", "embed_tokens"])
    module = EMBEDDING.removesuffix(".weight")
    pair = {f"{module}.lora_embedding_A": torch.ones(4, 2007), f"{module}.lora_embedding_B": torch.ones(64, 4)}
    edit_tensors(case.adapter_weights, lambda tensors: tensors.update(pair))


@defect("--adapter-gguf", "no adapter", hint="--adapter", command=(*BUILD, "--adapter-gguf"))
def lora_file_without_an_adapter(case: Case) -> None:
    pass
