"""Adapters out of two checkpoints: a LoRA comes back, and PEFT computes what the trained model does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quantkit.cli.main import cli
from quantkit.errors import CheckpointError, OutputError, QuantkitError
from quantkit.extract.adapter_folder import short_names
from quantkit.extract.factors import LEAST_ERROR, of_error, of_rank
from quantkit.jobs.extract import extract
from quantkit.jobs.merge import merge
from tests.support.adapters import VARIANTS

Maker = Callable[..., Path]
Change = Callable[[dict[str, torch.Tensor]], object]

TOKENS = torch.tensor([[(7 * i * i + 3) % 500 for i in range(12)]])
# What float32 rounding of factors and sums leaves, relative to the largest value.
ROUNDING = 2e-6
LOGITS = 2e-5


def with_spectrum(out: int, width: int, values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A matrix that has these singular values."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(n, len(values), generator=generator).double())[0] for n in (out, width))
    return ((left * values) @ right.T).float()


@pytest.mark.parametrize(("out", "width"), [(96, 40), (40, 96), (640, 1100), (1100, 640)])
def test_a_known_rank_is_found(out: int, width: int) -> None:
    matrix = with_spectrum(out, width, torch.linspace(3, 1, 7))
    for factors in (of_rank(matrix, 16), of_rank(matrix, 7), of_error(matrix, 1e-4)):
        assert factors.rank == 7
        assert factors.error < 1e-6
        assert torch.dist(factors.left @ factors.right, matrix) / torch.norm(matrix) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(64, 200), (700, 900)])
def test_no_product_of_the_rank_is_closer(shape: tuple[int, int]) -> None:
    """By the theorem of Eckart, Young and Mirsky what is left is the norm of the other singular values."""
    values = torch.arange(1, min(shape) + 1) ** -0.7
    matrix = with_spectrum(*shape, values)
    for rank in (1, 8, 32):
        best = torch.norm(values[rank:]) / torch.norm(values)
        assert best * (1 - 1e-5) <= of_rank(matrix, rank).error <= best * 1.01


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(-3, 1),
    st.floats(LEAST_ERROR, 0.99),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_the_error_is_kept(out: int, width: int, power: float, error: float, seed: int) -> None:
    values = torch.arange(1, min(out, width) + 1) ** power
    matrix = with_spectrum(out, width, values, seed)
    factors = of_error(matrix, error)
    left = torch.norm((factors.left.double() @ factors.right.double()) - matrix) / torch.norm(matrix.double())
    assert left <= error
    assert factors.error == pytest.approx(float(left), abs=1e-6)
    tail = torch.tensor([float(torch.norm(values[k:]) / torch.norm(values)) for k in range(len(values) + 1)])
    assert factors.rank <= max(1, int((tail > 0.99 * error).sum())) + 1


@pytest.mark.parametrize("error", [0.5, 0.05, 0.003])
def test_the_error_is_kept_by_random_vectors(error: float) -> None:
    values = torch.arange(1, 601) ** -1.2
    factors = of_error(with_spectrum(600, 800, values), error)
    assert factors.error <= error
    tail = torch.tensor([float(torch.norm(values[k:]) / torch.norm(values)) for k in range(601)])
    assert factors.rank <= 1.3 * int((tail > error).sum()) + 1


def trained(base: Path, folder: Path, change: Change) -> Path:
    """A copy of a checkpoint, trained."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def grown(tensors: dict[str, torch.Tensor], *ends: str) -> None:
    """Add something to the tensors whose names end so: of matrices a product of rank 3."""
    generator = torch.Generator().manual_seed(5)
    for name in sorted(tensors):
        tensor = tensors[name]
        if name.endswith(ends):
            if tensor.dim() == 2:
                left, right = (torch.randn(n, 3, generator=generator) for n in tensor.shape)
                tensors[name] = tensor + 0.05 * left @ right.T
            else:
                tensors[name] = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


