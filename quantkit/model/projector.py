"""The vision part of a checkpoint: what its mmproj file contains, and how pictures are prepared for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quantkit.arch.base import Config, Rule, positive
from quantkit.arch.class_defaults import with_defaults
from quantkit.arch.vision.base import ARCHITECTURE, Sight, VisionTower
from quantkit.arch.vision.families import find_tower
from quantkit.checkpoint.folder import Checkpoint
from quantkit.gguf.kv import KV, string
from quantkit.hub.files import PICTURES
from quantkit.model.sampling import checkpoint_sampling


@dataclass(frozen=True)
class Projector:
    """The vision part of an open checkpoint.

    Attributes:
        tower: its family.
        sight: what describes it.
        sampling: the entries of generation_config.json, which llama.cpp's converter writes here too.
    """

    tower: VisionTower
    sight: Sight
    sampling: tuple[KV, ...]

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The tensors of the mmproj file."""
        return tuple(self.tower.rules(self.sight))

    def metadata(self, name: str) -> list[KV]:
        """The metadata of the mmproj file.

        Args:
            name: ``general.name``.
        """
        return [
            string("general.architecture", ARCHITECTURE),
            string("general.type", "mmproj"),
            string("general.name", name),
            *self.sampling,
            *self.tower.metadata(self.sight),
        ]


def read_projector(opened: Checkpoint, config: Config) -> Projector:
    """The vision part of a checkpoint; every function of its family is called once, so that a bad config is found here.

    Args:
        opened: the checkpoint as it is stored.
        config: the config of its language model, as its family reads it.

    Raises:
        ArchitectureError: the model does not see, or libmtmd does not compute a setting.
        CheckpointError: a JSON file cannot be read.
    """
    tower = find_tower(opened.config, "config.json")
    vision = with_defaults(opened.config["vision_config"], tower.defaults)
    size = {key: positive(config, key) for key in ("hidden_size", "vocab_size")}
    projector = Projector(
        tower,
        Sight(
            opened.config,
            vision,
            size["hidden_size"],
            size["vocab_size"],
            _pictures(opened),
            lambda text: added_token(opened, text),
        ),
        tuple(checkpoint_sampling(opened)),
    )
    projector.metadata("")
    _ = projector.rules
    return projector


def _pictures(opened: Checkpoint) -> dict[str, Any]:
    """How pictures are prepared; the second file counts where both have a setting, as for llama.cpp's converter."""
    first, second = map(opened.json, PICTURES)
    return {**_nested(first, "media_proc_cfg"), **_nested(second, "image_processor")}


def _nested(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    inside = settings.get(key)
    return {**settings, **inside} if isinstance(inside, Mapping) else dict(settings)


def added_token(opened: Checkpoint, text: str) -> int | None:
    """The id of an added token; tokenizer_config.json counts before tokenizer.json, as for llama.cpp's converter."""
    decoder = opened.json("tokenizer_config.json").get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, Mapping) else ():
        if isinstance(token, Mapping) and token.get("content") == text and str(number).isdecimal():
            return int(number)
    for token in opened.json("tokenizer.json").get("added_tokens") or ():
        if isinstance(token, Mapping) and token.get("content") == text and isinstance(token.get("id"), int):
            return int(token["id"])
    return None
