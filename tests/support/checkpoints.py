"""Tiny random checkpoints in the shape of the real ones.

The names and shapes of the tensors are those that transformers itself would save for the config. The values are a
mixture on purpose: heavy tails, exact zeros, a row that is zero throughout, a row of one value; a quantizer that
treats an easy case differently shows it here. Everything follows from the seed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.dense_kinds import DENSE
from tests.support.gemma_kinds import GEMMA
from tests.support.glm_kinds import GLM
from tests.support.gpt_oss_kinds import GPT_OSS
from tests.support.hybrid_kinds import HYBRID
from tests.support.latent_kinds import LATENT
from tests.support.mtp_shapes import Shapes, mtp_shapes
from tests.support.qwen_kinds import QWEN
from tests.support.remote_kinds import REMOTE
from tests.support.seeing_kinds import SEEING
from tests.support.sights import vision_shapes
from tests.support.stock_kinds import STOCK
from tests.support.vocabularies import token_ids

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_TORCH_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_LLAMA_3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


# Settings with an entry for each layer.
_BY_LAYER = ("activation_sparsity_pattern", "layer_types", "hybrid_override_pattern")
# What a kind does not say itself.
_SETTINGS: Mapping[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "initializer_range": 0.02,
    "use_cache": True,
}
# Settings with an entry for each layer.


@dataclass(frozen=True)
class Kind:
    """A family of checkpoints.

    Attributes:
        vocabulary: name of its tokenizer, as ``write_vocabulary`` knows it.
        config: config.json, over the defaults for tiny models.
        tied: embedding and head are one tensor.
        without: default settings that such a config.json does not have.
        norm: around which the weights of its norms lie; 0 where the model adds 1 to them.
        shapes: config to the names and shapes of the tensors, for models that transformers does not have.
        added: config to the shapes of further tensors.
        around: config.json of a model that also sees, around the settings of its language model.
        least: layers with which it has a layer of every kind.
        scaled: by the end of a tensor's name, what its values are multiplied by: ggml's softplus is inexact for steps
            of time far below zero, which real models do not have.
        multiple: of which the rows of its embedding are a multiple, because the converter makes it one.
        inside: the key of these settings.
        speaks: the class that these settings name.
        within: the module that holds the language model, or only its decoder if it is in ``model``.
        pictures: its preprocessor_config.json.
        sight: config to the tensors of its vision part, for models that transformers does not have.
        fewer: settings of a model that has only as many layers.
        equal: settings that are equal to another one, which may follow from the vocabulary.
        mtp: whether it has a layer for multi-token prediction, which transformers does not load, or has lost it; None
            where llama.cpp reads such a file either way, or such models have none.
    """

    vocabulary: str
    config: Mapping[str, Any]
    tied: bool = False
    without: tuple[str, ...] = ()
    norm: float = 1.0
    shapes: Callable[[Mapping[str, Any]], Shapes] | None = None
    added: Callable[[Mapping[str, Any]], Shapes] = lambda config: {}
    around: Mapping[str, Any] = field(default_factory=dict)
    least: int = 1
    multiple: int = 1
    scaled: Mapping[str, float] = field(default_factory=dict)
    inside: str = "text_config"
    speaks: str = ""
    within: str = "language_model"
    pictures: Mapping[str, Any] = field(default_factory=dict)
    sight: Callable[[Mapping[str, Any]], Shapes] = vision_shapes
    fewer: Mapping[str, Any] = field(default_factory=dict)
    equal: Mapping[str, str] = field(default_factory=dict)
    mtp: bool | None = None


_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": None,
}
_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
}
_MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "max_position_embeddings": 32768,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
}
_QWEN_MOE = {
    "decoder_sparse_step": 1,
    "max_position_embeddings": 32768,
    "moe_intermediate_size": 256,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "use_sliding_window": False,
}
_QWEN2_MOE = {
    **_QWEN_MOE,
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "max_window_layers": 21,
    "norm_topk_prob": False,
    "shared_expert_intermediate_size": 512,
    "sliding_window": 32768,
}
_QWEN3_MOE = {
    **_QWEN_MOE,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "head_dim": 64,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rope_scaling": None,
    "sliding_window": None,
}
_QWEN = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "attn_dropout_prob": 0.0,
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "kv_channels": 32,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 32768,
    "model_type": "qwen",
    "no_bias": True,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 8192,
    "tokenizer_class": "QWenTokenizer",
    "use_dynamic_ntk": True,
    "use_flash_attn": "auto",
    "use_logn_attn": True,
}


def _qwen_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, inner, rows = config["hidden_size"], config["intermediate_size"] // 2, config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, hidden)}
    for i in range(config["num_hidden_layers"]):
        layer: dict[str, tuple[int, ...]] = {
            "ln_1.weight": (hidden,),
            "attn.c_attn.weight": (3 * hidden, hidden),
            "attn.c_attn.bias": (3 * hidden,),
            "attn.c_proj.weight": (hidden, hidden),
            "ln_2.weight": (hidden,),
            "mlp.w1.weight": (inner, hidden),
            "mlp.w2.weight": (inner, hidden),
            "mlp.c_proj.weight": (hidden, inner),
        }
        shapes |= {f"transformer.h.{i}.{name}": shape for name, shape in layer.items()}
    return {**shapes, "transformer.ln_f.weight": (hidden,), "lm_head.weight": (rows, hidden)}


_GROUPS = (
    DENSE,
    GEMMA,
    GLM,
    HYBRID,
    QWEN,
    STOCK,
    LATENT,
    REMOTE,
    GPT_OSS,
)
KINDS: dict[str, Kind] = {
    "llama3-untied": Kind("llama-bpe", _LLAMA),
    "llama3-tied": Kind("llama-bpe", {**_LLAMA, "head_dim": 32}, tied=True),
    "llama3-rope": Kind("llama-bpe", {**_LLAMA, "max_position_embeddings": 131072, "rope_scaling": _LLAMA_3_ROPE}),
    # No explicit base of the rotary embedding and a short context, as in the configs of Llama 2.
    "llama2": Kind(
        "llama-bpe",
        {k: v for k, v in _LLAMA.items() if k not in ("rope_theta", "mlp_bias")} | {"max_position_embeddings": 4096},
    ),
    # The name that the first checkpoints of Llama had.
    "llama-first": Kind("llama-spm", {**_LLAMA, "architectures": ["LLaMAForCausalLM"]}),
    "llama-linear-rope": Kind("llama-bpe", {**_LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama-yarn": Kind(
        "llama-bpe",
        {
            **_LLAMA,
            "max_position_embeddings": 32768,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"},
        },
    ),
    "llama-biases": Kind("llama-bpe", {**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "qwen2": Kind("qwen2", _QWEN2),
    "qwen2-tied": Kind("qwen2", _QWEN2, tied=True),
    "qwen2-yarn": Kind(
        "qwen2",
        {**_QWEN2, "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
    ),
    "mixtral": Kind("llama-spm", _MIXTRAL),
    "qwen2-moe": Kind("qwen2", _QWEN2_MOE),
    "qwen3-moe": Kind("qwen2", _QWEN3_MOE),
    "qwen": Kind("qwen-tiktoken", _QWEN, without=("hidden_act", "num_key_value_heads"), shapes=_qwen_shapes),
    **{name: Kind(**kind) for group in _GROUPS for name, kind in group.items()},
}


# Beside the rows of the parity matrix.
SIGHTS: dict[str, Kind] = {name: Kind(**kind) for name, kind in SEEING.items()}


def make_checkpoint(
    folder: Path,
    kind: str,
    *,
    vocabulary: Path,
    dtype: str = "bf16",
    shards: int = 1,
    binary: bool = False,
    style: str = "4",
    layers: int | None = None,
    hidden: int | None = None,
    intermediate: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    padding: int = 0,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint.

    Args:
        folder: created; must not exist.
        kind: one of ``KINDS`` or ``SIGHTS``.
        vocabulary: folder with the tokenizer's files, which are copied into the checkpoint.
        dtype: ``bf16``, ``f16`` or ``f32``.
        shards: files the weights are spread over, with an index when more than one.
        binary: pytorch_model.bin instead of safetensors.
        style: ``4``: ``torch_dtype``, ``rope_theta``, ``rope_scaling``; ``5``: ``dtype``, ``rope_parameters``, as
            transformers 4 and 5 write them.
        layers, hidden, intermediate, heads, kv_heads: the shape, where it is not the kind's; lists with an entry for
            each layer are cut.
        padding: rows of the embedding beyond the tokenizer's last id.
        seed: of the values.
        config: further settings of config.json, over the kind's.
        generation: generation_config.json, over the default with several end tokens.
    """
    family = KINDS[kind] if kind in KINDS else SIGHTS[kind]
    folder.mkdir(parents=True)
    for file in vocabulary.iterdir():
        shutil.copyfile(file, folder / file.name)
    ids, ends = token_ids(vocabulary), _ends(family.vocabulary, vocabulary)
    shape = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
    }
    settings = {
        **{key: value for key, value in _SETTINGS.items() if key not in family.without},
        **family.config,
        **{key: value for key, value in shape.items() if value is not None},
        "tie_word_embeddings": family.tied,
        "torch_dtype": _TORCH_NAMES[dtype],
        "vocab_size": -(-(max(ids.values()) + 1 + padding) // family.multiple) * family.multiple,
        **_config_ids(ends, ids),
        **(config or {}),
        **(family.fewer if layers == family.least else {}),
    }
    count = settings["num_hidden_layers"]
    settings |= {key: settings[key][:count] for key in _BY_LAYER if settings.get(key)}
    settings |= {key: settings[other] for key, other in family.equal.items()}
    written = _style_5(settings) if style == "5" else settings
    whole = _put_around(family, written) if family.around else written
    _write_json(folder / "config.json", whole)
    _write_json(folder / "generation_config.json", {**_generation(ends, ids), **(generation or {})})
    tensors = random_tensors(family, settings, DTYPES[dtype], seed)
    if family.around:
        tensors = {_inside(name, family.within): tensor for name, tensor in tensors.items()}
        tensors |= random_values(family.sight(whole), DTYPES[dtype], seed + 1, replace(family, norm=1.0))
        _write_json(folder / "preprocessor_config.json", family.pictures)
    write_weights(folder, tensors, shards=shards, binary=binary)
    return folder


def saved_shapes(settings: Mapping[str, Any]) -> Shapes:
    """The names and shapes of the tensors that transformers' ``save_pretrained`` writes for a config."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModel, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    config = CONFIG_MAPPING[settings["model_type"]].from_dict(dict(settings))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:  # the decoder of a model that also sees
        with torch.device("meta"):
            decoder = AutoModel.from_config(config).state_dict()
        head = {} if settings["tie_word_embeddings"] else {"lm_head.weight": decoder["embed_tokens.weight"]}
        named = {**{f"model.{name}": tensor for name, tensor in decoder.items()}, **head}
        return {name: tuple(tensor.shape) for name, tensor in named.items()}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tensors = revert_weight_conversion(model, model.state_dict())
    tied = ("lm_head.weight",) if settings["tie_word_embeddings"] else ()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in tied}


def random_tensors(family: Kind, settings: Mapping[str, Any], dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """The tensors of a model of these settings, under their Hugging Face names."""
    shapes = {**(family.shapes or saved_shapes)(settings), **family.added(settings)}
    shapes |= mtp_shapes(settings, saved_shapes) if family.mtp else {}
    return random_values(shapes, dtype, seed, family)


def random_values(shapes: Shapes, dtype: torch.dtype, seed: int, family: Kind | None = None) -> dict[str, torch.Tensor]:
    """Tensors of these shapes.

    Args:
        shapes: by name.
        dtype: their type.
        seed: of the values.
        family: says around which values norms lie, and what is scaled; None for norms around 1.
    """
    norm, scaled = (1.0, {}) if family is None else (family.norm, family.scaled)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            values = _matrix(shape, generator)
        else:
            # The norm of a gated delta net is stored as it is.
            own = 1.0 if name.endswith("linear_attn.norm.weight") else norm
            around = 0.0 if name.endswith("bias") else own
            values = around + 0.1 * torch.randn(shape, generator=generator)
        values *= next((factor for end, factor in scaled.items() if name.endswith(end)), 1.0)
        tensors[name] = values.to(dtype).contiguous()
    return tensors


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], *, shards: int = 1, binary: bool = False) -> None:
    """Write weights as transformers does: one file, or numbered shards with an index."""
    stem, suffix = ("pytorch_model", "bin") if binary else ("model", "safetensors")
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        chosen = {name: tensors[name] for name in names[shard::shards]}
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{shard + 1:05d}-of-{shards:05d}.{suffix}"
        if binary:
            torch.save(chosen, folder / file)
        else:
            save_file(chosen, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, file)
    if shards > 1:
        size = sum(tensor.nbytes for tensor in tensors.values())
        _write_json(
            folder / f"{stem}.{suffix}.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}
        )


def _matrix(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
    # A few rows in a hundred weights far out of the others' range, a few exact zeros.
    values *= torch.exp(0.7 * torch.randn(*shape[:-1], 1, generator=generator))
    values *= torch.where(torch.rand(shape, generator=generator) < 0.01, 8.0, 1.0)
    values[torch.rand(shape, generator=generator) < 0.03] = 0.0
    values[..., 3:4, :] = 0.0
    values[..., 5:6, :] = 0.125
    return values


@dataclass(frozen=True)
class _Ends:
    """The token that opens a text, config.json's end of text, and those of generation_config.json."""

    bos: str | None
    eos: str | None
    ends: tuple[str, ...]


# Where the two configs name other tokens than tokenizer_config.json.
_ENDS = {
    "glm4": _Ends(None, "<|endoftext|>", ("<|endoftext|>", "<|user|>")),
    "qwen-tiktoken": _Ends(None, None, ("<|endoftext|>",)),
    "llama-bpe": _Ends("<|begin_of_text|>", "<|eot_id|>", ("<|end_of_text|>", "<|eot_id|>")),
    "harmony": _Ends("<|startoftext|>", "<|return|>", ("<|return|>", "<|endoftext|>", "<|call|>")),
    "qwen2": _Ends("<|endoftext|>", "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
}


def _ends(name: str, vocabulary: Path) -> _Ends:
    if name in _ENDS:
        return _ENDS[name]
    config = json.loads((vocabulary / "tokenizer_config.json").read_text(encoding="utf-8"))
    bos, eos = (_text(config.get(key)) for key in ("bos_token", "eos_token"))
    return _Ends(bos, eos, (eos,) if eos else ())


def _text(token: str | Mapping[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, Mapping) else token


def _config_ids(ends: _Ends, ids: Mapping[str, int]) -> dict[str, int]:
    return {
        key: ids[text] for key, text in (("bos_token_id", ends.bos), ("eos_token_id", ends.eos)) if text is not None
    }


def _generation(ends: _Ends, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        **_config_ids(ends, ids),
        **({"eos_token_id": [ids[text] for text in ends.ends]} if ends.ends else {}),
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
    }


def _inside(name: str, module: str) -> str:
    """The name of a tensor of the language model within *module*."""
    if not module.startswith("model."):
        return f"{module}.{name}"
    return f"{module}.{name.removeprefix('model.')}" if name.startswith("model.") else name


def _put_around(family: Kind, settings: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model that also sees: what belongs to its language model stands in an object of its own."""
    outside = ("architectures", "bos_token_id", "eos_token_id", "tie_word_embeddings", "torch_dtype")
    text = {key: value for key, value in settings.items() if key != "architectures"}
    if family.speaks:
        text["architectures"] = [family.speaks]
    return {**family.around, **{key: settings[key] for key in outside if key in settings}, family.inside: text}


def _style_5(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings as transformers 5 writes them."""
    moved = ("torch_dtype", "rope_theta", "rope_scaling")
    rope = {**(settings.get("rope_scaling") or {"rope_type": "default"})}
    if "type" in rope:
        rope["rope_type"] = rope.pop("type")
    if "rope_theta" in settings:
        rope["rope_theta"] = settings["rope_theta"]
    return {
        **{key: value for key, value in settings.items() if key not in moved},
        "dtype": settings["torch_dtype"],
        "rope_parameters": rope,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
