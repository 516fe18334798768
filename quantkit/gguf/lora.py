"""LoRA files of llama.cpp: which matrices of a GGUF model one changes, and by how much.

A matrix ``NAME`` has two factors, ``NAME.lora_a`` [r, in] and ``NAME.lora_b`` [out, r], and llama.cpp computes
``W + scale * alpha / r * B @ A``; without an alpha, ``W + scale * B @ A``. Of the embedding it looks up rows of A
[vocabulary, r], and B is [in, r]. Stacked experts have stacked factors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from quantkit.errors import GGUFError
from quantkit.gguf.header import EMBEDDING, OUTPUT, TensorInfo
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.system.shell import command

_A, _B = ".lora_a", ".lora_b"
_OTHER_BASE = "give the GGUF file of the model that it was trained on"


@dataclass(frozen=True)
class ScaledLora:
    """A LoRA file, and how much of it is wanted.

    Attributes:
        path: the file.
        scale: 1 for what was trained.
    """

    path: Path
    scale: float = 1.0

    def __str__(self) -> str:
        return str(self.path) if self.scale == 1 else f"{self.path}:{self.scale:g}"


def parse_lora(text: str) -> ScaledLora:
    """``FILE`` or ``FILE:SCALE``; a file whose own name ends like that comes first."""
    path, colon, scale = text.rpartition(":")
    if not colon or not path or os.path.exists(text):
        return ScaledLora(Path(text))
    try:
        factor = float(scale)
    except ValueError:
        return ScaledLora(Path(text))
    return ScaledLora(Path(path), factor)


def lora_names(loras: Sequence[ScaledLora], taken: Collection[str] = ()) -> tuple[str, ...]:
    """A name for each file: its own without ``.gguf``, and with a number where that is taken."""
    names: list[str] = []
    for lora in loras:
        stem = lora.path.name.removesuffix(".gguf")
        tries = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        names.append(next(name for name in tries if name not in names and name not in taken))
    return tuple(names)


@dataclass(frozen=True)
class Lora:
    """A LoRA file, read from its header.

    Attributes:
        model: the file.
        scale: how much of it is wanted.
        alpha: the file's; 0 for none.
        factors: A and B, by the name of the matrix.
    """

    model: GGUFModel
    scale: float
    alpha: float
    factors: Mapping[str, tuple[TensorInfo, TensorInfo]]

    def factor(self, name: str) -> float:
        """What the product of a matrix's factors is multiplied by."""
        rank = self.factors[name][1].shape[-1]
        return self.scale * self.alpha / rank if self.alpha else self.scale


def read_lora(source: ScaledLora) -> Lora:
    """Read a LoRA file's header.

    Raises:
        GGUFError: it is something else, or has what llama.cpp would pass over.
    """
    path = source.path
    model = read_model(path)
    if model.value("general.type") != "adapter" or model.value("adapter.type") != "lora":
        raise GGUFError(
            f"{path}: this is not a LoRA file",
            hint="make one of an adapter's folder: quantkit build MODEL --adapter DIR --adapter-gguf",
        )
    if not math.isfinite(source.scale) or source.scale == 0:
        raise GGUFError(f"{path}: the scale {source.scale:g} changes nothing", hint=f"write {path}:0.5 for half of it")
    if "adapter.alora.invocation_tokens" in model.header.metadata:
        raise GGUFError(
            f"{path}: this is an activated LoRA, which only counts after its invocation tokens",
            hint="give it to llama.cpp: llama-server -m BASE.gguf --lora FILE",
        )
    tensors = model.header.tensors
    names = [name.removesuffix(_B) for name in tensors if name.endswith(_B)]
    for name in tensors:
        if not name.endswith((_A, _B)):
            raise GGUFError(
                f"{path}: tensor {name!r} is not a LoRA factor, so llama.cpp would pass over it",
                hint="merge the adapter's folder: quantkit build MODEL --adapter DIR",
            )
        whole = name.removesuffix(_A).removesuffix(_B)
        if not {whole + _A, whole + _B} <= tensors.keys():
            raise GGUFError(f"{path}: {whole} has only one of its two factors")
    if not names:
        raise GGUFError(f"{path}: there is no LoRA in it")
    alpha = model.value("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise GGUFError(f"{path}: adapter.lora.alpha is {alpha!r}; expected a number")
    return Lora(model, source.scale, alpha, {name: (tensors[name + _A], tensors[name + _B]) for name in names})


def check_fits(lora: Lora, base: GGUFModel) -> None:
    """Refuse a LoRA file that was made for another model.

    Raises:
        GGUFError: naming what does not fit.
    """
    path, own = lora.model.path, base.value("general.architecture")
    if (other := lora.model.value("general.architecture")) != own:
        raise GGUFError(f"{path}: is for the architecture {other}, but {base.path} is {own}", hint=_OTHER_BASE)
    for name, (a, b) in lora.factors.items():
        info = base.header.tensors.get(name)
        if info is None:
            raise GGUFError(f"{path}: changes {name}, which {base.path} does not have", hint=_OTHER_BASE)
        if name == EMBEDDING and OUTPUT not in base.header.tensors:
            raise GGUFError(
                f"{path}: changes {EMBEDDING}, which is also the output head of {base.path}, and llama.cpp would apply "
                "it to one of them only",
                hint="merge the adapter's folder: quantkit build MODEL --adapter DIR",
            )
        if _product(name, a, b) != _without_ones(info.shape):
            raise GGUFError(
                f"{path}: the factors of {name} have the shapes {list(a.shape)} and {list(b.shape)}, which do not make "
                f"{list(info.shape)}",
                hint=f"{_OTHER_BASE}; see their shapes: {command('quantkit', 'inspect', path)}",
            )


def check_loras(base: GGUFModel, loras: Sequence[ScaledLora]) -> None:
    """Refuse LoRA files that are broken, or were made for another model.

    Raises:
        GGUFError: naming the file and what is wrong.
    """
    for lora in loras:
        check_fits(read_lora(lora), base)


def _product(name: str, a: TensorInfo, b: TensorInfo) -> tuple[int, ...] | None:
    """The shape of the matrix that two factors make; None if they do not fit each other."""
    left, right = _without_ones(a.shape), _without_ones(b.shape)
    if name == EMBEDDING:
        return (left[0], right[0]) if len(left) == len(right) == 2 and left[1] == right[1] else None
    if len(left) < 2 or len(left) != len(right) or left[:-2] != right[:-2] or left[-2] != right[-1]:
        return None
    return (*right[:-1], left[-1])


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without outermost ones, which ggml drops; of rank-1 factors the matrix stays one."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape
