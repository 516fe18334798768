"""A picture and a prompt: the logits of llama.cpp with our two files against those of transformers.

The pictures have a size that neither side changes. ggml's convolution computes with half floats, so the weights and the
pixels that transformers is given are half floats too; everything else is float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def load(model: Path) -> torch.nn.Module:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()


@dataclass(frozen=True)
class Seen:
    """How one kind of checkpoint is shown a picture in transformers.

    Attributes:
        size: pixels of a side.
        token: what stands for a part of the picture.
        row: parts in a row, if a row ends with a token of its own.
        load: folder to the model.
        tiles: how often the picture is shown, for a model that cuts pictures into tiles.
        patch: pixels of a side of a patch, for a model that is given the patches of Qwen's processor.
    """

    size: int
    token: str
    row: int = 0
    load: Callable[[Path], torch.nn.Module] = load
    tiles: int = 0
    patch: int = 0


SEEN: Mapping[str, Seen] = {
    "gemma3-sees": Seen(56, "<image_soft_token>"),
    "mistral3": Seen(112, "[IMG]", row=4),
    "pixtral": Seen(112, "[IMG]", row=8),
    "idefics3": Seen(56, "<image>", tiles=2),  # libmtmd shows the one tile again as the whole
    "internvl": Seen(56, "<IMG_CONTEXT>", load=intern_model),
    "qwen2-vl": Seen(112, "<|image_pad|>", patch=14),
    "qwen2.5-vl": Seen(168, "<|image_pad|>", patch=14),  # more than one window
    "qwen3-vl": Seen(128, "<|image_pad|>", patch=16),
    "qwen3.5-sees": Seen(128, "<|image_pad|>", patch=16),
    "qwen3.5-moe-sees": Seen(128, "<|image_pad|>", patch=16),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.mark.parametrize("kind", SEEN)
def test_the_same_logits(folder: Path, tmp_path: Path, kind: str) -> None:
    model, seen = checkpoint(folder, kind, "f16"), SEEN[kind]
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
    values = torch.from_numpy(colors).permute(2, 0, 1).half().float()[None]
    if seen.tiles:
        values = values.expand(seen.tiles, -1, -1, -1)[None]
    further: dict[str, torch.Tensor] = {}
    if seen.patch:
        values = _patches(values[0], seen.patch)
        further["image_grid_thw"] = torch.tensor([[1, seen.size // seen.patch, seen.size // seen.patch]])
        further["mm_token_type_ids"] = torch.tensor([[int(token == image) for token in tokens]])
    if seen.row:
        further["image_sizes"] = torch.tensor([[seen.size, seen.size]])
    if "gemma" in model.config.model_type:
        further["token_type_ids"] = torch.tensor([[int(token == image) for token in tokens]])
    rows = []
    with torch.no_grad():
        for shown in (values, -values):
            logits = model(input_ids=torch.tensor([tokens]), pixel_values=shown, **further).logits
            rows.append(logits[0, -1].numpy())
    return rows


def _patches(values: torch.Tensor, patch: int) -> torch.Tensor:
    """A picture's patches, those of each square of four together, and each in two frames that are alike."""
    side = values.shape[-1] // (2 * patch)
    squares = values.reshape(3, side, 2, patch, side, 2, patch).permute(1, 4, 2, 5, 0, 3, 6)
    return squares.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(4 * side * side, -1)


def _places(count: int, seen: Seen, ids: Mapping[str, int]) -> list[int]:
    """The tokens in the places of a picture; between two rows, the token that ends one."""
    if not seen.row:
        return [ids[seen.token]] * count
    rows = [[ids[seen.token]] * seen.row for _ in range((count + 1) // (seen.row + 1))]
    return [token for row in rows[:-1] for token in (*row, ids["[IMG_BREAK]"])] + rows[-1]