def assert_same_weights(merged: Path, expected: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (merged, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.max(torch.abs(ours[name] - tensor)) <= ROUNDING * torch.max(torch.abs(tensor)), name


def assert_same_logits(base: Path, adapter: Path, tuned: Path) -> None:
    expected = logits(tuned)
    largest = expected.abs().max()
    assert torch.max(torch.abs(logits(base, adapter) - expected)) <= LOGITS * largest
    assert torch.max(torch.abs(logits(base) - expected)) > 1e-2 * largest


def test_a_merged_lora_comes_back(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    tuned = merge(base, tmp_path / "tuned", adapters=adapter("patterns"))
    made = extract(tuned, tmp_path / "lora", base=base, rank=32, threads=2)
    config = VARIANTS["patterns"].settings
    ranks = {tensor.name: tensor.rank for tensor in made.tensors}
    assert ranks["model.layers.0.self_attn.q_proj.weight"] == config["rank_pattern"]["q_proj"]
    assert ranks["model.layers.1.mlp.down_proj.weight"] == 2
    assert made.worst.error < 1e-4  # the rounding of the sums, of a small difference
    assert_same_weights(merge(base, tmp_path / "again", adapters=made.folder, merge_again=True), tuned)
    assert_same_logits(base, made.folder, tuned)


@pytest.mark.parametrize(
    ("kind", "ends", "bias"),
    [
        ("llama3-untied", ("q_proj.weight", "layernorm.weight", "embed_tokens.weight", "lm_head.weight"), "none"),
        ("llama3-tied", ("0.mlp.up_proj.weight", "model.norm.weight", "embed_tokens.weight"), "none"),
        ("qwen2", ("q_proj.weight", "k_proj.bias"), "all"),
    ],
)
def test_what_is_no_linear_layer(
    checkpoint: Maker, tmp_path: Path, kind: str, ends: tuple[str, ...], bias: str
) -> None:
    base = checkpoint(kind, dtype="f32")
    tuned = trained(base, tmp_path / "tuned", lambda tensors: grown(tensors, *ends))
    made = extract(tuned, tmp_path / "lora", base=base, rank=3, threads=1)
    ways = {tensor.name: tensor.way for tensor in made.tensors}
    assert {name for name in ways if not name.endswith(ends)} == set()
    assert "lora" in ways.values()
    assert json.loads((made.folder / "adapter_config.json").read_bytes())["bias"] == bias
    assert_same_weights(merge(base, tmp_path / "again", adapters=made.folder), tuned)
    assert_same_logits(base, made.folder, tuned)


def test_the_bytes_do_not_depend_on_the_threads(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", dtype="f32")
    tuned = trained(base, tmp_path / "tuned", lambda tensors: grown(tensors, "proj.weight"))
    before = torch.get_num_threads()
    made = [extract(tuned, tmp_path / str(threads), base=base, error=0.2, threads=threads) for threads in (1, 3)]
    assert torch.get_num_threads() == before
    one, other = ({file.name: file.read_bytes() for file in each.folder.iterdir()} for each in made)
    assert one == other
    assert {tensor.rank for tensor in made[0].tensors} <= {1, 2, 3}
    assert all(0 < tensor.error <= 0.2 for tensor in made[0].tensors if tensor.rank < 3)


def test_the_trained_models_tokenizer_goes_with_it(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", layers=1, dtype="f32")
    tuned = trained(base, tmp_path / "tuned", lambda tensors: grown(tensors, "q_proj.weight"))
    assert not (extract(tuned, tmp_path / "a", base=base).folder / "tokenizer.json").exists()
    (tuned / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    made = extract(tuned, tmp_path / "b", base=base)
    assert (made.folder / "chat_template.jinja").read_text(encoding="utf-8") == "{{ messages[0].content }}"
    assert (made.folder / "tokenizer.json").read_bytes() == (tuned / "tokenizer.json").read_bytes()


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][0] = np.nan


def _wider(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:8]])


REFUSED: list[tuple[Change, dict[str, Any], str]] = [
    (len, {}, "no linear layer differs from the base's, nor anything else"),
    (lambda tensors: grown(tensors, "norm.weight"), {}, "no linear layer differs from the base's; only"),
    (lambda tensors: grown(tensors, "q_proj.weight"), {"rope_theta": 7.0}, "rope_theta is 7.0, but"),
    (_wider, {"vocab_size": 520}, "its vocabulary has another size"),
    (_nan, {}, "'model.norm.weight' contains NaN"),
    (lambda tensors: tensors.pop("model.norm.weight"), {}, "has no tensor 'model.norm.weight'"),
    (lambda tensors: tensors.update({"extra.weight": torch.ones(2, 2)}), {}, "has no tensor 'extra.weight'"),
    (
        lambda tensors: tensors.update({"model.norm.weight": torch.ones(2)}),
        {},
        r"tensor 'model.norm.weight' has the shape \[2\]",
    ),
]


@pytest.mark.parametrize(("change", "config", "why"), REFUSED, ids=[why for *_, why in REFUSED])
def test_refused(checkpoint: Maker, tmp_path: Path, change: Change, config: dict[str, Any], why: str) -> None:
    base = checkpoint("llama3-untied", layers=1, dtype="f32")
    tuned = trained(base, tmp_path / "tuned", change)
    _config(tuned, **config)
    with pytest.raises(CheckpointError, match=why):
        extract(tuned, tmp_path / "out", base=base)
    assert {file.name for file in tmp_path.iterdir()} == {"tuned"}


def test_stacked_experts_are_refused(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("gpt-oss", dtype="f32")
    tuned = trained(base, tmp_path / "tuned", lambda tensors: grown(tensors, "q_proj.weight", "down_proj"))
    with pytest.raises(CheckpointError, match=r"down_proj.*an adapter cannot change it"):
        extract(tuned, tmp_path / "out", base=base)


def test_the_command(checkpoint: Maker, tmp_path: Path) -> None:
    base = checkpoint("llama3-untied", layers=1, dtype="f32")
    tuned = trained(base, tmp_path / "tuned", lambda tensors: grown(tensors, "q_proj.weight"))
    args = ["extract", str(tuned), "--base", str(base), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*args, "--rank", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (tensor,) = found["tensors"]
    assert (tensor["name"], tensor["way"], tensor["rank"]) == ("model.layers.0.self_attn.q_proj.weight", "lora", 2)
    assert 0 < tensor["error"] < 1
    assert json.loads((tmp_path / "out" / "extraction.json").read_bytes())["tensors"] == [tensor]
    assert isinstance(CliRunner().invoke(cli, args).exception, OutputError)  # the folder is there
    done = CliRunner().invoke(cli, [*args, "--overwrite", "--error", "0.3"])
    assert "1 matrices of rank" in done.stdout
    assert CliRunner().invoke(cli, [*args, "--rank", "2", "--error", "0.3"]).exit_code == 2
    for wrong in ({"error": 0.0}, {"error": 1.5}, {"rank": 2, "error": 0.5}, {"rank": 0}):
        with pytest.raises(QuantkitError):
            extract(tuned, tmp_path / "wrong", base=base, **wrong)


def test_names_that_peft_finds_the_modules_by() -> None:
    modules = ["a.0.q", "a.1.q", "a.0.k", "a.1.k", "b.k"]
    assert short_names(["a.0.q", "a.1.q", "a.0.k"], modules) == ["a.0.k", "q"]
    assert short_names(["m.norm"], ["m.norm", "m.0.input_norm"]) == ["m.norm"]
    assert short_names([], modules) == []
