"""What the encoders of Qwen share: patches of two frames each, and squares of patches that are merged."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from quantkit.arch.base import Rule, require
from quantkit.arch.vision.base import PICTURES, Encoder, Sight, encoder, patch_shape
from quantkit.errors import ArchitectureError

FRAMES, SQUARE = 2, 2
TOWER = "visual."


def qwen_encoder(sight: Sight, image: int, **names: str) -> Encoder:
    """The sizes of the encoder.

    Args:
        sight: what describes the checkpoint.
        image: pixels of a side of a picture; the encoder takes any size.
        **names: of settings, see :func:`quantkit.arch.vision.base.encoder`.

    Raises:
        ArchitectureError: as that function; or patches are cut or merged in another way than in llama.cpp's graph.
    """
    for key in ("in_channels", "in_chans"):
        sight.require(key, 3)
    sight.require("temporal_patch_size", FRAMES)
    sight.require("spatial_merge_size", SQUARE)
    size = encoder(sight, blocks="depth", heads="num_heads", image=image, **names)
    for key, value in (("patch_size", size.patch), ("temporal_patch_size", FRAMES), ("merge_size", SQUARE)):
        require(sight.pictures, key, value, where=PICTURES)
    return size


def require_width(sight: Sight, key: str) -> None:
    """Refuse a merger whose width is not the language model's."""
    if (width := sight.size(key)) != sight.hidden:
        raise ArchitectureError(
            f"config.json: vision_config.{key} is {width}, but the language model's hidden_size is {sight.hidden}"
        )


def patches(size: Encoder) -> list[Rule]:
    """The convolution of two frames, as one convolution for each, which ggml computes."""
    stored = (*patch_shape(size)[:2], FRAMES, size.patch, size.patch)
    return [
        Rule(
            f"{TOWER}patch_embed.proj.weight",
            f"v.patch_embd.weight{ending}",
            patch_shape(size),
            arrange=lambda rows, frame=frame: _frame(rows, frame, size.patch),  # type: ignore[misc]
            unit=size.patch,
            source_shape=stored,
            source_unit=FRAMES * size.patch,
        )
        for frame, ending in enumerate(("", ".1"))
    ]


def _frame(rows: npt.NDArray[Any], frame: int, patch: int) -> npt.NDArray[Any]:
    """The rows of one frame, of kernels whose frames follow each other."""
    kernels = rows.reshape(-1, FRAMES, patch, *rows.shape[1:])
    return kernels[:, frame].reshape(-1, *rows.shape[1:])
