"""Families whose class comes with the model: one that transformers has computes the same with their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantkit.checkpoint.folder import read_json
from quantkit.errors import AdapterError, ArchitectureError
from quantkit.jobs.convert import convert
from quantkit.jobs.via_llama_cpp import convert_via
from quantkit.model.lora_file import plan_adapter_files
from quantkit.model.opening import open_model
from tests.support.gguf_compare import tensor_differences
from tests.support.llama_model import llama_logits
from tests.support.plain_lora import write_plain_lora
from tests.support.reference import ReferenceConverter, reference_folder

Maker = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
Config = Mapping[str, Any]

TOKENS = (11, 18, 25, 32, 39, 46, 53, 60, 67, 74, 81, 88)
SAME = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps"),
)


def granite(config: Config, tensors: Tensors) -> Any:
    """A MiniCPM: Granite has its three scales, and one for attention that llama.cpp's MiniCPM leaves as usual."""
    from transformers import GraniteConfig, GraniteForCausalLM

    head = config["hidden_size"] // config["num_attention_heads"]
    twin = GraniteConfig(
        **{key: config[key] for key in SAME},
        rope_parameters={"rope_type": "default", "rope_theta": float(config["rope_theta"])},
        attention_multiplier=1 / math.sqrt(head),
        embedding_multiplier=float(config["scale_emb"]),
        logits_scaling=config["hidden_size"] / config["dim_model_base"],
        residual_multiplier=config["scale_depth"] / math.sqrt(config["num_hidden_layers"]),
        tie_word_embeddings=True,
    )
    model = GraniteForCausalLM(twin).eval()
    model.load_state_dict({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    return model


def llama(config: Config, tensors: Tensors) -> Any:
    """An InternLM 2: ``wqkv`` has, group by group, the heads of q that share a head of k and v, then these two."""
    from transformers import LlamaConfig, LlamaForCausalLM

    renamed = {
        "model.tok_embeddings": "model.embed_tokens",
        "output.weight": "lm_head.weight",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    groups, size = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    found = {}
    for name, tensor in tensors.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        if "attention.wqkv" not in name:
            found[name] = tensor
            continue
        heads = tensor.view(groups, -1, size, tensor.shape[1])
        for part, chosen in (("q", heads[:, :-2]), ("k", heads[:, -2:-1]), ("v", heads[:, -1:])):
            found[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = chosen.reshape(-1, tensor.shape[1])
    twin = LlamaConfig(
        **{key: config[key] for key in SAME},
        rope_parameters={"rope_type": "default", "rope_theta": float(config["rope_theta"])},
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(twin).eval()
    model.load_state_dict(found)
    return model


def glm(config: Config, tensors: Tensors) -> Any:
    """A ChatGLM: q, k and v follow each other in one matrix."""
    from transformers import GlmConfig, GlmForCausalLM

    renamed = {
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        "transformer.output_layer": "lm_head",
        "transformer.encoder.final_layernorm": "model.norm",
        "transformer.encoder": "model",
        "self_attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.gate_up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    }
    size = config["hidden_size"] // config["num_attention_heads"]
    parts = [config["hidden_size"], *[config["multi_query_group_num"] * size] * 2]
    found = {}
    for name, tensor in tensors.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        if "query_key_value" in name:
            split = zip("qkv", tensor.split(parts), strict=True)
            found |= {name.replace("attention.query_key_value", f"attn.{x}_proj"): part for x, part in split}
        elif not name.endswith("inv_freq"):
            found[name] = tensor
    twin = GlmConfig(
        **{key: config[key] for key in SAME if key in config},
        rms_norm_eps=config["layernorm_epsilon"],
        head_dim=size,
        attention_bias=True,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4 * config["rope_ratio"],
            "partial_rotary_factor": 0.5,
        },
        pad_token_id=None,
    )
    model = GlmForCausalLM(twin).eval()
    model.load_state_dict(found)
    return model


def unpacked(tensors: Tensors) -> Tensors:
    """A Baichuan's tensors with q, k and v apart."""
    found = {}
    for name, tensor in tensors.items():
        if "W_pack" in name:
            found |= {name.replace("W_pack", f"{x}_proj"): part for x, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor
    return found


def baichuan(config: Config, tensors: Tensors) -> Any:
    """A Baichuan: q, k and v follow each other in one matrix."""
    from transformers import LlamaConfig, LlamaForCausalLM

    twin = LlamaConfig(**{key: config[key] for key in SAME if key in config}, tie_word_embeddings=False)
    model = LlamaForCausalLM(twin).eval()
    model.load_state_dict(unpacked(tensors))
    return model


TWINS: Mapping[str, Callable[[Config, Tensors], Any]] = {
    "minicpm": granite,
    "internlm2": llama,
    "chatglm": glm,
    "baichuan": baichuan,
}
# A matrix of the family that is tuned.
TUNED = {
    "minicpm": "self_attn.k_proj",
    "internlm2": "attention.wqkv",
    "chatglm": "self_attention.query_key_value",
    "baichuan": "self_attn.W_pack",
}


def test_no_lora_file_where_llama_cpp_would_pass_over_it(checkpoint: Maker, tmp_path: Path) -> None:
    """Its graphs of latent attention multiply by the matrices themselves."""
    base = checkpoint("deepseek-v2", dtype="f32")
    write_plain_lora(base, "self_attn.o_proj", tmp_path / "adapter", load_file(base / "model.safetensors"))
    with (
        open_model(base, [tmp_path / "adapter"]) as model,
        pytest.raises(AdapterError, match="passes over LoRA on the attention of deepseek2 models"),
    ):
        plan_adapter_files(model, "tiny")


def alibi(heads: int, count: int) -> torch.Tensor:
    """A bias of the scores of attention (Press et al. 2022, arXiv:2108.12409): shape [1, heads, count, count]."""
    whole = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * i / whole) for i in range(1, whole + 1)]
    slopes += [2 ** (-4 * i / whole) for i in range(1, 2 * (heads - whole), 2)]
    places = torch.arange(count)
    ahead = torch.full((count, count), -torch.inf).triu(1)
    return (torch.tensor(slopes)[:, None, None] * (places[None, :] - places[:, None]) + ahead)[None]


def test_baichuan_2_of_13b(checkpoint: Maker, tmp_path: Path, converter: ReferenceConverter) -> None:
    """Positions only count in a bias, and the rows of the head, also merged ones, are divided by their lengths."""
    rows = {"vocab_size": 125696}
    base = checkpoint("baichuan", dtype="f32", layers=40, hidden=40, heads=5, config=rows)
    config, tensors = read_json(base / "config.json"), load_file(base / "model.safetensors")
    tuned = write_plain_lora(base, "lm_head", tmp_path / "adapter", tensors)
    settings = {"position_ids": torch.zeros(1, len(TOKENS), dtype=torch.long), "attention_mask": alibi(5, len(TOKENS))}
    divided = {**tuned, "lm_head.weight": torch.nn.functional.normalize(tuned["lm_head.weight"])}
    merged = convert(base, tmp_path / "merged.gguf", adapters=[tmp_path / "adapter"], outtype="f32")
    reference = converter.convert(base, tmp_path / "reference.gguf", "f32")
    for file, weights in ((merged, divided), (reference, tensors)):
        expected = logits(baichuan(config, weights), **settings)
        assert np.abs(llama_logits(file, TOKENS) - expected).max() < 1e-4 * np.abs(expected).max()
    (line,) = tensor_differences(convert(base, tmp_path / "plain.gguf", outtype="f32"), reference)
    assert "output.weight" in line
    with (
        open_model(base, [tmp_path / "adapter"]) as model,
        pytest.raises(AdapterError, match=r"'lm_head\.weight' is not stored in the GGUF file as in the"),
    ):
        plan_adapter_files(model, "tiny")
    with pytest.raises(ArchitectureError, match="does not divide the rows of Baichuan 2's output head"):
        convert_via(reference_folder(), base, tmp_path / "via.gguf")


def logits(model: Any, **settings: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.no_grad():
        found: np.ndarray[Any, np.dtype[np.float32]] = model(torch.tensor([TOKENS]), **settings).logits[0].numpy()
    return found


@pytest.mark.parametrize("kind", TWINS)
def test_logits_of_the_model_and_of_the_merged_one(checkpoint: Maker, tmp_path: Path, kind: str) -> None:
    base = checkpoint(kind, dtype="f32")
    config, tensors = read_json(base / "config.json"), load_file(base / "model.safetensors")
    tuned = write_plain_lora(base, TUNED[kind], tmp_path / "adapter", tensors)
    plain = convert(base, tmp_path / "base.gguf", outtype="f32")
    merged = convert(base, tmp_path / "merged.gguf", adapters=[tmp_path / "adapter"], outtype="f32")
    theirs = [logits(TWINS[kind](config, weights)) for weights in (tensors, tuned)]
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01 * np.abs(theirs[0]).max()
    for file, expected in zip((plain, merged), theirs, strict=True):
        ours = llama_logits(file, TOKENS)
        assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()
        assert (ours.argmax(1) == expected.argmax(1)).all()
