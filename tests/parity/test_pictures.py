"""A picture and a prompt: the logits of llama.cpp with our two files against those of transformers.

The pictures have a size that neither side changes. ggml's convolution computes with half floats, so the weights and the
pixels that transformers is given are half floats too; everything else is float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from quantkit.jobs.convert import convert
from tests.parity.test_mmproj import checkpoint
from tests.support.intern import intern_model
from tests.support.picture_logits import picture_logits

# Of a logit, relative to the largest; ggml takes GELU from a table of half floats, and where transformers has the exact
# GELU (Pixtral's projector, InternVL) it computes the approximation with tanh.
TOLERANCE = 2e-3
PROMPT = "Hello <__media__> what?"


Inputs = dict[str, torch.Tensor]


def load(model: Path) -> torch.nn.Module:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()


def load_gemma4(model: Path) -> torch.nn.Module:
    """With libmtmd's GELU in the encoder, of which the user has a note."""
    from transformers.activations import ACT2FN

    loaded: Any = load(model)
    for layer in loaded.model.vision_tower.encoder.layers:
        layer.mlp.act_fn = ACT2FN["quick_gelu"]
    return loaded  # type: ignore[no-any-return]


def load_intern(model: Path) -> torch.nn.Module:
    """With the positions as llama.cpp's graph adds them, of which the user has a note."""
    loaded: Any = load(model)
    positions = loaded.model.vision_tower.embeddings.position_embeddings
    positions.data = positions.data.roll(1, dims=1)
    return loaded  # type: ignore[no-any-return]


def whole(colors: torch.Tensor) -> Inputs:
    return {"pixel_values": colors.half().float()[None]}


def sized(colors: torch.Tensor) -> Inputs:
    return {**whole(colors), "image_sizes": torch.tensor([[*colors.shape[1:]]])}


def twice(colors: torch.Tensor) -> Inputs:
    """For a model that cuts pictures into tiles: libmtmd shows the one tile again as the whole."""
    return {"pixel_values": whole(colors)["pixel_values"].expand(2, -1, -1, -1)[None]}


def qwen_patches(colors: torch.Tensor, patch: int) -> Inputs:
    """Those of each square of four together, and each in two frames that are alike."""
    side = colors.shape[-1] // (2 * patch)
    squares = colors.half().float().reshape(3, side, 2, patch, side, 2, patch).permute(1, 4, 2, 5, 0, 3, 6)
    frames = squares.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1)
    return {
        "pixel_values": frames.reshape(4 * side * side, -1),
        "image_grid_thw": torch.tensor([[1, 2 * side, 2 * side]]),
    }


def gemma4_patches(colors: torch.Tensor, patch: int) -> Inputs:
    """Row by row, the colors of a pixel together; the model itself brings them to -1..1, where they are half floats."""
    side = colors.shape[-1] // patch
    rounded = ((2 * colors - 1).half().float() + 1) / 2
    patches = rounded.reshape(3, side, patch, side, patch).permute(1, 3, 2, 4, 0)
    places = [[x, y] for y in range(side) for x in range(side)]
    return {"pixel_values": patches.reshape(1, side * side, -1), "image_position_ids": torch.tensor([places])}


def unified_patches(colors: torch.Tensor, patch: int) -> Inputs:
    """The same, of a model that norms them as they are."""
    inputs = gemma4_patches(colors, patch)
    side = colors.shape[-1] // patch
    patches = colors.reshape(3, side, patch, side, patch).permute(1, 3, 2, 4, 0)
    return {**inputs, "pixel_values": patches.reshape(1, side * side, -1)}


@dataclass(frozen=True)
class Seen:
    """How one kind of checkpoint is shown a picture in transformers.

    Attributes:
        size: pixels of a side.
        token: what stands for a part of the picture.
        inputs: the colors, channel by channel, to what the model is given.
        row: parts in a row, if a row ends with a token of its own.
        types: the argument that says which tokens are the picture's, if there is one.
        load: folder to the model.
        text: settings of its language model, over those of the checkpoint.
    """

    size: int
    token: str
    inputs: Callable[[torch.Tensor], Inputs] = whole
    row: int = 0
    types: str = ""
    load: Callable[[Path], torch.nn.Module] = load
    text: Mapping[str, Any] = field(default_factory=dict)


def qwen(size: int, patch: int) -> Seen:
    return Seen(size, "<|image_pad|>", partial(qwen_patches, patch=patch), types="mm_token_type_ids")


