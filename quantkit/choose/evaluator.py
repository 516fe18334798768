"""A model's answers against a reference's, from inside a process that loads libllama.

Log-probabilities are kept in float32, not in the 16 bits of an evaluation: what one group of tensors costs can be
smaller than their rounding.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantkit.choose.followed import FollowedFile
from quantkit.errors import QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.run.inference import Token, decode, forget
from quantkit.system.processors import llama_threads

# Log-probabilities that one thread computes at a time: what it needs of them fits the cache.
_TOGETHER = 1 << 18
# Positions whose divergences are added up before they are added to the others.
_SUMMED = 64
_HINT = "close other programs and try again"


def log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logarithm of the softmax of each row; float32, shape [n, vocabulary]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, dtype=np.float64, keepdims=True)
    found: npt.NDArray[np.float32] = shifted - np.log(sums).astype(np.float32)
    return found


def divergence(reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The KL divergence of each row from the reference's, both log-probabilities; float64, shape [n], in nats."""
    found: npt.NDArray[np.float64] = np.sum(np.exp(reference) * (reference - other), axis=1, dtype=np.float64)
    return found


class Evaluator:
    """The reference's log-probabilities after some tokens.

    Attributes:
        sequences: token ids, each at most a context long.
        skip: positions at the beginning of each that are not looked at.
        path: the file of the log-probabilities, float32, which the reference's evaluation makes.
        threads, gpu_layers: how to compute.
        mapped: whether the weights may be the pages of the file.
        seconds: what the last question took, by part.
    """

    def __init__(
        self,
        sequences: list[list[int]],
        skip: int,
        path: Path,
        *,
        threads: int | None,
        gpu_layers: int,
        mapped: bool,
    ) -> None:
        self.sequences, self.skip, self.path = sequences, skip, path
        self.threads, self.gpu_layers, self.mapped = threads, gpu_layers, mapped
        self.seconds: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(llama_threads(threads))

    def open(self, gguf: Path) -> None:
        """Load the reference, and keep its log-probabilities."""
        with self._timed("load"):
            self._reference = self._opened(gguf, mapped=self.mapped)
        with self.path.open("wb") as file:
            for logits in self._logits(self._reference):
                with self._timed("compare"):
                    for part in self._pool.map(log_probabilities, _parts(logits)):
                        file.write(part.tobytes())

    def close(self) -> None:
        """Give the memory back."""
        self._reference.close()
        self._pool.shutdown()

    def again(self, names: Collection[str]) -> tuple[float, list[str]]:
        """The reference's divergence from what it was, now that some of its tensors are other ones in its file.

        Returns:
            The mean KL divergence in nats, and the tensors for which the file was loaded again.
        """
        with self._timed("load"):
            reloaded = self._reference.follow(names)
        return self._divergence(self._reference), reloaded

    def divergence(self, gguf: Path) -> float:
        """The mean KL divergence of another file from the reference, in nats."""
        with self._timed("load"):
            other = self._opened(gguf, mapped=True)
        try:
            return self._divergence(other)
        finally:
            other.close()

    def _opened(self, gguf: Path, *, mapped: bool) -> FollowedFile:
        return FollowedFile(
            gguf,
            self.sequences[0],
            tokens=max(map(len, self.sequences)),
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            mapped=mapped,
            hint=_HINT,
        )

    def _divergence(self, file: FollowedFile) -> float:
        total, done = 0.0, 0
        kept = np.memmap(self.path, dtype=np.float32, mode="r").reshape(-1, file.model.vocabulary)
        for logits in self._logits(file):
            with self._timed("compare"):
                parts = self._pool.map(_divergence, _parts(kept[done : done + len(logits)]), _parts(logits))
                rows = np.concatenate(list(parts))
                for start in range(0, len(rows), _SUMMED):
                    total += float(rows[start : start + _SUMMED].sum())
            done += len(logits)
        return total / done

    def _logits(self, file: FollowedFile) -> Iterator[npt.NDArray[np.float32]]:
        """The logits of all positions that are looked at, a sequence at a time; valid until the next."""
        for ids in self.sequences:
            with self._timed("evaluate"):
                forget(file.context)
                status, reason = decode(
                    file.context, [Token(token, place, 0, place >= self.skip) for place, token in enumerate(ids)]
                )
                if status != 0:
                    raise QuantkitError(
                        f"{file.model.path}: llama.cpp cannot evaluate it (status {status}): {reason}", hint=_HINT
                    )
                shape = len(ids) - self.skip, file.model.vocabulary
                found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(file.context), shape=shape)
            yield found

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begun


def _divergence(reference: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return divergence(reference, log_probabilities(logits))


def _parts(rows: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    step = max(1, _TOGETHER // rows.shape[1])
    return [rows[start : start + step] for start in range(0, len(rows), step)]
