"""The table of defects: each is a sound folder broken by a short recipe, and what the command must say about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.checkpoints.case import Case

Recipe = Callable[[Case], None]

BUILD = ("build", "{model}", "-o", "{out}", "--quant", "q8_0", "--no-verify", "--device", "cpu")
BUILD_ADAPTER = (*BUILD, "--adapter", "{adapter}")
CONVERT = ("convert", "{model}", "-o", "{out}", "--device", "cpu")
MERGE = ("merge", "{model}", "--adapter", "{adapter}", "-o", "{out}", "--device", "cpu")
QUANTIZE = ("quantize", "{gguf}", "-o", "{out}", "--quant", "q8_0")
PACKAGE = ("package", "{gguf}", "-o", "{out}")


@dataclass(frozen=True)
class Base:
    """The sound checkpoint to begin with: ``make_checkpoint``'s kind and options over a tiny shape.

    ``works`` is a command that succeeds before anything is broken.
    """

    kind: str = "llama3-untied"
    options: Mapping[str, Any] = field(default_factory=dict)
    works: tuple[str, ...] = BUILD_ADAPTER


PLAIN = Base()
SHARDED = Base(options={"shards": 3})
BINARY = Base(options={"binary": True})
QWEN2 = Base("qwen2")
TIED = Base("llama3-tied")
GEMMA2, QWEN3 = Base("gemma2"), Base("qwen3")
MIXTRAL, QWEN = Base("mixtral"), Base("qwen", options={"hidden": 128}, works=CONVERT)
# Rows of 256, the block of the K-quants and IQ types.
WIDE = Base(options={"hidden": 256, "intermediate": 256, "layers": 1})
BASES = (PLAIN, SHARDED, BINARY, QWEN2, TIED, WIDE, GEMMA2, QWEN3, MIXTRAL, QWEN)


@dataclass(frozen=True)
class Defect:
    """One bad input.

    Attributes:
        id: of the test.
        breaks: the recipe.
        command: to run; ``{model}``, ``{adapter}``, ``{gguf}``, ``{out}`` stand for the case's paths.
        error: texts that the error line has: the file, the tensor, what is wrong.
        hint: text that the hint line has; empty where any hint will do.
        base: the checkpoint to begin with.
    """

    id: str
    breaks: Recipe
    command: tuple[str, ...]
    error: tuple[str, ...]
    hint: str
    base: Base


DEFECTS: list[Defect] = []


def defect(
    *error: str, hint: str = "", command: Sequence[str] = BUILD, base: Base = PLAIN, id: str = ""
) -> Callable[[Recipe], Recipe]:
    """Enter the decorated recipe into the table, under its own name unless *id* is given."""

    def enter(recipe: Recipe) -> Recipe:
        name = id or recipe.__name__.replace("_", "-")
        DEFECTS.append(Defect(name, recipe, tuple(command), error, hint, base))
        return recipe

    return enter


def request(id: str, *error: str, hint: str = "", command: Sequence[str], base: Base = PLAIN) -> None:
    """Enter a request that is wrong by itself: the folders are sound."""
    defect(*error, hint=hint, command=command, base=base, id=id)(lambda case: None)
