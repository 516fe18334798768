"""Asks llama.cpp which quantization type each tensor gets.

``Q4_K_M`` and similar types are mixtures: llama.cpp gives some tensors more bits, depending on their name, layer and
row length and on the model's size. The policy changes between releases, so it is not written again here. A dry run of
``llama_model_quantize`` on a sparse file (a real header, and a hole instead of weights) answers in a tenth of a second
through llama.cpp's log. Only this module reads that log; ``dry_run.py`` is the process that runs it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import QuantizationError
from quantkit.ggml.types import FTYPES, GGMLType
from quantkit.gguf.header import OUTPUT, TensorInfo
from quantkit.gguf.kv import KV
from quantkit.plan.sparse import sparse_file
from quantkit.plan.type_choices import EMBEDDINGS, NO_CHOICES, TypeChoices
from quantkit.system.child_process import ChildError, ask_module

# imatrix: by GGUF tensor name, float32, one number per column
Importance = Mapping[str, npt.NDArray[np.float32]]

_TENSOR = re.compile(
    r"\[ *\d+/ *\d+\] +(?P<name>\S+) +- \[[^\]]*\], type = +(?P<old>\w+), "
    r"size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((?P<new>\w+)\))?"
)
_FALLBACK = re.compile(r"(?P<name>\S+) +- ncols +(?P<columns>\d+) not divisible by +(?P<block>\d+)")
_OVERRIDE = re.compile(r"(?P<name>\S+) +- applying manual override")
FALLBACK = "llama.cpp's fallback"
KEPT = "stored so in the checkpoint"
DRY_RUN = "quantkit.plan.dry_run"
"""The module that is asked."""
_BY_LABEL = {kind.label: kind for kind in GGMLType}


@dataclass(frozen=True)
class Mixture:
    """llama.cpp's answer.

    Attributes:
        types: by tensor name.
        reasons: by tensor name, why a tensor does not have the file's usual type.
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
    choices: TypeChoices = NO_CHOICES,
    kept: Collection[str] = (),
) -> list[Mixture]:
    """The types that ``llama_model_quantize`` would choose, for each file type.

    Args:
        metadata: metadata of the unquantized file; it may omit the vocabulary.
        tensors: tensors of the unquantized file, with offsets.
        ftypes: llama.cpp's numbers of the file types.
        importance: the tensors that have an importance; some mixtures depend on it.
        choices: types for single tensors.
        kept: tensors that keep their type, unless a choice names them.

    Raises:
        QuantizationError: llama.cpp refuses, with its message; or a regular expression of the choices is invalid or
            matches no tensor that is quantized.
    """
    with sparse_file(metadata, tensors) as sparse:
        runs = [{**choices.parameters(), "ftype": ftype} for ftype in ftypes]
        probes = _probes(choices)
        answers = _ask(sparse, [*probes, *runs], importance)
    matched = _matched(choices, answers[: len(probes)])
    answers = answers[len(probes) :]
    for answer in answers:
        if answer["failed"]:
            raise _refused(answer)
    staying = {info.name: info.type for info in tensors if info.name in kept and info.name not in matched}
    return [_keeping(parse_log(answer["log"], tensors, choices, matched), staying) for answer in answers]


def _keeping(mixture: Mixture, types: Mapping[str, GGMLType]) -> Mixture:
    """The mixture, but with these types."""
    reasons = {name: reason for name, reason in mixture.reasons.items() if name not in types}
    return replace(mixture, types={**mixture.types, **types}, reasons={**reasons, **dict.fromkeys(types, KEPT)})


def _probes(choices: TypeChoices) -> list[dict[str, Any]]:
    """Runs that show what each regular expression matches: for a match, llama.cpp logs that it uses F16, not Q4_0.

    The first run has no expression, to distinguish a model that llama.cpp refuses from an invalid expression.
    """
    if not choices.tensors:
        return []
    plain = TypeChoices(leave_output=choices.leave_output)
    probes = [plain, *(replace(plain, tensors=((pattern, GGMLType.F16),)) for pattern, _ in choices.tensors)]
    return [{**probe.parameters(), "ftype": FTYPES["q4_0"]} for probe in probes]


