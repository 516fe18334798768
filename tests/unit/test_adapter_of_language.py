"""Adapters without weights for a part of the model: the part that sees, or a module that the model does not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantkit.adapter.folder import open_adapter
from quantkit.errors import AdapterError
from quantkit.jobs.merge import merge
from tests.support.checkpoints import make_checkpoint
from tests.support.plain_lora import write_plain_lora
from tests.unit.test_adapter import BASE, CONFIG, DOWN, PREFIX, Q, pair, spec, write

SEES = "vision_tower.encoder.layers.0.self_attn.q_proj"
# As checkpoints name the two parts, and as a build with --mmproj does.
WHOLE = {name.replace("model.", "model.language_model."): one for name, one in BASE.items()}
LAYOUTS = {
    "checkpoint": {**WHOLE, f"model.{SEES}.weight": spec(8, 6), f"model.{SEES}.bias": spec(8)},
    "older": {**WHOLE, f"{SEES}.weight": spec(8, 6)},
    "mmproj": {**BASE, f"{SEES}.weight": spec(8, 6), f"{SEES}.bias": spec(8)},
}
LEFT = ["a has no weights for the vision part, which stays as it is in the base model"]
LANGUAGE = Q.replace("model.", "model.language_model.")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "language_model."])
def test_modules_of_the_vision_part_may_have_the_same_names(tmp_path: Path, layout: str, prefix: str) -> None:
    """Of the language model alone, or of the whole model with its vision part frozen."""
    own = {key.replace("model.model.", f"model.model.{prefix}"): value for key, value in pair(Q).items()}
    adapter = open_adapter(write(tmp_path / "a", own), LAYOUTS[layout], model=CONFIG)
    assert set(adapter.changes) == {f"{Q if layout == 'mmproj' else LANGUAGE}.weight"}
    assert list(adapter.notes) == LEFT
    adapter.close()


def test_all_of_the_vision_part_or_nothing(tmp_path: Path) -> None:
    base = {**LAYOUTS["checkpoint"], f"model.{SEES.replace('q_proj', 'v_proj')}.weight": spec(8, 6)}
    before = f"{PREFIX}model."
    factors = {f"{before}{SEES}.lora_{side}.weight": value for side, value in zip("AB", pair(Q).values(), strict=True)}
    factors |= {key.replace(".model.layers", ".model.language_model.layers"): value for key, value in pair(Q).items()}
    adapter = open_adapter(write(tmp_path / "a", factors), base, model=CONFIG)
    assert (len(adapter.changes), adapter.notes) == (2, ())
    adapter.close()
    more = ["q_proj", f"{SEES.replace('q_proj', 'v_proj')}"]
    with pytest.raises(AdapterError, match=r"target_modules names 'model\.vision_tower.*v_proj', but its weights"):
        open_adapter(write(tmp_path / "a", factors, target_modules=more), base, model=CONFIG)


@pytest.mark.parametrize("named", ["score_head", "proj", "q_proj.weight"])
def test_modules_to_save_that_the_model_does_not_have(tmp_path: Path, named: str) -> None:
    """PEFT passes over them when it trains, and when it loads."""
    folder = write(tmp_path / "a", pair(DOWN), target_modules=["down_proj"], modules_to_save=[named])
    adapter = open_adapter(folder, BASE)
    said = f"modules_to_save names {named!r}, which the model does not have, so nothing of it was trained"
    assert adapter.notes == (f"a: {said}",)
    adapter.close()


@pytest.mark.parametrize("named", [["norm"], ["layers"], ["self_attn"], ["score_head", "q_proj"]], ids=str)
def test_modules_to_save_that_it_has_must_be_there(tmp_path: Path, named: list[str]) -> None:
    folder = write(tmp_path / "a", pair(DOWN), target_modules=["down_proj"], modules_to_save=named)
    with pytest.raises(AdapterError, match="file"):
        open_adapter(folder, BASE)


def test_whole_checkpoints_are_merged(vocabulary: Callable[..., Path], tmp_path: Path) -> None:
    """With everything beside the language model as it was: bounds of clipped layers, which are single numbers, too."""
    base = make_checkpoint(tmp_path / "base", "gemma4-sees", vocabulary=vocabulary("gemma-4"))
    tensors = load_file(base / "model.safetensors")
    assert any(tensor.ndim == 0 for tensor in tensors.values())
    write_plain_lora(base, "language_model.layers.0.self_attn.q_proj", tmp_path / "lora", tensors)
    out = merge(base, tmp_path / "merged", adapters=tmp_path / "lora", device="cpu")
    found = load_file(out / "model.safetensors")
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == {
        name: (one.shape, one.dtype) for name, one in tensors.items()
    }
    other = {name for name, tensor in tensors.items() if not torch.equal(tensor, found[name])}
    assert other == {"model.language_model.layers.0.self_attn.q_proj.weight"}
