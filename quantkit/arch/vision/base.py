"""Building blocks of the vision files: what a checkpoint that also sees becomes beside its language model.

llama.cpp keeps the encoder of pictures and the projection into the language model's width in a file of its own, the
*mmproj* file, whose architecture is ``clip``. A vision family answers as a language family does: metadata, a rule for
each tensor, and a refusal for each setting that llama.cpp's libmtmd does not compute. The checkpoint's names are those
of :func:`quantkit.checkpoint.name_tables.vision_name`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from quantkit.arch.base import Config, Rule, number, positive, require
from quantkit.arch.decoder import linear
from quantkit.errors import ArchitectureError
from quantkit.ggml.types import GGMLType
from quantkit.gguf.kv import KV, KVType, array, boolean, f32, string, u32

ARCHITECTURE = "clip"
_WHERE = "config.json: vision_config"
PICTURES = "preprocessor_config.json"
_COLORS = 3


@dataclass(frozen=True)
class Sight:
    """What describes the vision part of a checkpoint.

    Attributes:
        config: config.json, as it was saved.
        vision: its ``vision_config``, with the defaults of its class.
        hidden: width of the language model.
        rows: rows of the language model's embedding.
        pictures: how a picture is prepared: preprocessor_config.json, and over it processor_config.json.
        token: the id of an added token by its text; None if the tokenizer has no such token.
    """

    config: Config
    vision: Config
    hidden: int
    rows: int
    pictures: Config
    token: Callable[[str], int | None] = lambda text: None

    def size(self, key: str) -> int:
        """A positive whole number of ``vision_config``."""
        with _named_inside():
            return positive(self.vision, key)

    def number(self, key: str) -> float:
        """A number of ``vision_config``."""
        with _named_inside():
            return number(self.vision, key)

    def require(self, key: str, *values: Any) -> None:
        """As :func:`quantkit.arch.base.require`, for ``vision_config``."""
        require(self.vision, key, *values, where=_WHERE)


@contextmanager
def _named_inside() -> Iterator[None]:
    """Errors say that the setting is one of ``vision_config``."""
    try:
        yield
    except ArchitectureError as error:
        raise ArchitectureError(str(error).replace("config.json: ", f"{_WHERE}.", 1), hint=error.hint) from None


@dataclass(frozen=True)
class VisionTower:
    """A family of vision parts.

    Attributes:
        metadata: function to the entries ``clip.*``.
        rules: function to the tensors of the mmproj file.
        defaults: what the class of ``vision_config`` fills in for settings that config.json leaves out.
        unused: beginnings of the names of tensors that the graph does not use.
        notes: where llama.cpp sees otherwise than the original model.
    """

    metadata: Callable[[Sight], list[KV]]
    rules: Callable[[Sight], list[Rule]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """Sizes of an encoder of pictures.

    Attributes:
        width: of its residual stream.
        inner: width inside its MLP.
        blocks: number of its layers.
        heads: of attention.
        image: pixels of a side of a picture.
        patch: pixels of a side of a patch.
    """

    width: int
    inner: int
    blocks: int
    heads: int
    image: int
    patch: int

    @property
    def side(self) -> int:
        """Patches on a side of a picture."""
        return self.image // self.patch


def encoder(
    sight: Sight,
    *,
    width: str = "hidden_size",
    inner: str = "intermediate_size",
    blocks: str = "num_hidden_layers",
    heads: str = "num_attention_heads",
    image: int | None = None,
) -> Encoder:
    """The sizes in a ``vision_config``, by the names of its settings.

    Raises:
        ArchitectureError: one is missing, or they do not fit together.
    """
    sight.require("num_channels", _COLORS)
    found = Encoder(
        width=sight.size(width),
        inner=sight.size(inner),
        blocks=sight.size(blocks),
        heads=sight.size(heads),
        image=image if image is not None else sight.size("image_size"),
        patch=sight.size("patch_size"),
    )
    if found.width % found.heads:
        raise ArchitectureError(f"{_WHERE}.{width} {found.width} is not a multiple of {found.heads} attention heads")
    if found.image % found.patch:
        raise ArchitectureError(f"{_WHERE}.image_size {found.image} is not a multiple of patch_size {found.patch}")
    return found


def encoder_metadata(
    sight: Sight,
    size: Encoder,
    projector: str,
    epsilon: float,
    *,
    pictures: Config | None = None,
    beside_audio: bool = False,
) -> list[KV]:
    """The entries that every mmproj file for pictures has.

    Args:
        sight: what describes the checkpoint.
        size: sizes of the encoder.
        projector: llama.cpp's name for the family.
        epsilon: of the encoder's norms.
        pictures: how pictures are prepared, if other settings say the same as those of *sight*.
        beside_audio: the family may have an encoder of audio in the same file, with a projector of its own.

    Raises:
        ArchitectureError: pictures are prepared in a way that libmtmd does not have.
    """
    pictures = sight.pictures if pictures is None else pictures
    _require_plain_pictures(pictures)
    return [
        boolean("clip.has_vision_encoder", True),
        u32("clip.vision.projection_dim", sight.hidden),
        u32("clip.vision.image_size", size.image),
        u32("clip.vision.patch_size", size.patch),
        u32("clip.vision.embedding_length", size.width),
        u32("clip.vision.feed_forward_length", size.inner),
        u32("clip.vision.block_count", size.blocks),
        u32("clip.vision.attention.head_count", size.heads),
        array("clip.vision.image_mean", _colors(pictures, "image_mean"), KVType.FLOAT32),
        array("clip.vision.image_std", _colors(pictures, "image_std"), KVType.FLOAT32),
        string("clip.vision.projector_type" if beside_audio else "clip.projector_type", projector),
        f32("clip.vision.attention.layer_norm_epsilon", epsilon),
    ]


def _require_plain_pictures(pictures: Config) -> None:
    """libmtmd always scales to 0..1 and normalizes, and every family resizes."""
    for key in ("do_rescale", "do_normalize", "do_resize"):
        require(pictures, key, True, where=PICTURES)
    factor = pictures.get("rescale_factor")
    if factor is not None and abs(number(pictures, "rescale_factor", PICTURES) * 255 - 1) > 1e-6:
        raise ArchitectureError(f"{PICTURES}: rescale_factor {factor!r} is not supported: llama.cpp divides by 255")


def _colors(pictures: Config, key: str) -> list[float]:
    """Three numbers, one for each color."""
    value = pictures.get(key)
    if not isinstance(value, list) or len(value) != _COLORS:
        raise ArchitectureError(
            f"{PICTURES}: {key} is {value!r}; expected a list of {_COLORS} numbers",
            hint=f"copy {PICTURES} from the base model into the folder" if value is None else "",
        )
    return [number({key: item}, key, PICTURES, above=0 if key == "image_std" else float("-inf")) for item in value]


def activation(sight: Sight, kinds: Mapping[str, str]) -> list[KV]:
    """The entry for the activation of the encoder's MLP.

    Args:
        sight: what describes the checkpoint.
        kinds: by ``hidden_act``, ``gelu``, ``silu``, or empty for libmtmd's default, the quick GELU.

    Raises:
        ArchitectureError: it is another one.
    """
    sight.require("hidden_act", *kinds)
    named = sight.vision.get("hidden_act")
    if not isinstance(named, str) or named not in kinds:
        raise ArchitectureError(f"{_WHERE}.hidden_act is {named!r}; expected {' or '.join(kinds)}")
    kind = kinds[str(named)]
    return [boolean(f"clip.use_{kind}", True)] if kind else []


def in_blocks(size: Encoder, source: str, rules: Iterable[Rule]) -> list[Rule]:
    """The tensors of every layer, from those of one, whose names are relative to the layer.

    Args:
        size: sizes of the encoder.
        source: beginning of a layer's names in the checkpoint, with ``{}`` for its number.
        rules: the tensors of one layer; every rule has one source.
    """
    one_layer = tuple(rules)
    return [
        replace(rule, source=source.format(i) + str(rule.source), target=f"v.blk.{i}.{rule.target}")
        for i in range(size.blocks)
        for rule in one_layer
    ]


def norm(source: str, target: str, size: int, *, bias: bool = True) -> list[Rule]:
    """The weight of a norm, and its bias with *bias*."""
    leaves = ("weight", "bias") if bias else ("weight",)
    return [Rule(f"{source}.{leaf}", f"{target}.{leaf}", (size,)) for leaf in leaves]


def fused_qkv(source: str, width: int, *, bias: bool = True) -> list[Rule]:
    """q, k and v from the thirds of one matrix, and with *bias* of one bias."""
    shapes = {"weight": (width, width), **({"bias": (width,)} if bias else {})}
    return [
        Rule(
            f"{source}.{leaf}",
            f"attn_{name}.{leaf}",
            shape,
            source_shape=(3 * width, *shape[1:]),
            row_order=(range(third * width, (third + 1) * width),),
        )
        for third, name in enumerate("qkv")
        for leaf, shape in shapes.items()
    ]


def clippable(source: str, target: str, rows: int, columns: int, *, clipped: bool) -> list[Rule]:
    """A matrix, and with *clipped* the numbers between which its inputs and its results are kept."""
    limits = [f"{side}_{end}" for side in ("input", "output") for end in ("min", "max")] if clipped else []
    return [
        *linear(f"{source}.linear", target, rows, columns),
        *(Rule(f"{source}.{name}", f"{target}.{name}", (1,), arrange=_one, source_shape=()) for name in limits),
    ]


def _one(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return value.reshape(1)


def patch_shape(size: Encoder) -> tuple[int, ...]:
    """The shape of the convolution that makes patches."""
    return (size.width, _COLORS, size.patch, size.patch)


def mmproj_type(rule: Rule, base: GGMLType) -> GGMLType:
    """The type of a tensor in an mmproj file of type *base*, as llama.cpp's converter chooses it.

    Vectors, norms and positions stay float32, and so does everything whose name does not end with ``.weight``; the
    convolution of patches is F16 or F32, because ggml has no convolution in BF16.
    """
    if rule.outtype is not None:
        return rule.outtype
    if len(rule.shape) <= 1 or rule.target.endswith("_norm.weight") or rule.target == "v.position_embd.weight":
        return GGMLType.F32
    if ".patch_embd.weight" in rule.target or ".patch_merger.weight" in rule.target:
        return GGMLType.F16 if base is GGMLType.F16 else GGMLType.F32
    return base if rule.target.endswith(".weight") else GGMLType.F32