def _matched(choices: TypeChoices, answers: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The regular expression that decides a tensor's type, by tensor name."""
    if answers and answers[0]["failed"]:
        raise _refused(answers[0])
    matched: dict[str, str] = {}
    for (pattern, kind), answer in zip(choices.tensors, answers[1:], strict=True):
        option = f"--tensor-type {pattern}={kind.label}"
        if answer["failed"]:
            raise QuantizationError(
                f"{option}: llama.cpp rejects the regular expression {pattern!r}: {last_line(answer['log'])}",
                hint="escape the special characters, or use part of the tensor's name: --tensor-type attn_v=q8_0",
            )
        names = [match["name"] for match in _OVERRIDE.finditer(answer["log"])]
        if not names:
            raise QuantizationError(
                f"{option}: {pattern!r} matches no tensor of this model that can be quantized",
                hint="list the tensor names, such as blk.0.attn_v.weight, with: quantkit inspect FILE.gguf",
            )
        for name in names:
            matched.setdefault(name, pattern)
    return matched


def _refused(answer: dict[str, Any]) -> QuantizationError:
    return QuantizationError(f"llama.cpp cannot quantize this model: {last_line(answer['log'])}")


def _ask(path: Path, runs: Sequence[dict[str, Any]], importance: Collection[str]) -> list[dict[str, Any]]:
    question = {"path": str(path), "runs": list(runs), "importance": list(importance)}
    try:
        answers: list[dict[str, Any]] = ask_module(DRY_RUN, question)
    except ChildError as error:
        raise QuantizationError(
            f"llama.cpp cannot choose the types for this model: it ended with {error.how}: {last_line(error.output)}",
            hint=error.hint("check the model with: quantkit inspect MODEL"),
        ) from None
    return answers


def parse_log(
    log: str,
    tensors: Sequence[TensorInfo],
    choices: TypeChoices = NO_CHOICES,
    matched: Mapping[str, str] | None = None,
) -> Mixture:
    """Read the quantizer's log.

    Args:
        log: the log of one run.
        tensors: tensors of the unquantized file.
        choices: the choices of the run.
        matched: by tensor name, the regular expression of the choices that matches it.

    Raises:
        QuantizationError: the log does not mention a tensor. Its format has changed, and guessing would be worse.
    """
    types: dict[str, GGMLType] = {}
    for match in _TENSOR.finditer(log):
        label = match["new"] or match["old"]
        if label not in _BY_LABEL:
            raise QuantizationError(
                f"{match['name']}: llama.cpp would use the type {label}, which quantkit does not know"
            )
        types[match["name"]] = _BY_LABEL[label]
    missing = [info.name for info in tensors if info.name not in types]
    if missing:
        raise QuantizationError(
            f"llama.cpp's log does not mention the tensor {missing[0]!r}",
            hint="install the tested version: pip install 'llama-cpp-python==0.3.36'",
        )
    reasons = {
        match["name"]: f"rows of {match['columns']} weights are not a multiple of {match['block']}: {FALLBACK}"
        for match in _FALLBACK.finditer(log)
    }
    for info in tensors:
        if reason := _chosen(info.name, types, choices, matched or {}):
            reasons.setdefault(info.name, reason)
    rest = [types[info.name] for info in tensors if types[info.name] is not info.type and info.name not in reasons]
    usual = max(set(rest), key=rest.count, default=None)
    for info in tensors:
        if types[info.name] not in (usual, info.type):
            reasons.setdefault(info.name, "llama.cpp's mixture for this file type")
    return Mixture(types, reasons, "will require an imatrix" in log)


def _chosen(name: str, types: Mapping[str, GGMLType], choices: TypeChoices, matched: Mapping[str, str]) -> str:
    """The option that decided a tensor's type, in llama.cpp's order of priority; empty for none."""
    if name == OUTPUT and choices.leave_output:
        return "unchanged because of --leave-output-tensor"
    if types[name] is choices.embedding and name in EMBEDDINGS:
        return "set by --token-embedding-type"
    if types[name] is choices.output and name == OUTPUT:
        return "set by --output-tensor-type"
    if any(pattern == matched.get(name) and kind is types[name] for pattern, kind in choices.tensors):
        return f"set by --tensor-type {matched[name]}"
    if types[name] is choices.output and name in EMBEDDINGS and OUTPUT not in types:
        return "set by --output-tensor-type: the embedding is also the output head"
    return ""


def last_line(log: str) -> str:
    """The last line of a log that is not empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip(" =\t")]
    return lines[-1] if lines else "no reason given"