SEEN: Mapping[str, Seen] = {
    "gemma3-sees": Seen(56, "<image_soft_token>", types="token_type_ids"),
    "gemma4-sees": Seen(
        108, "<|image|>", partial(gemma4_patches, patch=4), types="mm_token_type_ids", load=load_gemma4
    ),
    "gemma4-hears": Seen(
        108, "<|image|>", partial(gemma4_patches, patch=4), types="mm_token_type_ids", load=load_gemma4
    ),
    # In its layers with a window, a picture that is longer than it is not seen alike: no published model has one.
    "gemma4-unified": Seen(
        108,
        "<|image|>",
        partial(unified_patches, patch=12),
        types="mm_token_type_ids",
        text={"sliding_window": 128},
    ),
    "mistral3": Seen(112, "[IMG]", sized, row=4),
    "pixtral": Seen(112, "[IMG]", sized, row=8),
    "idefics3": Seen(56, "<image>", twice),
    "internvl": Seen(56, "<IMG_CONTEXT>", load=intern_model),
    "internvl-hf": Seen(56, "<IMG_CONTEXT>", load=load_intern),
    "qwen2-vl": qwen(112, patch=14),
    "qwen2.5-vl": qwen(168, patch=14),  # more than one window
    "qwen3-vl": qwen(128, patch=16),
    "qwen3-vl-moe": qwen(128, patch=16),
    "qwen3.5-sees": qwen(128, patch=16),
    "qwen3.5-moe-sees": qwen(128, patch=16),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.mark.parametrize("kind", SEEN)
def test_the_same_logits(folder: Path, tmp_path: Path, kind: str) -> None:
    seen = SEEN[kind]
    model = with_text(checkpoint(folder, kind, "f16"), seen, tmp_path)
    gguf = convert(model, tmp_path / "model.gguf", outtype="f32", mmproj=True)
    pixels = np.random.default_rng(3).integers(0, 256, (seen.size, seen.size, 3), dtype=np.uint8)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    picture = {"width": seen.size, "height": seen.size, "file": str(tmp_path / "pixels")}
    mmproj = tmp_path / "model-mmproj-f32.gguf"
    asked = picture_logits(gguf, mmproj, PROMPT, picture, tmp_path / "logits.npy")
    ours = np.load(tmp_path / "logits.npy")
    theirs, other = transformers_logits(model, seen, asked["parts"], pixels)
    largest = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() / largest < TOLERANCE
    assert np.abs(other - theirs).max() / largest > 100 * TOLERANCE  # of another picture


def with_text(model: Path, seen: Seen, folder: Path) -> Path:
    """The checkpoint with the settings of *seen*."""
    if not seen.text:
        return model
    changed = Path(shutil.copytree(model, folder / "model"))
    config = json.loads((changed / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= seen.text
    (changed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return changed


def transformers_logits(
    folder: Path, seen: Seen, parts: list[list[int] | int], pixels: npt.NDArray[np.uint8]
) -> list[npt.NDArray[np.float32]]:
    """The logits after the prompt with the picture, and with its negative."""
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    image = ids[seen.token]
    tokens = [token for part in parts for token in (part if isinstance(part, list) else _places(part, seen, ids))]
    model: Any = seen.load(folder)
    for key in ("image_token_id", "image_token_index"):
        if hasattr(model.config, key):
            setattr(model.config, key, image)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    colors = (pixels / 255 - np.array(settings["image_mean"])) / np.array(settings["image_std"])
    shown = torch.from_numpy(colors).permute(2, 0, 1)
    types = {seen.types: torch.tensor([[int(token == image) for token in tokens]])} if seen.types else {}
    rows = []
    with torch.no_grad():
        for values in (shown, -shown):
            logits = model(input_ids=torch.tensor([tokens]), **seen.inputs(values), **types).logits
            rows.append(logits[0, -1].numpy())
    return rows


def _places(count: int, seen: Seen, ids: Mapping[str, int]) -> list[int]:
    """The tokens in the places of a picture; between two rows, the token that ends one."""
    if not seen.row:
        return [ids[seen.token]] * count
    rows = [[ids[seen.token]] * seen.row for _ in range((count + 1) // (seen.row + 1))]
    return [token for row in rows[:-1] for token in (*row, ids["[IMG_BREAK]"])] + rows[-1]
