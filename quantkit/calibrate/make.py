"""Makes an importance matrix of a GGUF model in a process of its own, and goes on with an unfinished one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.calibrate.crash import calibration_crash
from quantkit.calibrate.experts import FewTokens, expert_notes, few_tokens
from quantkit.calibrate.imatrix_file import Progress, read_progress, read_sums
from quantkit.errors import OutputError, QuantkitError
from quantkit.files.workspace import workspace
from quantkit.gguf.fingerprint import fingerprint
from quantkit.gguf.model import read_model
from quantkit.material.tokens import Tokens
from quantkit.system.child_process import ChildError, follow_module
from quantkit.system.progress import Reporter

CONTEXT = 512
"""Tokens of a chunk, where nothing else is asked for: llama-imatrix's."""

_WORKER = "quantkit.calibrate.worker"
_SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Calibration:
    """A finished importance matrix.

    Attributes:
        file: where it is.
        data: name of the text's file.
        data_sha256: of the text's file.
        tokens: that were evaluated.
        context: tokens of a chunk.
        chunks: how many chunks.
        tensors: how many tensors have importances.
        few: experts that saw few tokens.
        offloaded: layers that were on a GPU.
        begun_at: chunks that an earlier run had done.
    """

    file: Path
    data: str
    data_sha256: str
    tokens: int
    context: int
    chunks: int
    tensors: int
    few: tuple[FewTokens, ...]
    offloaded: int
    begun_at: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "file": self.file.name, "few": [asdict(one) for one in self.few]}


def make_imatrix(
    gguf: Path,
    tokens: Tokens,
    out: Path,
    *,
    context: int = CONTEXT,
    chunks: int | None = None,
    threads: int | None = None,
    n_gpu_layers: int = -1,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    ray: str | None = None,
) -> Calibration:
    """Write the importance matrix of a model, with the values that llama-imatrix computes from the same tokens.

    If *out* is an unfinished matrix of the same model, tokens and context, it is continued; the result is the same.

    Args:
        gguf: the model, the first part of a split one; a quantized one gives importances of that one.
        tokens: in the model's own vocabulary, see :func:`quantkit.material.ask.tokens_of`.
        out: the file to write; its folder is created.
        context: tokens of a chunk.
        chunks: how many chunks at most; None for the whole text.
        threads: CPU threads, None for the processors that are free.
        n_gpu_layers: layers to put on a GPU, -1 for all; no effect in a build without GPU support.
        overwrite: replace *out*, and begin again.
        reporter: receives the progress, and notes.
        ray: address of a Ray cluster whose nodes have the model under the same path, and divide the text.

    Raises:
        QuantkitError: too few tokens, a broken model, values that are not finite, or *out* is another file.
        KeyboardInterrupt: at Ctrl-C; what is done is then in *out*.
    """
    reporter = reporter or Reporter()
    whole = _chunks(tokens, context, chunks)
    plan = Progress(
        0, whole, context, replace(tokens, ids=tokens.ids[: whole * context]).ids_sha256, fingerprint(read_model(gguf))
    )
    begun = None if overwrite else _begun(out, plan, reporter)
    plan = plan if begun is None else begun
    with (
        workspace(out, overwrite=overwrite or begun is not None, inputs=[gguf], file=True) as work,
        reporter.phase("calibrating", whole, "chunks") as advance,
    ):
        told = _Told(work.path / "imatrix", work.final, plan, reporter, advance)
        question = {
            "gguf": str(gguf),
            "out": str(told.temporary),
            "begun": None if begun is None else str(out),
            "progress": asdict(plan),
            "ids": list(tokens.ids[: whole * context]),
            "data": tokens.name,
            "threads": threads,
            "n_gpu_layers": n_gpu_layers,
            "save_seconds": _SAVE_SECONDS,
        }
        try:
            if ray is None:
                _compute_here(gguf, question, told)
            else:
                from quantkit.calibrate.spread import compute_spread

                compute_spread(ray, question, told, reporter)
        except KeyboardInterrupt:
            told.publish()
            raise
        told.publish()
    sums = read_sums(out)
    few = few_tokens(sums)
    for note in expert_notes(few):
        reporter.note(note)
    return Calibration(
        file=out,
        data=tokens.name,
        data_sha256=tokens.sha256,
        tokens=whole * context,
        context=context,
        chunks=whole,
        tensors=len(sums),
        few=few,
        offloaded=told.offloaded,
        begun_at=plan.done,
    )


def _compute_here(gguf: Path, question: dict[str, Any], told: Callable[[dict[str, int]], None]) -> None:
    try:
        follow_module(_WORKER, question, told)
    except ChildError as error:
        raise calibration_crash(gguf, error) from None


def _chunks(tokens: Tokens, context: int, chunks: int | None) -> int:
    """How many chunks there are.

    Raises:
        QuantkitError: there are none, or none is asked for.
    """
    if context < 16 or (chunks is not None and chunks < 1):
        raise QuantkitError("--ctx must be at least 16 and --chunks at least 1", hint="leave them out: --ctx 512")
    whole = len(tokens.ids) // context
    if not whole:
        raise QuantkitError(
            f"{tokens.name}: {len(tokens.ids)} tokens, and a chunk has {context}",
            hint="give more text, or a smaller --ctx",
        )
    return whole if chunks is None else min(chunks, whole)


def _begun(out: Path, plan: Progress, reporter: Reporter) -> Progress | None:
    """The unfinished matrix in *out*, None if there is none.

    Raises:
        OutputError: it is of another model or text.
    """
    found = read_progress(out) if out.is_file() else None
    if found is None:
        return None
    names = {"model": "model", "tokens": "text", "context": "--ctx", "chunks": "--chunks"}
    other = [word for field, word in names.items() if getattr(found, field) != getattr(plan, field)]
    if other:
        raise OutputError(
            f"{out}: an unfinished importance matrix with another {other[0]}",
            hint="choose another output path, or pass --overwrite to begin again",
        )
    reporter.note(f"{out} has {found.done} of {found.chunks} chunks; continued with chunk {found.done + 1}")
    return found


class _Told:
    """Hears what the worker says, and moves what it has written to its place."""

    def __init__(self, temporary: Path, final: Path, plan: Progress, reporter: Reporter, advance: Any) -> None:
        self.temporary, self.offloaded = temporary, 0
        self._final, self._plan, self._reporter, self._advance = final, plan, reporter, advance
        self._done = 0

    def __call__(self, said: dict[str, int]) -> None:
        if "trained" in said:
            self.offloaded = said["offloaded"]
            if self._plan.context > said["trained"]:
                self._reporter.note(
                    f"chunks of {self._plan.context} tokens, but the model was trained on {said['trained']}"
                )
        done = said.get("chunks", self._done) if "trained" not in said else self._plan.done
        self._advance(done - self._done)
        self._done = done
        if "saved" in said:
            self.publish()

    def publish(self) -> None:
        """Move the file to its place, if the worker has written one; an earlier one is replaced."""
        if self.temporary.exists():
            os.replace(self.temporary, self._final)
