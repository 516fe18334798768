"""The process that evaluates one GGUF file, from inside: it loads libllama, and never torch."""

from __future__ import annotations

from quantkit.ggml.llama import begin, computing  # first: before numpy

# isort: split
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import GGUFError
from quantkit.evaluate.answers import answers
from quantkit.evaluate.logits_file import LogitsHeader, LogitsWriter, read_header, read_pieces
from quantkit.evaluate.session import EvaluatedModel
from quantkit.kernels.arithmetic import Floats
from quantkit.kernels.logit_steps import Compared
from quantkit.kernels.logits import Tokens, compare, join, pack
from quantkit.system.child_process import answer_module, tell


class Worker:
    """Answers questions; the model of the last one stays loaded, for the next one may be about it."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._of: tuple[str, int, int | None] | None = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Measure the speed of ``gguf``, keep its logits as a reference or compare them with one, or ask it ``talks``.

        Tells after each of the chunks, and each of the answers. Asked for its ``kind``, says how llama.cpp computes.
        """
        if "kind" in question:
            return {"kind": computing()}
        gguf = Path(question["gguf"])
        if question["talks"] is not None:
            self.close()
            return {"answers": answers(gguf, question)}
        model = self._model(question["gguf"], question["n_gpu_layers"], question["threads"])
        speed = asdict(model.speed()) if question["speed"] else None
        text = question["text"]
        if text is not None:
            ids = np.load(text["ids"])
            if text["keep"]:
                _keep(model, gguf, ids, Path(text["logits"]), text)
            else:
                _save(_compare(model, gguf, ids, Path(text["logits"])), Path(text["out"]))
        return {"speed": speed, "vocabulary": model.vocabulary, "trained_context": model.trained_context}

    def _model(self, gguf: str, n_gpu_layers: int, threads: int | None) -> EvaluatedModel:
        if self._of != (gguf, n_gpu_layers, threads):
            self.close()
            made = EvaluatedModel(Path(gguf), n_gpu_layers=n_gpu_layers, threads=threads)
            self._loaded = self._held.enter_context(made)
            self._of = gguf, n_gpu_layers, threads
        return self._loaded

    def close(self) -> None:
        """Free the model."""
        self._of = None
        self._held.close()


def _pieces(model: EvaluatedModel, ids: Tokens, context: int, chunks: int) -> Iterator[tuple[Floats, Tokens]]:
    """The logits of each piece, and the tokens that follow its positions."""
    half = context - 1 - context // 2
    place = 0
    for logits in model.logits(ids[: context * chunks].tolist(), context, chunks):
        chunk, within = divmod(place, half)
        start = chunk * context + context // 2 + within + 1
        place += len(logits)
        yield logits, np.ascontiguousarray(ids[start : start + len(logits)])
        if place % half == 0:
            tell(1)


def _keep(model: EvaluatedModel, gguf: Path, ids: Tokens, out: Path, text: dict[str, Any]) -> None:
    header = LogitsHeader(model.vocabulary, text["context"], text["chunks"], text["tokens"])
    with out.open("wb") as file:
        writer = LogitsWriter(file, header)
        for logits, right in _pieces(model, ids, header.context, header.chunks):
            packed = pack(logits, right, model.threads)
            _require_finite(gguf, packed.floor)
            writer.add(packed)
        writer.finish()


def _compare(model: EvaluatedModel, gguf: Path, ids: Tokens, reference: Path) -> Compared:
    parts = []
    with reference.open("rb") as file:
        header = read_header(reference, file)
        if model.vocabulary != header.vocabulary:
            raise GGUFError(
                f"{gguf}: {model.vocabulary} tokens in its vocabulary, and {header.vocabulary} in the reference's",
                hint="compare files of one vocabulary",
            )
        kept = read_pieces(reference, header, file)
        for logits, right in _pieces(model, ids, header.context, header.chunks):
            parts.append(compare(logits, right, next(kept), model.threads))
            _require_finite(gguf, parts[-1].loss)
    return join(parts)


def _save(compared: Compared, out: Path) -> None:
    np.savez(out, **asdict(compared))


def _require_finite(gguf: Path, values: Floats) -> None:
    if not bool(np.isfinite(values).all()):
        raise GGUFError(
            f"{gguf}: llama.cpp computes logits that are not numbers",
            hint="the file is damaged, or a type is too small for its weights: build it with another one",
        )


if __name__ == "__main__":
    begin()
    worker = Worker()
    try:
        answer_module(worker.answer)
    finally:
        worker.close()
