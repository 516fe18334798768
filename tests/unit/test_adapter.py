"""Adapters by their headers: scales, targets as PEFT sees them, forms of keys, and what is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, TrainableTokensConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file

from quantkit.adapter.changes import Add, LowRank, Replace
from quantkit.adapter.config import UNSUPPORTED, is_target
from quantkit.adapter.folder import open_adapter
from quantkit.adapter.known_settings import KNOWN
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError, CheckpointError
from quantkit.ggml.types import GGMLType
from quantkit.jobs.merge import merge
from quantkit.model.merger import Merger
from quantkit.model.opening import open_model
from quantkit.model.tied_embeddings import EMBEDDING, LM_HEAD
from quantkit.plan.values import PlannedTensor
from tests.support.bits import as_tensor

Maker = Callable[..., Path]
Tensors = Mapping[str, torch.Tensor]

PREFIX = "base_model.model."
ATTENTION, MLP = "model.layers.0.self_attn", "model.layers.0.mlp"
Q, V, DOWN = f"{ATTENTION}.q_proj", f"{ATTENTION}.v_proj", f"{MLP}.down_proj"
SHAPES: dict[str, tuple[int, ...]] = {
    EMBEDDING: (10, 6),
    f"{Q}.weight": (8, 6),
    f"{Q}.bias": (8,),
    f"{V}.weight": (4, 6),
    f"{DOWN}.weight": (6, 12),
    "model.norm.weight": (6,),
    LM_HEAD: (10, 6),
}


def spec(*shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name, "F32", shape, Path("model"), 0, 4 * math.prod(shape))


BASE = {name: spec(*shape, name=name) for name, shape in SHAPES.items()}
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def pair(module: str, rank: int = 2, name: str = "", prefix: str = PREFIX) -> dict[str, torch.Tensor]:
    """lora_A and lora_B of a module, filled with small numbers."""
    rows, columns = SHAPES[f"{module}.weight"]
    a = torch.arange(rank * columns, dtype=torch.float32).reshape(rank, columns)
    b = torch.arange(rows * rank, dtype=torch.float32).reshape(rows, rank) - 3
    return {f"{prefix}{module}.lora_A{name}.weight": a, f"{prefix}{module}.lora_B{name}.weight": b}


def write(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return folder


def changes(folder: Path, tensors: Tensors, **config: Any) -> Mapping[str, tuple[object, ...]]:
    opened = open_adapter(write(folder, tensors, **config), BASE)
    opened.close()
    return opened.changes


# What the scale is, and the rank of the tensors it takes.
SCALES: dict[str, tuple[dict[str, Any], int, float]] = {
    "plain": ({"r": 8, "lora_alpha": 16}, 8, 2.0),
    "small": ({"r": 16, "lora_alpha": 4}, 16, 0.25),
    "fraction": ({"r": 2, "lora_alpha": 2.5}, 2, 1.25),
    "zero": ({"r": 2, "lora_alpha": 0}, 2, 0.0),
    "rslora": ({"r": 4, "lora_alpha": 6, "use_rslora": True}, 4, 3.0),
    "rank": ({"r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4}}, 4, 4.0),
    "alpha": ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"q_proj": 40}}, 8, 5.0),
    "both": ({"r": 8, "lora_alpha": 16, "rank_pattern": {Q: 2}, "alpha_pattern": {"self_attn.q_proj": 3}}, 2, 1.5),
    "both-rslora": (
        {"r": 8, "lora_alpha": 1, "use_rslora": True, "rank_pattern": {"q_proj": 9}, "alpha_pattern": {"q_proj": 6}},
        9,
        2.0,
    ),
    "first-match": ({"r": 8, "lora_alpha": 8, "alpha_pattern": {"q_proj": 16, Q: 32}}, 8, 2.0),
    "regex": ({"r": 8, "lora_alpha": 8, "alpha_pattern": {r"layers\.\d+\.self_attn\.[qk]_proj": 24}}, 8, 3.0),
    "end-only": ({"r": 8, "lora_alpha": 8, "alpha_pattern": {"self_attn": 24, "proj": 24, "_proj": 24}}, 8, 1.0),
    "whole-segments": ({"r": 8, "lora_alpha": 8, "rank_pattern": {"ttn.q_proj": 2}}, 8, 1.0),
}


@pytest.mark.parametrize("name", SCALES)
def test_scale(tmp_path: Path, name: str) -> None:
    config, rank, scale = SCALES[name]
    (change,) = changes(tmp_path / "a", pair(Q, rank), **config)[f"{Q}.weight"]
    assert change == LowRank(f"{PREFIX}{Q}.lora_B.weight", f"{PREFIX}{Q}.lora_A.weight", False, scale)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
@pytest.mark.parametrize("name", [name for name in SCALES if name not in ("zero", "fraction")])
def test_scale_is_pefts(name: str) -> None:
    """The table above, asked of PEFT itself."""
    from peft import get_peft_model

    config, rank, scale = SCALES[name]

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = torch.nn.Linear(6, 8)

    layer = torch.nn.ModuleDict({"self_attn": Attention()})
    model = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])})})
    found = get_peft_model(model, LoraConfig(target_modules=["q_proj"], **config)).get_submodule(PREFIX + Q)
    assert (found.r["default"], found.scaling["default"]) == (rank, scale)


# Config, and modules that it is asked about.
TARGETS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["q_proj", "self_attn.v_proj", "model.layers.1.mlp.down_proj"]},
    {"target_modules": r".*\.layers\.[13]\.(self_attn\.[qv]_proj|mlp\.down_proj)"},
    {"target_modules": "q_proj"},
    {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head", "embed_tokens"]},
    {"target_modules": ["q_proj", "norm"], "modules_to_save": ["mlp"]},
    {"target_modules": ["q_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
    {"target_modules": ["q_proj"], "exclude_modules": r".*\.11\..*"},
    {"target_modules": ["q_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj"], "layers_to_transform": [0, 11], "layers_pattern": "layers"},
    {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [0, 1], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]},
    {"target_modules": ["q_proj"], "layers_to_transform": []},
    {"target_modules": []},
]
NAMES = [
    *(f"model.layers.{i}.self_attn.{p}_proj" for i in (0, 1, 3, 11) for p in "qv"),
    *(f"model.layers.{i}.mlp.down_proj" for i in (0, 1)),
    "model.layers.1.experts.0.q_proj",
    "lm_head",
    "model.lm_head",
    "model.embed_tokens",
    "model.norm",
    "q_proj",
    "xq_proj",
    "model.layers.0.self_attn.q_proj.inner",
]


@pytest.mark.parametrize("config", TARGETS, ids=repr)
def test_targets_are_pefts(config: dict[str, Any]) -> None:
    theirs = LoraConfig(**config)
    assert {name: is_target(config, name) for name in NAMES} == {
        name: bool(check_target_module_exists(theirs, name)) for name in NAMES
    }


SEGMENTS = st.sampled_from(["model", "layers", "h", "0", "1", "12", "self_attn", "q_proj", "v_proj", "lm_head", "x"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=6).map(".".join)
LISTS = st.lists(PATHS, max_size=3)
REGEXES = st.sampled_from(
    [r".*q_proj", r"q_proj", r".*\.(0|12)\..*", r"model\.layers\.\d+\..*_proj", r".*", r"(?!.*1).*"]
)


@given(
    names=st.lists(PATHS, min_size=1, max_size=12),
    targets=LISTS | REGEXES,
    excluded=st.none() | LISTS | REGEXES,
    saved=st.none() | st.lists(SEGMENTS, max_size=2),
    layers=st.none() | st.integers(0, 12) | st.lists(st.integers(0, 12), max_size=3),
    pattern=st.none() | st.sampled_from(["layers", "h", ""]) | st.lists(st.sampled_from(["layers", "h"]), max_size=2),
)
def test_targets_are_pefts_for_any_names(
    names: list[str], targets: Any, excluded: Any, saved: Any, layers: Any, pattern: Any
) -> None:
    config = {
        "target_modules": targets,
        "exclude_modules": excluded,
        "modules_to_save": saved,
        "layers_to_transform": layers,
        "layers_pattern": pattern,
        "target_parameters": None,
    }
    theirs = SimpleNamespace(**config)
    for name in names:
        assert is_target(config, name) == bool(check_target_module_exists(theirs, name))


@pytest.mark.parametrize("prefix", [PREFIX, ""], ids=["prefix", "bare"])
@pytest.mark.parametrize("name", ["", ".default", ".my-adapter_2"], ids=["plain", "default", "named"])
def test_forms_of_a_low_rank_key(tmp_path: Path, prefix: str, name: str) -> None:
    found = changes(tmp_path / "a", pair(Q, name=name, prefix=prefix))
    key = f"{prefix}{Q}.lora_{{}}{name}.weight"
    assert found == {f"{Q}.weight": (LowRank(key.format("B"), key.format("A"), False, 2.0),)}


@pytest.mark.parametrize(
    "key",
    [
        "lm_head.weight",
        "lm_head.modules_to_save.weight",
        "lm_head.modules_to_save.default.weight",
        "lm_head.base_layer.weight",
    ],
)
def test_forms_of_a_saved_key(tmp_path: Path, key: str) -> None:
    tensors = {**pair(Q), PREFIX + key: torch.ones(10, 6)}
    found = changes(tmp_path / "a", tensors, modules_to_save=["lm_head"])
    assert found[LM_HEAD] == (Replace(PREFIX + key),)
    assert len(found) == 2


@pytest.mark.parametrize("key", [f"{Q}.bias", f"{Q}.base_layer.bias"])
def test_trained_biases_replace(tmp_path: Path, key: str) -> None:
    found = changes(tmp_path / "a", {**pair(Q), PREFIX + key: torch.ones(8)}, bias="all")
    assert found[f"{Q}.bias"] == (Replace(PREFIX + key),)


def test_the_bias_of_lora_b_is_added(tmp_path: Path) -> None:
    key = f"{PREFIX}{Q}.lora_B.bias"
    found = changes(tmp_path / "a", {**pair(Q), key: torch.ones(8)}, lora_bias=True)
    assert found[f"{Q}.bias"] == (Add(key, 2.0),)


@pytest.mark.parametrize("leaf", ["", ".default"])
def test_embeddings_are_transposed(tmp_path: Path, leaf: str) -> None:
    a, b = (f"{PREFIX}model.embed_tokens.lora_embedding_{side}{leaf}" for side in "AB")
    tensors = {
        a: torch.ones(2, 10),
        b: torch.ones(6, 2),
        f"{PREFIX}model.embed_tokens.base_layer.weight": torch.ones(10, 6),
    }
    found = changes(tmp_path / "a", tensors, target_modules=["embed_tokens"])
    # PEFT keeps a copy of the base's embedding beside: what is trained comes on top of it.
    assert found == {EMBEDDING: (Replace(f"{PREFIX}model.embed_tokens.base_layer.weight"), LowRank(a, b, True, 2.0))}


def test_merged_values(tmp_path: Path) -> None:
    """Small whole numbers, so that the sums are exact."""
    base = {name: torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) for name, shape in SHAPES.items()}
    save_file(base, tmp_path / "model.safetensors")
    file = open_tensor_file(tmp_path / "model.safetensors")
    ea, eb = torch.arange(20.0).reshape(2, 10), torch.arange(12.0).reshape(6, 2) - 5
    extra = {
        f"{PREFIX}model.embed_tokens.lora_embedding_A": ea,
        f"{PREFIX}model.embed_tokens.lora_embedding_B": eb,
        f"{PREFIX}{Q}.lora_B.bias": torch.arange(8.0),
        f"{PREFIX}lm_head.weight": torch.full((10, 6), 7.0),
    }
    first = write(
        tmp_path / "1", {**pair(Q), **extra}, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]
    )
    second = write(tmp_path / "2", {**pair(Q, 1), **pair("lm_head", 1)}, r=1, target_modules=["q_proj", "lm_head"])
    adapters = [open_adapter(folder, file.specs) for folder in (first, second)]
    checkpoint = Checkpoint(tmp_path, {}, file.specs, {tmp_path / "model.safetensors": file})
    merger = Merger(checkpoint, adapters)

    def merged(name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        shape = SHAPES[name]
        tensor = PlannedTensor(name, name, shape, GGMLType.F32)
        return as_tensor(merger.rows(tensor, start, shape[0] if stop is None else stop))

    def product(module: str, rank: int) -> torch.Tensor:
        a, b = pair(module, rank).values()
        return b @ a

    expected = {
        **base,
        f"{Q}.weight": base[f"{Q}.weight"] + 2 * product(Q, 2) + 4 * product(Q, 1),
        f"{Q}.bias": base[f"{Q}.bias"] + 2 * torch.arange(8.0),
        EMBEDDING: base[EMBEDDING] + 2 * (eb @ ea).T,
        LM_HEAD: torch.full((10, 6), 7.0) + 4 * product("lm_head", 1),
    }
    for name, values in expected.items():
        assert torch.equal(merged(name), values), name
        assert torch.equal(merged(name, 1, 3), values[1:3]), name
        assert torch.equal(merged(name), values), f"{name}: merging changed what is read"
    reverse = Merger(checkpoint, adapters[::-1])
    # A saved module replaces what came before it.
    head = reverse.rows(PlannedTensor(LM_HEAD, LM_HEAD, (10, 6), GGMLType.F32), 0, 10)
    assert torch.equal(as_tensor(head), torch.full((10, 6), 7.0))
    for opened in (*adapters, file):
        opened.close()


A, B = f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"
TOKENS = f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
REFUSED: dict[str, tuple[dict[str, Any], Tensors, str]] = {
    "method": ({"peft_type": "LODA"}, pair(Q), "peft_type is LODA: unknown method; supported are ADALORA, .*, LORA"),
    "no-method": ({"peft_type": None}, pair(Q), "peft_type is missing"),
    "prompt": (
        {"peft_type": "PREFIX_TUNING"},
        pair(Q),
        "PREFIX_TUNING: it trains a prompt instead of the model's weights",
    ),
    "whole-model": ({"peft_type": "UNILORA"}, pair(Q), "UNILORA: its factors depend on all modules"),
    "no-magnitude": ({"use_dora": True}, pair(Q), f"use_dora is set, but module '{Q}' has no lora_magnitude_vector"),
    "magnitude-shape": (
        {"use_dora": True},
        {**pair(Q), f"{PREFIX}{Q}.lora_magnitude_vector": torch.ones(6)},
        r"has shape \[6\], expected \[8\]",
    ),
    "no-tokens": ({"trainable_token_indices": [3]}, pair(Q), "trained tokens for 0 modules, expected 1"),
    "tokens-unsaid": ({}, {**pair(Q), TOKENS: torch.ones(1, 6)}, "adapter_config.json does not say which"),
    "tokens-shape": (
        {"trainable_token_indices": [3, 4]},
        {**pair(Q), TOKENS: torch.ones(1, 6)},
        r"has shape \[1, 6\], but 2 tokens of .* need \[2, 6\]",
    ),
    "tokens-beyond": (
        {"trainable_token_indices": [10]},
        {**pair(Q), TOKENS: torch.ones(1, 6)},
        "token 10 was trained, but .* has only 10 rows",
    ),
    "tokens-elsewhere": (
        {"trainable_token_indices": {"lm_head": [1]}},
        {**pair(Q), TOKENS: torch.ones(1, 6)},
        "trained tokens for 'model.embed_tokens', but trainable_token_indices does not name it",
    ),
    "tokens-missing": (
        {"trainable_token_indices": {"lm_head": [1], "embed_tokens": [1]}},
        {**pair(Q), TOKENS: torch.ones(1, 6)},
        "trainable_token_indices names 'lm_head', which is not in the file",
    ),
    "tokens-twice": ({"trainable_token_indices": [3, 3]}, pair(Q), r"trainable_token_indices is \[3, 3\]; expected"),
    "parameters": ({"target_parameters": ["x"]}, pair(Q), "target_parameters names 'x'"),
    "replication": ({"layer_replication": [[0, 1]]}, pair(Q), "layer replication"),
    "alora": ({"alora_invocation_tokens": [1]}, pair(Q), "aLoRA"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, pair(Q), "init_lora_weights is 'pissa_niter_4'"),
    "olora": ({"init_lora_weights": "olora"}, pair(Q), "belong to a residual base model"),
    "loftq": ({"init_lora_weights": "loftq"}, pair(Q), "belong to a residual base model"),
    "no-rank": ({"r": None}, pair(Q), "r is None; expected a positive"),
    "rank-zero": ({"r": 0}, pair(Q), "r is 0; expected a positive"),
    "no-alpha": ({"lora_alpha": None}, pair(Q), "lora_alpha is None"),
    "nan-alpha": ({"lora_alpha": math.nan}, pair(Q), "lora_alpha is nan"),
    "pattern-list": ({"rank_pattern": [4]}, pair(Q), r"rank_pattern is \[4\]; expected a table of patterns"),
    "broken-target": ({"target_modules": "("}, pair(Q), "is not a valid pattern"),
    "rank-mismatch": ({"r": 4}, pair(Q, 2), f"'{Q}' has rank 2 and 2, but adapter_config.json says 4"),
    "unlike-ranks": (
        {},
        {A: torch.ones(2, 6), B: torch.ones(8, 3)},
        "has rank 2 and 3, but adapter_config.json says 2",
    ),
    "one-factor": ({}, {A: torch.ones(2, 6)}, f"module '{Q}' has no lora_B"),
    "other-factor": ({}, {B: torch.ones(8, 2)}, f"module '{Q}' has no lora_A"),
    "sharded": ({}, {A: torch.ones(0), B: torch.ones(8, 2)}, r"factors of shape \[0\] and \[8, 2\]"),
    "hidden-size": (
        {},
        {A: torch.ones(2, 16), B: torch.ones(8, 2)},
        f"'{Q}': the adapter was trained on hidden size 16, but this base model has 6$",
    ),
    "rows": ({}, {A: torch.ones(2, 6), B: torch.ones(9, 2)}, r"trained on shape \[9, 6\], but .* has \[8, 6\]$"),
    "no-such-module": (
        {},
        {k.replace("layers.0", "layers.7"): v for k, v in pair(Q).items()},
        r"belongs to 'model\.layers\.7\.self_attn\.q_proj\.weight', which the base model does not have",
    ),
    "two-adapters": ({}, {**pair(Q, name=".a"), **pair(Q, name=".b")}, "contains more than one adapter"),
    "magnitude": (
        {},
        {**pair(Q), f"{PREFIX}{Q}.lora_magnitude_vector.weight": torch.ones(8)},
        "lora_magnitude_vector.* belongs to DoRA, but use_dora is not set",
    ),
    "nonsense": ({}, {**pair(Q), "optimizer": torch.ones(8)}, "unexpected tensor 'optimizer' in this LORA adapter"),
    "integers": ({}, {**pair(Q), A: torch.ones(2, 6).to(torch.int8)}, "is stored as I8; supported are F32, F16, BF16"),
    "nothing": ({}, {}, "the adapter file has no tensors"),
    "not-a-target": ({}, {**pair(Q), **pair(V)}, f"target_modules .* does not name '{V}', but"),
    "left-out-layer": (
        {"layers_to_transform": [1]},
        pair(Q),
        f"target_modules .* does not name '{Q}', but",
    ),
    "incomplete": (
        {"target_modules": ["q_proj", "v_proj"]},
        pair(Q),
        f"target_modules names '{V}', but its weights are not in the file",
    ),
    "saved-missing": ({"modules_to_save": ["lm_head"]}, pair(Q), "modules_to_save names 'lm_head', but"),
    "saved-shape": (
        {"modules_to_save": ["lm_head"]},
        {**pair(Q), f"{PREFIX}lm_head.weight": torch.ones(12, 6)},
        "'lm_head.weight' was resized to 12 rows, but 'model.embed_tokens.weight' is not in the file",
    ),
    "saved-nowhere": (
        {"modules_to_save": ["score"]},
        {**pair(Q), f"{PREFIX}score.weight": torch.ones(2, 6)},
        "score.weight' is the head of a classifier or reward model",
    ),
    "bias-nowhere": (
        {"target_modules": ["v_proj"], "lora_bias": True},
        {**pair(V), f"{PREFIX}{V}.lora_B.bias": torch.ones(4)},
        rf"'{V}\.bias', which the base model does not have",
    ),
    "bias-shape": (
        {"lora_bias": True},
        {**pair(Q), f"{PREFIX}{Q}.lora_B.bias": torch.ones(9)},
        r"has shape \[9\], but .* has \[8\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    config, tensors, message = REFUSED[name]
    with pytest.raises(AdapterError, match=message):
        changes(tmp_path / "a", tensors, **config)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    tensors = pair(Q)
    tensors[A][1, 2] = value
    opened = open_adapter(write(tmp_path / "a", tensors), BASE)
    with pytest.raises(AdapterError, match=r"q_proj\.lora_A\.weight' has NaN or infinite values"):
        opened.read(A)
    assert torch.equal(as_tensor(opened.read(B)), tensors[B])
    opened.close()


def test_folders_that_are_no_adapters(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with pytest.raises(AdapterError, match="no such folder"):
        open_adapter(folder, BASE)
    folder.mkdir()
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        open_adapter(folder, BASE)
    (folder / "adapter_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(AdapterError, match="not valid JSON"):
        open_adapter(folder, BASE)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        open_adapter(folder, BASE)


# Which side of a tied pair an adapter changes, whether PEFT was told to keep them tied, and whether they part.
TIES = {
    "neither": ((), False, False),
    "embedding": ((EMBEDDING,), False, True),
    "head": ((LM_HEAD,), False, True),
    "both": ((EMBEDDING, LM_HEAD), False, True),
    "embedding-tied": ((EMBEDDING,), True, False),
}


@pytest.mark.parametrize("name", TIES)
def test_tied_weights_part_when_the_adapter_trains_one_side(checkpoint: Maker, tmp_path: Path, name: str) -> None:
    changed, together, untied = TIES[name]
    base = checkpoint("llama3-tied", layers=1)
    with open_model(base) as plain:
        rows, hidden = plain.checkpoint.tensors[EMBEDDING].shape
        assert (plain.untied, [t.name for t in plain.tensors(GGMLType.F16)][-1]) == (False, "output_norm.weight")
    tensors = {f"{PREFIX}{key}": torch.full((rows, hidden), 0.5) for key in changed}
    tensors |= {f"{PREFIX}model.norm.weight": torch.ones(hidden)}
    saved = ["norm", *(key.split(".")[-2] for key in changed)]
    folder = write(tmp_path / "a", tensors, target_modules=[], modules_to_save=saved, ensure_weight_tying=together)
    with open_model(base, [folder]) as model:
        assert model.untied is untied
        assert bool(model.notes) is untied
        planned = {tensor.name: tensor for tensor in model.tensors(GGMLType.F16)}
        assert ("output.weight" in planned) is untied
        merger = Merger(model.checkpoint, model.adapters)
        original = as_tensor(model.checkpoint.read(EMBEDDING, 0, 4)).float()
        for target, source in (("token_embd.weight", EMBEDDING), ("output.weight", LM_HEAD)):
            if target in planned:
                expected = torch.full((4, hidden), 0.5) if source in changed else original
                assert torch.equal(as_tensor(merger.rows(planned[target], 0, 4)), expected)


def test_a_head_trained_apart_from_weights_that_stay_tied(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-tied", layers=1)
    with open_model(base) as plain:
        shape = plain.checkpoint.tensors[EMBEDDING].shape
    tensors = {f"{PREFIX}lm_head.weight": torch.ones(shape)}
    folder = write(tmp_path / "a", tensors, target_modules=[], modules_to_save=["lm_head"], ensure_weight_tying=True)
    with pytest.raises((AdapterError, CheckpointError), match="ensure_weight_tying is set"), open_model(base, [folder]):
        pass


def embedding_adapter(folder: Path, shape: tuple[int, ...], *, together: bool) -> Path:
    tensors = {f"{PREFIX}{EMBEDDING}": torch.full(shape, 0.5)}
    saved = ["embed_tokens"]
    return write(folder, tensors, target_modules=[], modules_to_save=saved, ensure_weight_tying=together)


def test_tied_and_untied_training_do_not_mix(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-tied", layers=1)
    with open_model(base) as plain:
        shape = plain.checkpoint.tensors[EMBEDDING].shape
    pair = [embedding_adapter(tmp_path / name, shape, together=name == "tied") for name in ("tied", "apart")]
    with pytest.raises(AdapterError, match="another adapter was trained with separate"), open_model(base, pair):
        pass


@pytest.mark.parametrize("together", [False, True])
def test_a_tied_checkpoint_that_stores_its_head_too(checkpoint: Maker, tmp_path: Path, together: bool) -> None:
    base = shutil.copytree(checkpoint("llama3-tied", layers=1), tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, LM_HEAD: tensors[EMBEDDING].clone()}, base / "model.safetensors")
    folder = embedding_adapter(tmp_path / "a", tuple(tensors[EMBEDDING].shape), together=together)
    if together:
        with pytest.raises(AdapterError, match="stores the output head"), open_model(base, [folder]):
            pass
        return
    merged = merge(base, tmp_path / "merged", adapters=[folder])
    assert json.loads((merged / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is False
    written = load_file(merged / "model.safetensors")
    assert torch.equal(written[LM_HEAD], tensors[EMBEDDING])
    assert not torch.equal(written[EMBEDDING], tensors[EMBEDDING])


@pytest.mark.parametrize("targets", [r".*\.(q_proj|v_proj)", "all-linear"])
def test_an_adapter_by_pattern_that_lacks_layers(checkpoint: Maker, tmp_path: Path, targets: str) -> None:
    base = checkpoint("llama3-untied", layers=2)
    with open_model(base) as model:
        shapes = {name: spec.shape for name, spec in model.checkpoint.tensors.items() if len(spec.shape) == 2}
    wanted = [
        name for name in shapes if "_proj" in name and (targets == "all-linear" or name.split(".")[-2][0] in "qv")
    ]
    tensors = {}
    for name in wanted:
        module = PREFIX + name.removesuffix(".weight")
        tensors |= {f"{module}.lora_A.weight": torch.ones(4, shapes[name][1])}
        tensors |= {f"{module}.lora_B.weight": torch.ones(shapes[name][0], 4)}
    with open_model(base, [write(tmp_path / "whole", tensors, target_modules=targets, r=4)]) as model:
        assert len(model.adapters[0].changes) == len(wanted)
    lost = {key: value for key, value in tensors.items() if "layers.1.self_attn.v_proj" not in key}
    folder = write(tmp_path / "lost", lost, target_modules=targets, r=4)
    with (
        pytest.raises(AdapterError, match=r"layers\.1\.self_attn\.v_proj.*not in the file"),
        open_model(base, [folder]),
    ):
        pass


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], "all-linear"])
def test_experts_that_have_no_modules(tmp_path: Path, targets: object) -> None:
    """transformers 5 keeps the experts of a layer in one tensor, on which target_modules puts nothing."""
    experts = {f"{MLP}.experts.{number}.down_proj.weight": spec(6, 12) for number in (0, 1)}
    base = {f"{Q}.weight": spec(8, 6), **experts}
    opened = open_adapter(write(tmp_path / "a", pair(Q), target_modules=targets), base)
    opened.close()
    assert set(opened.changes) == {f"{Q}.weight"}
    one = f"{PREFIX}{MLP}.experts.0.down_proj"
    some = {f"{one}.lora_A.weight": torch.ones(2, 12), f"{one}.lora_B.weight": torch.ones(6, 2)}
    with pytest.raises(AdapterError, match=r"experts\.1\.down_proj', but its weights are not in the file"):
        open_adapter(write(tmp_path / "b", {**pair(Q), **some}, target_modules=targets), base)


def test_the_vision_part_is_not_written(tmp_path: Path) -> None:
    tower = "model.vision_tower.encoder.layers.0.self_attn.q_proj"
    seen = {f"{PREFIX}{tower}.lora_A.weight": torch.ones(2, 6), f"{PREFIX}{tower}.lora_B.weight": torch.ones(8, 2)}
    folder = write(tmp_path / "a", {**pair(Q), **seen})
    with pytest.raises(
        AdapterError, match="changes the vision part of the model, but only the language model is converted"
    ) as caught:
        open_adapter(folder, BASE, language_only=True)
    assert "quantkit merge" in caught.value.hint


@pytest.mark.parametrize("kind", ["LORA", "TRAINABLE_TOKENS"])
def test_every_setting_of_peft_is_known_or_refused_by_name(kind: str) -> None:
    """What the PEFT installed here has is decided upon, so that a newer one shows up in this test."""
    fields = dataclasses.fields(LoraConfig if kind == "LORA" else TrainableTokensConfig)
    unknown = {field.name for field in fields} - KNOWN[kind] - UNSUPPORTED.keys()
    assert unknown == set()


def test_a_setting_that_nobody_here_knows(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"use_foo is True: quantkit does not know this setting") as caught:
        changes(tmp_path / "a", pair(Q), use_foo=True, peft_version="0.30.0")
    assert "PEFT 0.30.0" in caught.value.hint
    assert changes(tmp_path / "b", pair(Q), use_foo=False, foo_config=None, bar={})


def test_the_base_of_a_quantized_training_is_noted(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-tied", layers=1)
    tensors = {f"{PREFIX}model.norm.weight": torch.ones(256)}
    for name, noted in (("unsloth/llama-3-8b-bnb-4bit", True), ("meta-llama/Meta-Llama-3-8B", False)):
        config = {"target_modules": [], "modules_to_save": ["norm"], "base_model_name_or_path": name}
        with open_model(base, [write(tmp_path / "a", tensors, **config)]) as model:
            assert any(f"the quantized {name}" in note for note in model.notes) is noted


@pytest.mark.parametrize(
    "config",
    [
        {"rank_pattern": {"(": 4}},
        {"alpha_pattern": {"(": 4}},
        {"rank_pattern": {"q_proj": "x"}},
        {"rank_pattern": {"q_proj": None}},
        {"rank_pattern": {"q_proj": 2.9}},
        {"alpha_pattern": {"q_proj": "x"}},
        {"alpha_pattern": {"q_proj": math.nan}},
        {"target_modules": 5},
        {"layers_to_transform": "0"},
        {"modules_to_save": 5},
        {"layers_to_transform": [0], "layers_pattern": 5},
        {"layers_to_transform": 1e308},
        {"layers_to_transform": [True]},
        {"modules_to_save": -1},
        {"modules_to_save": [["x"]]},
        {"exclude_modules": [1]},
        {"rank_pattern": {"(?i)q_proj": 4}},
        {"target_modules": "a{99999999999999999999}"},
        {"use_rslora": "no"},
    ],
    ids=repr,
)
def test_settings_of_a_wrong_kind(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(AdapterError):
        changes(tmp_path / "a", pair(Q), **config)


def test_a_key_passed_over(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="lora_A"):
        changes(tmp_path / "a", {**pair(Q), f"{PREFIX}{Q}.lora_A.bias": torch.ones(2)})


@pytest.mark.parametrize(
    "second", ["lm_head.weight", "lm_head.modules_to_save.other.weight", "lm_head.base_layer.weight"]
)
def test_two_copies_of_a_saved_module(tmp_path: Path, second: str) -> None:
    first = f"{PREFIX}lm_head.modules_to_save.default.weight"
    tensors = {**pair(Q), first: torch.zeros(10, 6), PREFIX + second: torch.ones(10, 6)}
    with pytest.raises(AdapterError, match="both replace"):
        changes(tmp_path / "a", tensors, modules_to_save=["lm_head"])
