"""transformers loaded one layer at a time computes what transformers loaded whole computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantkit.checkpoint.folder import read_json
from quantkit.errors import AdapterError, ArchitectureError
from quantkit.prove.judge import check_known, write_logits
from quantkit.prove.judged import Judged
from quantkit.prove.plan import plan_proof
from quantkit.prove.sequences import sequence
from tests.support.adapters import VARIANTS
from tests.support.checkpoints import KINDS
from tests.support.parity_matrix import NOT_APPLICABLE

Maker = Callable[..., Path]

_RANDOM = np.random.default_rng(0)
SEQUENCES = [sequence(str(length), _RANDOM.integers(3, 200, length).tolist()) for length in (40, 7, 70)]
# In float32 the order of sums differs with the number of rows.
TOLERANCE = 5e-6
# Which of its activations are left out depends on their mean and deviation, in each of many layers.
WIDER = {"gemma3n": 4}
# Each way in which PEFT changes a model, once.
LORA = (
    "seven-projections", "patterns", "rslora", "modules-to-save", "norms-saved", "bias-all", "embeddings", "bin-file",
    "tied-embedding-adapted", "tied-head-adapted", "tied-both-saved", "experts-by-projections", "experts-by-parameters",
    "dora", "dora-embeddings", "trained-tokens", "trained-tokens-both-tied",
)  # fmt: skip


def whole(model: Path, adapter: Path | None = None) -> npt.NDArray[np.float32]:
    """Logits of transformers' model with all weights, one sequence at a time."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = "text_config" in read_json(model / "config.json")
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    loaded = kind.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    if adapter is not None:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, adapter)
    with torch.no_grad():
        return np.concatenate([loaded.eval()(torch.tensor([list(one.ids)])).logits[0].numpy() for one in SEQUENCES])


def difference(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if (kind, "greedy") not in NOT_APPLICABLE])
def test_layer_by_layer(checkpoint: Maker, kind: str, tmp_path: Path) -> None:
    model = checkpoint(kind)
    assert write_logits(Judged(model, device="cpu"), SEQUENCES, tmp_path / "logits.npy")
    assert difference(np.load(tmp_path / "logits.npy"), whole(model)) < TOLERANCE * WIDER.get(kind, 1)


@pytest.mark.parametrize("layout", [{"shards": 3}, {"binary": True}, {"style": "5"}], ids=str)
def test_layouts_of_checkpoints(checkpoint: Maker, layout: dict[str, object], tmp_path: Path) -> None:
    model = checkpoint("qwen2-tied", **layout)
    assert write_logits(Judged(model, device="cpu"), SEQUENCES, tmp_path / "logits.npy")
    assert difference(np.load(tmp_path / "logits.npy"), whole(model)) < TOLERANCE


@pytest.mark.parametrize("kind", ["qwen2-tied", "mixtral"])
@pytest.mark.parametrize("wrapped", ["policy.{}", "module._orig_mod.{}", "base_model.model.{}"])
def test_a_checkpoint_saved_from_within_a_wrapper(checkpoint: Maker, kind: str, wrapped: str, tmp_path: Path) -> None:
    plain, model = checkpoint(kind), tmp_path / "model"
    shutil.copytree(plain, model)
    (file,) = model.glob("*.safetensors")
    tensors = {wrapped.format(name): values for name, values in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    assert write_logits(Judged(model, device="cpu"), SEQUENCES, tmp_path / "logits.npy")
    assert difference(np.load(tmp_path / "logits.npy"), whole(plain)) < TOLERANCE


@pytest.mark.parametrize("variant", [*LORA, "loha", "trainable-tokens"])
def test_adapters(checkpoint: Maker, adapter: Maker, variant: str, tmp_path: Path) -> None:
    model, folder = checkpoint(VARIANTS[variant].kind, dtype="f32"), adapter(variant)
    judged = Judged(model, ((folder, 1.0),), "cpu")
    with VARIANTS[variant].expected_warnings():
        by_layer = write_logits(judged, SEQUENCES, tmp_path / "logits.npy")
        theirs = whole(model, folder)
    assert by_layer == plan_proof(judged).by_layer == (variant in LORA)
    ours = np.load(tmp_path / "logits.npy")
    assert difference(ours, theirs) < 2 * TOLERANCE
    assert difference(ours, whole(model)) > 100 * TOLERANCE


def test_two_adapters_with_weights_are_added(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    model, one = checkpoint("llama3-untied", dtype="f32"), adapter("seven-projections")
    for name, adapters in {"twice": ((one, 0.25), (one, 0.75)), "once": ((one, 1.0),)}.items():
        write_logits(Judged(model, adapters, "cpu"), SEQUENCES, tmp_path / f"{name}.npy")
    assert difference(np.load(tmp_path / "twice.npy"), np.load(tmp_path / "once.npy")) < 2 * TOLERANCE


def test_a_model_that_transformers_does_not_know(checkpoint: Maker) -> None:
    with pytest.raises(ArchitectureError, match=r"config\.json: transformers does not know this model") as caught:
        check_known(Judged(checkpoint("qwen"), device="cpu"))
    assert "without --prove" in caught.value.hint


@pytest.mark.parametrize(("variant", "weight"), [("dora", 0.5), ("modules-to-save", 2.0), ("loha", 0.5)])
def test_adapters_that_peft_cannot_weigh(checkpoint: Maker, adapter: Maker, variant: str, weight: float) -> None:
    judged = Judged(checkpoint(VARIANTS[variant].kind, dtype="f32"), ((adapter(variant), weight),), "cpu")
    with pytest.raises(
        AdapterError, match=r"adapter_config\.json: with .* PEFT cannot apply it unmerged with a weight"
    ):
        plan_proof(judged)


def test_an_adapter_whose_keys_peft_does_not_take(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    from tests.support.adapter_layouts import LAYOUTS, write_layout

    folder = write_layout(tmp_path / "ddp", adapter("seven-projections"), LAYOUTS["ddp"])
    judged = Judged(checkpoint("llama3-untied", dtype="f32"), ((folder, 1.0),), "cpu")
    with pytest.raises(AdapterError, match=r"PEFT does not take 'module\.") as caught:
        check_known(judged)
    assert "save_pretrained" in caught.value.hint
