"""Which tensor gets which type: llama.cpp is asked.

``Q4_K_M`` and its kin are mixtures: llama.cpp gives some tensors more bits, by their name, their layer, the shape of
their rows and the model's size. The policy changes between releases and is not written again here. A dry run of
``llama_model_quantize`` on a sparse file (a real header, the weights a hole) answers in a tenth of a second through
llama.cpp's log, and this is the one place that reads that log (``dry_run.py`` is the process that runs it).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.child import ChildError, ask_module
from quantkit.errors import OutputError, QuantizationError
from quantkit.ggml_types import GGMLType
from quantkit.gguf_header import KV, TensorInfo, encode_header, string

# imatrix: by GGUF tensor name, float32, one number a column
Importance = Mapping[str, npt.NDArray[np.float32]]

_TENSOR = re.compile(
    r"\[ *\d+/ *\d+\] +(?P<name>\S+) +- \[[^\]]*\], type = +(?P<old>\w+), "
    r"size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((?P<new>\w+)\))?"
)
_FALLBACK = re.compile(r"(?P<name>\S+) +- ncols +(?P<columns>\d+) not divisible by +(?P<block>\d+)")
FALLBACK = "llama.cpp's fallback"
_BY_LABEL = {kind.label: kind for kind in GGMLType}


@dataclass(frozen=True)
class Mixture:
    """llama.cpp's answer.

    Attributes:
        types: by tensor name.
        reasons: by tensor name, where the type is not the file's usual one.
        needs_importance: the real run would refuse to start without an imatrix.
    """

    types: Mapping[str, GGMLType]
    reasons: Mapping[str, str]
    needs_importance: bool


def ask_llama_cpp(
    metadata: Sequence[KV],
    tensors: Sequence[TensorInfo],
    ftypes: Sequence[int],
    importance: Collection[str] = (),
    pure: bool = False,
) -> list[Mixture]:
    """The types ``llama_model_quantize`` would give, for each file type.

    Args:
        metadata: of the base file; the vocabulary may be left out.
        tensors: of the base file, with offsets.
        ftypes: llama.cpp's numbers of the file types.
        importance: the tensors that have an importance, because some mixtures differ with an imatrix.
        pure: one type for all tensors.

    Raises:
        QuantizationError: llama.cpp refuses, with its own words.
    """
    # The quantizer never looks at the tokens, but loading a model demands to know of some.
    header = encode_header([*metadata, string("tokenizer.ggml.model", "none")], tensors)
    size = len(header) + max((info.offset + info.type.nbytes(info.shape) for info in tensors), default=0)
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        sparse = Path(folder) / "plan.gguf"
        try:
            with sparse.open("wb") as file:
                file.write(header)
                file.truncate(size)
        except OSError as error:
            raise OutputError(
                f"{folder}: the plan cannot be written ({error.strerror or error})",
                hint="set TMPDIR to a folder on a disk with space",
            ) from None
        answers = _ask(sparse, ftypes, importance, pure)
    for answer in answers:
        if answer["failed"]:
            raise QuantizationError(f"llama.cpp cannot quantize this model: {last_line(answer['log'])}")
    return [parse_log(answer["log"], tensors) for answer in answers]


def _ask(path: Path, ftypes: Sequence[int], importance: Collection[str], pure: bool) -> list[dict[str, Any]]:
    question = {"path": str(path), "ftypes": list(ftypes), "importance": list(importance), "pure": pure}
    try:
        answers: list[dict[str, Any]] = ask_module("quantkit.dry_run", question)
    except ChildError as error:
        raise QuantizationError(
            f"llama.cpp cannot plan the types of this model: it ended with {error.how}: {last_line(error.output)}",
            hint="look into the model: quantkit inspect",
        ) from None
    return answers


def parse_log(log: str, tensors: Sequence[TensorInfo]) -> Mixture:
    """Read the quantizer's log.

    Raises:
        QuantizationError: a tensor is not in it: the log's form has changed, and guessing would be worse.
    """
    types: dict[str, GGMLType] = {}
    for match in _TENSOR.finditer(log):
        label = match["new"] or match["old"]
        if label not in _BY_LABEL:
            raise QuantizationError(f"{match['name']}: llama.cpp would use type {label}, which is unknown here")
        types[match["name"]] = _BY_LABEL[label]
    missing = [info.name for info in tensors if info.name not in types]
    if missing:
        raise QuantizationError(
            f"llama.cpp's answer does not mention {missing[0]!r}",
            hint="pip install 'llama-cpp-python==0.3.36', the version this release was tested with",
        )
    reasons = {
        match["name"]: f"rows of {match['columns']} are no multiple of {match['block']}: {FALLBACK}"
        for match in _FALLBACK.finditer(log)
    }
    quantized = [types[info.name] for info in tensors if types[info.name] is not info.type]
    usual = max(set(quantized), key=quantized.count, default=None)
    for info in tensors:
        if types[info.name] not in (usual, info.type):
            reasons.setdefault(info.name, "llama.cpp's mixture for this file type")
    return Mixture(types, reasons, "will require an imatrix" in log)


def last_line(log: str) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.splitlines() if line.strip(" =\t")]
    return lines[-1] if lines else "no reason given"
