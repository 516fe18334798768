"""report.json: the checks of a build and how long it took. One value, one writer and one reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import CheckpointError, OutputError
from quantkit.files.json_fields import Fields
from quantkit.files.json_file import SCHEMA, json_bytes, read_json, write_json
from quantkit.files.replace_file import replace_file
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.package.differences import Difference
from quantkit.package.file_names import REPORT
from quantkit.system.shell import command
from quantkit.verify.expected import Expected, read_expected
from quantkit.verify.report import Report

FIGURES = ("kl_mean", "same_top", "perplexity")
"""The figures of an evaluated file that commands read again."""

_INDENT = 1


@dataclass(frozen=True)
class OutputFigures:
    """A GGUF file that was written.

    Attributes:
        file: its name.
        quant: the requested type.
        size: its size in bytes.
    """

    file: str
    quant: str
    size: int


@dataclass(frozen=True)
class BuildReport:
    """The content of report.json.

    Attributes:
        report: its ``checks``, ``runs``, ``not_made``, ``prompts`` and ``passed``; None if nothing was ``verified``.
        notes: notes for the user.
        ollama: how Ollama's prompts differ from those of the model's own chat template: ``versions`` (``Ollama`` means
            all of them) and ``difference``.
        outputs: the GGUF files.
        seconds: per stage: plan, choose, compile (encoders, if they are not in the cache), stream, package, verify,
            prove, evaluate.
        effects: what each adapter changed, as in the manifest.
        proof: with ``--prove``, and by ``quantkit prove``: how far the logits are from transformers' own, see
            [prove.md](prove.md); None otherwise.
        choice: with ``--size`` or ``--bits``: how the types were chosen, as in the manifest, see
            [choosing.md](choosing.md); None otherwise.
        evaluation: with ``--evaluate``, and by ``quantkit evaluate``: how good each file is, see
            [quality.md](quality.md); None otherwise.
    """

    report: Report | None
    notes: tuple[str, ...]
    ollama: tuple[Difference, ...]
    outputs: tuple[OutputFigures, ...]
    seconds: Mapping[str, float]
    effects: tuple[AdapterEffect, ...] = ()
    proof: Mapping[str, Any] | None = None
    choice: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, with ``schema``."""
        verdict: dict[str, Any] = {"schema": SCHEMA, "verified": False, "passed": None, "checks": [], "runs": {}}
        if self.report is not None:
            prompts = [one.to_json() for one in self.report.prompts]
            verdict = {**self.report.to_json(), "verified": True, "prompts": prompts}
        if self.proof is not None:
            verdict["passed"] = verdict["passed"] is not False and self.proof["passed"]
        return {
            **verdict,
            "notes": list(self.notes),
            "ollama": [{"versions": found.versions, "difference": found.text} for found in self.ollama],
            "outputs": [asdict(output) for output in self.outputs],
            "effects": [effect.to_json() for effect in self.effects],
            "seconds": dict(self.seconds),
            "proof": None if self.proof is None else dict(self.proof),
            "choice": None if self.choice is None else dict(self.choice),
            "evaluation": None if self.evaluation is None else dict(self.evaluation),
        }


def write_report(report: BuildReport, folder: Path) -> None:
    """Write a package's report.json."""
    write_json(folder / REPORT, report.to_json(), indent=_INDENT)


def add_to_report(key: str, value: Mapping[str, Any], folder: Path) -> bool:
    """Put a proof or an evaluation into a package's report.json, in the place of an earlier one.

    Args:
        key: ``proof`` or ``evaluation``.
        value: what to put there, as JSON values.
        folder: the package.

    Returns:
        Whether the package has a report.

    Raises:
        CheckpointError: report.json is not a JSON file.
        OutputError: it cannot be written.
    """
    path = folder / REPORT
    if not path.is_file():
        return False
    values = {**read_json(path), key: dict(value)}
    try:
        replace_file(path, json_bytes(values, indent=_INDENT))
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error})", hint=f"print the {key} instead: add --json"
        ) from None
    return True


def read_kept_prompts(folder: Path) -> tuple[Expected, ...] | None:
    """Read the prompts saved in a package's report.json; None if the package does not have a report.

    Raises:
        CheckpointError: report.json is not a JSON file.
        VocabularyError: the prompts are damaged.
    """
    path = folder / REPORT
    if not path.is_file():
        return None
    prompts = read_json(path).get("prompts")
    return read_expected(prompts) if isinstance(prompts, list) else ()


def read_evaluated(folder: Path) -> dict[str, dict[str, float]]:
    """Read what a package's report.json says of each evaluated file: :data:`FIGURES`, as far as they are there.

    Raises:
        CheckpointError: report.json is not a JSON file, or its evaluation is not one.
    """
    path = folder / REPORT
    if not path.is_file():
        return {}
    try:
        found = Fields(read_json(path))
        files = found.fields("evaluation").each("files") if "evaluation" in found else []
        return {one.text("file"): {key: one.number(key) for key in FIGURES if key in one} for one in files}
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {error}", hint=f"evaluate it again: {command('quantkit', 'evaluate', folder)}"
        ) from None
