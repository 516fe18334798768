"""What an evaluation is asked for, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.evaluate.figures import Figures, Mean
from quantkit.evaluate.files import EvaluatedFile
from quantkit.evaluate.process import Messages
from quantkit.evaluate.speed import Speed
from quantkit.evaluate.tensor_errors import TensorError
from quantkit.evaluate.text import Text


@dataclass(frozen=True)
class Measured:
    """What was measured of a file.

    Attributes:
        file: the file.
        nbytes: bytes of all its parts.
        bits: bits of the file for each weight.
        figures: how far it is from the reference.
        divergence: float32 [positions]: the KL divergence at every position, in nats.
        speed: how fast it is; None where that was not asked for.
        tensors: the error of each tensor; empty where that was not asked for.
    """

    file: EvaluatedFile
    nbytes: int
    bits: float
    figures: Figures
    divergence: npt.NDArray[np.float32]
    speed: Speed | None = None
    tensors: tuple[TensorError, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "file": self.file.name,
            "label": self.file.label,
            "bytes": self.nbytes,
            "bits_per_weight": self.bits,
            **self.figures.to_json(),
            **speed_json(self.speed),
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }


@dataclass(frozen=True)
class Asked:
    """Questions for every file.

    Attributes:
        questions: what is shown of each, its last message.
        talks: the conversations, with the system prompt.
        stops: texts that end an answer.
        longest: tokens of an answer at most.
    """

    questions: tuple[str, ...] = ()
    talks: tuple[Messages, ...] = ()
    stops: tuple[str, ...] = ()
    longest: int = 256


@dataclass(frozen=True)
class Evaluation:
    """The result.

    Attributes:
        text: what was evaluated.
        reference: the file that the others are compared with.
        reference_nbytes: bytes of all its parts.
        reference_perplexity: of the reference on the text.
        reference_speed: how fast it is; None where that was not asked for.
        bytes_per_position: bytes of its logits on the disk for each position.
        files: what was measured of each other file.
        questions: the questions.
        answers: by file, its answers in the order of the questions.
        failed: by file, why it could not be evaluated or asked.
    """

    text: Text
    reference: EvaluatedFile
    reference_nbytes: int
    reference_perplexity: Mean
    reference_speed: Speed | None
    bytes_per_position: float
    files: tuple[Measured, ...]
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The evaluation as JSON values, for the key ``evaluation`` of report.json."""
        return {
            "text": self.text.to_json(),
            "reference": {
                "file": self.reference.name,
                "label": self.reference.label,
                "bytes": self.reference_nbytes,
                "perplexity": self.reference_perplexity.value,
                "perplexity_error": self.reference_perplexity.error,
                "bytes_per_position": self.bytes_per_position,
                **speed_json(self.reference_speed),
            },
            "files": [found.to_json() for found in self.files],
            "answers": [
                {"question": question, "by": [{"who": who, "text": texts[number]} for who, texts in self.answers]}
                for number, question in enumerate(self.questions)
            ],
            "failed": [{"file": name, "reason": reason} for name, reason in self.failed],
        }


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        n_gpu_layers: layers to put on the GPU, -1 for all.
        threads: CPU threads, None for the processors that are free.
        speed: measure speed and memory.
        tensors: measure the error of each tensor.
        home: the folder of kept logits, None for that in the user's cache.
    """

    n_gpu_layers: int = -1
    threads: int | None = None
    speed: bool = True
    tensors: bool = True
    home: Path | None = None


def speed_json(speed: Speed | None) -> dict[str, Any]:
    """A speed as the JSON values of an evaluation, None where it was not measured."""
    return {
        "prompt_tokens_per_second": speed and speed.prompt_rate,
        "answer_tokens_per_second": speed and speed.answer_rate,
        "load_seconds": speed and speed.load_seconds,
        "memory_bytes": speed and speed.memory,
    }
