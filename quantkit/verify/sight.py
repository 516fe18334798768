"""Does a model see? Shows it two pictures through libmtmd, in a process of its own, and compares what it answers to.

The file must load beside the model, and the logits after a prompt with a picture must be numbers that depend on the
picture. What it says about it is kept as evidence.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import GGUFError, QuantkitError
from quantkit.gguf.model import read_model
from quantkit.system.child_process import ChildError, ask_module
from quantkit.verify.report import Check, crashed

SEES = "sees"
"""The name of the check."""

WORKER = "quantkit.verify.sight_worker"


@dataclass(frozen=True)
class Looked:
    """What a process found when it showed a model two pictures.

    Attributes:
        tokens: places that a picture takes.
        finite: whether all logits after it are numbers.
        moved: by how much the logits after the other picture differ, relative to the largest.
        answer: how the model goes on.
    """

    tokens: int
    finite: bool
    moved: float
    answer: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def require_files(mmproj: Path | None, image: Path | None) -> None:
    """Refuse files that are not there, and an mmproj file that is none: they are errors, not models that see nothing.

    Raises:
        QuantkitError: with the file's name.
    """
    if mmproj is not None and read_model(mmproj).value("general.architecture", "") != "clip":
        raise GGUFError(f"{mmproj}: not an mmproj file", hint="give the file that quantkit build --mmproj writes")
    if image is not None and not os.path.isfile(image):
        raise QuantkitError(f"{image}: no such file", hint="give a JPEG or PNG file")


def check_sight(gguf: Path, mmproj: Path, threads: int | None = None, image: Path | None = None) -> list[Check]:
    """Show a model pictures; what goes wrong, even a crash, is a failed check.

    Args:
        gguf: the language model.
        mmproj: what it sees with.
        threads: CPU threads, None for the processors that are free.
        image: a picture to show it, None for stripes; the other one is black.
    """
    asked = {"gguf": str(gguf), "mmproj": str(mmproj), "threads": threads, "image": image and str(image)}
    try:
        answer = ask_module(WORKER, asked)
        looked = Looked(**answer)
    except ChildError as error:
        return [crashed(error)]
    except QuantkitError as error:
        return [Check(SEES, False, "no", "shows a picture", str(error))]
    sound = looked.finite and looked.moved > 0
    figure = f"{looked.tokens} tokens a picture" if looked.finite else "NaN or infinite"
    evidence = f"another picture moves the logits by {looked.moved:.2g} of the largest; it says {looked.answer!r}"
    return [Check(SEES, sound, figure, "logits that depend on the picture", evidence)]
