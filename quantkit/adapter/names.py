"""Maps the keys of an adapter file to the names of the base's tensors.

PEFT writes ``base_model.model.`` and the module's path in the model that was trained. That model may have been wrapped
(torch.compile, FSDP, DDP, PEFT in PEFT), or be another class around the same decoder: with a vision tower, or without
an output head. A closed table lists the possible prefixes, and each is tried against the base's tensors: exactly one
must explain the file, or the file is refused. A module of any other name that holds the whole model counts if none of
them explains as much. A wrong guess would give an adapter that does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.adapter.config import is_target
from quantkit.checkpoint.name_tables import VISION
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.checkpoint.tensor_names import bare, holder
from quantkit.errors import AdapterError
from quantkit.files.visible import visible

# The parts of a vision-language model since transformers 4.52, and before.
_SINCE_4_52 = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
# The other parts, of which the names in the base are :func:`quantkit.checkpoint.name_tables.vision_name`'s.
_OTHER_PARTS = tuple(part for part in VISION if part != "vision_tower.")


def _trained_whole(language: str, tower: str) -> tuple[tuple[str, str], ...]:
    """The prefixes of a vision-language model that was trained as a whole, if the base is read with its vision part."""
    return ((language, "model."), (tower, "vision_tower."), *((f"model.{part}", part) for part in _OTHER_PARTS))


# Prefixes of the paths in the adapter and in the base.
READINGS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("", ""),),
    tuple((f"model.{part}", part) for part in VISION),  # a base that has only the language model inside
    _trained_whole("model.language_model.", "model.vision_tower."),  # a vision-language model
    _trained_whole("model.language_model.", "model.vision_tower.vision_model."),  # before transformers 5
    _trained_whole("model.text_model.", "model.vision_tower."),  # Idefics 3 and SmolVLM
    (("language_model.", ""),),  # before transformers 4.52
    (("language_model.", "model."),),  # a vision-language model without an output head (AutoModel)
    (("language_model.", ""), ("vision_tower.vision_model.", "vision_tower.")),
    (("", "model."),),  # trained without an output head (AutoModel)
    (("", "transformer."),),
    (("model.", "backbone."),),  # Nemotron-H, whose checkpoints have another name than its model in transformers
    (("", "backbone."),),
    (("model.", "model.language_model."),),  # the base is the vision-language model
    (("", "language_model."),),
    (("lm_head.", "embed_out."),),  # GPT-NeoX in transformers 5
    _SINCE_4_52,  # both are vision-language models, and the base is older
    tuple((before, since) for since, before in _SINCE_4_52),  # or the adapter is
)
# The modules of a vision-language model other than its language model.
_VISION = re.compile(rf"(model\.)?({'|'.join(map(re.escape, VISION))})")
# Libraries that write adapters in their own layout, by the keys they use.
_TORCHTUNE = re.compile(r"(layers\.\d+\.(attn|mlp)|output|tok_embeddings)\..*\b(lora_a|lora_b|magnitude)\b.*")
_MLX = re.compile(r".*\.(lora_a|lora_b)")
_TORCHTUNE_HINT = "give the epoch's folder with adapter_model.safetensors, which torchtune writes for PEFT"
_MLX_HINT = "fuse it with mlx_lm.fuse --dequantize, and build from that folder"
# The same libraries by the names of their files.
OTHER_FILES = (
    ("adapter_[0-9]*.pt", "torchtune", _TORCHTUNE_HINT),
    ("adapter_model.pt", "torchtune", _TORCHTUNE_HINT),
    ("adapters.safetensors", "MLX", _MLX_HINT),
    ("lit_model.pth.lora*", "LitGPT", "merge it with litgpt merge_lora, convert it back, and build from that folder"),
)


@dataclass(frozen=True)
class Names:
    """How an adapter file names the base's tensors.

    Attributes:
        bare: by key of the file, the same key without the names of wrappers.
        prefixes: pairs of a path prefix in the model that was trained and the prefix in the base.
        holder: the path of the base in the module that was trained, with its dot, if no table has that module.
    """

    bare: Mapping[str, str]
    prefixes: tuple[tuple[str, str], ...] = (("", ""),)
    holder: str = ""

    def notes(self, path: Path) -> list[str]:
        """What the user should know about the names in the adapter's folder *path*."""
        return [f"{path.name} was trained in a module that holds the model as {self.holder[:-1]!r}"] * bool(self.holder)

    def in_training(self, name: str) -> str | None:
        """The name that the base's tensor *name* had in the model that was trained; None if it had no such tensor."""
        for own, base in self.prefixes:
            if name.startswith(base):
                return own + name.removeprefix(base)
        return None if any(name.startswith(own) for own, _ in self.prefixes) else name

    def in_base(self, name: str) -> str:
        """The name in the base of a tensor of the model that was trained."""
        for own, base in self.prefixes:
            if name.startswith(own):
                return base + name.removeprefix(own)
        return name


