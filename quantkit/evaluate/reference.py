"""The reference of an evaluation: its logits, computed once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantkitError
from quantkit.evaluate.cache import Work, key_of, open_work
from quantkit.evaluate.figures import Mean, reference_perplexity
from quantkit.evaluate.logits_file import read_losses
from quantkit.evaluate.process import Runner, TextTask
from quantkit.evaluate.speed import Speed
from quantkit.evaluate.text import Text
from quantkit.gguf.model import read_whole_model


@dataclass(frozen=True)
class Reference:
    """A reference whose logits are on the disk.

    Attributes:
        task: where they are, for those who compare with them.
        work: the temporary folder that they are in.
        perplexity: of the reference on the text.
        nbytes: bytes of its logits.
        reused: whether an earlier evaluation had computed them.
        kept: whether the next one can use them.
        speed: how fast the file is; None where that was not asked for.
    """

    task: TextTask
    work: Work
    perplexity: Mean
    nbytes: int
    reused: bool
    kept: bool
    speed: Speed | None


@contextmanager
def open_reference(
    gguf: Path, text: Text, runner: Runner, *, speed: bool, home: Path | None = None
) -> Iterator[Reference]:
    """Compute a reference's logits, or find those of an earlier evaluation.

    Args:
        gguf: the reference.
        text: what is evaluated.
        runner: how files are run.
        speed: measure its speed too.
        home: the folder of the kept logits, None for that in the user's cache.

    Raises:
        QuantkitError: it cannot be loaded or evaluated, or there is no place for its logits.
    """
    ids = np.array(text.tokens.ids[: text.used], dtype=np.int32)
    model = read_whole_model(gguf)
    sha256 = text.tokens.ids_sha256
    key = key_of(model, sha256, text.context, text.chunks, runner.n_gpu_layers, runner.kind)
    with open_work(home) as work:
        np.save(work.path / "ids.npy", ids)
        found = work.find(key)
        losses = None if found is None else _losses(found)
        if found is not None and losses is None:
            work.drop(key)
        logits = found if found is not None and losses is not None else work.path / "logits"
        task = TextTask(work.path / "ids.npy", sha256, text.context, text.chunks, logits)
        reused = losses is not None
        measured = None
        if losses is None or speed:
            measured = runner.keep(gguf, None if reused else task, speed=speed)
        kept = reused
        if losses is None:
            losses = read_losses(logits)
            kept = work.keep(key, logits)
        yield Reference(task, work, reference_perplexity(losses), logits.stat().st_size, reused, kept, measured)


def _losses(path: Path) -> npt.NDArray[np.float32] | None:
    """Those of a kept file; None if it is damaged."""
    try:
        return read_losses(path)
    except (QuantkitError, OSError):
        return None