def read_names(path: Path, keys: Iterable[str], base: Iterable[str]) -> Names:
    """Find the one reading that explains an adapter's keys.

    Keys that belong to no module of the base under any reading are left as they are: the method decides about them.

    Args:
        path: the adapter's folder, for errors.
        keys: the keys of its file.
        base: names of the base's tensors.

    Raises:
        AdapterError: two readings explain the file, or it is in another library's layout.
    """
    plain = {key: bare(key) for key in keys}
    _refuse_other_layouts(path, plain)
    modules = {name.rpartition(".")[0] for name in base}
    readings = [Names(plain, prefixes) for prefixes in READINGS]
    explained = [sum(_has_owner(names.in_base(name), modules) for name in plain.values()) for names in readings]
    for prefix in holder(plain.values(), lambda name: _has_owner(name, modules)):
        held = Names(plain, ((prefix, ""),), prefix)
        if sum(_has_owner(held.in_base(name), modules) for name in plain.values()) > max(explained):
            return held
    best = [names for names, count in zip(readings, explained, strict=True) if count == max(explained)]
    for other in best[1:] if max(explained) else ():
        for key, name in plain.items():
            one, two = best[0].in_base(name), other.in_base(name)
            if one != two and (_has_owner(one, modules) or _has_owner(two, modules)):
                raise AdapterError(
                    f"{path}: {key!r} may belong to {one!r} or to {two!r}: the base model has both",
                    hint="save the adapter from the model that you give as the base",
                )
    return best[0]


def refuse_vision(path: Path, names: Names) -> None:
    """Refuse an adapter that changes the vision part, which is not written.

    Raises:
        AdapterError: the adapter changes the vision part.
    """
    for key, name in names.bare.items():
        if _VISION.match(name):
            raise AdapterError(
                f"{path}: {key!r} changes the vision part of the model, but only the language model is converted",
                hint="pass --mmproj to write the vision part too, or train only the language model; or write the whole "
                "merged model with quantkit merge",
            )


def without_other_parts(
    path: Path, names: Names, config: Mapping[str, Any], base: Mapping[str, TensorSpec]
) -> tuple[Mapping[str, TensorSpec], list[str]]:
    """The tensors of *base* that may have been trained, and notes: without the vision part if the file has none of it.

    An adapter that was trained on the language model alone, or with the vision part frozen, may name modules that the
    vision part has too, such as ``q_proj``.
    """
    if any(_VISION.match(name) for name in names.bare.values()):
        return base, []
    language = {name: spec for name, spec in base.items() if not _VISION.match(name)}
    named = [name for name, spec in base.items() if name not in language and len(spec.shape) == 2]
    if not any(is_target(config, name.removesuffix(".weight")) for name in named):
        return language, []
    return language, [f"{path.name} has no weights for the vision part, which stays as it is in the base model"]


def as_trained(
    path: Path, keys: Collection[str], base: Mapping[str, TensorSpec], guessing: str
) -> Mapping[str, TensorSpec]:
    """The base's tensors in training: transformers has no layer for multi-token prediction, other trainers may.

    Args:
        path: the adapter's folder, for errors.
        keys: of its file.
        base: the base's tensors.
        guessing: what the names of that layer start with.

    Raises:
        AdapterError: the adapter changes the layer, which is not written.
    """
    if (key := next((key for key in keys if f".{guessing}" in f".{key}"), None)) is None:
        return {name: spec for name, spec in base.items() if not name.startswith(guessing)}
    if not any(name.startswith(guessing) for name in base):
        raise AdapterError(
            f"{path}: {key!r} changes a layer for multi-token prediction, which is not written",
            hint="use a base that has the layer and leave out --mtp drop, or train without it",
        )
    return base


def refuse_other_files(path: Path) -> None:
    """Refuse a folder whose weights are in another library's file, and name the library.

    Raises:
        AdapterError: the folder has such a file.
    """
    for pattern, library, hint in OTHER_FILES:
        for file in visible(path, pattern):
            raise AdapterError(f"{file}: this adapter is in {library}'s own layout, not in PEFT's", hint=hint)


def _has_owner(name: str, modules: set[str]) -> bool:
    """Whether a module of the base contains *name*."""
    while name:
        name = name.rpartition(".")[0]
        if name in modules:
            return True
    return False


def _refuse_other_layouts(path: Path, bare: Mapping[str, str]) -> None:
    for key, name in bare.items():
        if _TORCHTUNE.fullmatch(name):
            raise AdapterError(
                f"{path}: {key!r} is in torchtune's own layout, which orders the rows of q and k differently",
                hint=_TORCHTUNE_HINT,
            )
        if _MLX.fullmatch(name):
            raise AdapterError(
                f"{path}: {key!r} is in MLX's layout, not in PEFT's",
                hint=_MLX_HINT,
            )
