"""What the page shows: values of report.json and manifest.json, read with suspicion and sorted for people.

Whatever a package lacks is left out of the page: one that was not evaluated has no plots, one that was not verified no
checks. What is there and is not what quantkit writes is refused, with the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.files.json_fields import Fields, as_float
from quantkit.ggml.types import UNQUANTIZED
from quantkit.package.manifest import Manifest
from quantkit.plan.choice import Choice

_LAYER = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?")
# Relative errors from a thousandth to one, in equal steps of their logarithm.
_FAINTEST, SHADES = 0.001, 9


@dataclass(frozen=True)
class FileFigures:
    """A file of an evaluation; a figure that was not measured is None.

    Attributes:
        file, label: its name and its type.
        nbytes: its size.
        figures: the numbers by key, as in report.json.
        tensors: name, type and relative error of its tensors.
        reference: whether the others are compared with it.
    """

    file: str
    label: str
    nbytes: int
    figures: Mapping[str, float | None]
    tensors: tuple[tuple[str, str, float], ...] = ()
    reference: bool = False

    def __getitem__(self, key: str) -> float | None:
        return self.figures.get(key)


@dataclass(frozen=True)
class Cell:
    """A tensor in a heat map.

    Attributes:
        type: its type.
        error: relative error; None if the file does not have the tensor.
        shade: 0 for hardly any error to ``SHADES``.
    """

    type: str
    error: float | None
    shade: int


@dataclass(frozen=True)
class HeatMap:
    """The tensors of a file: a row for each layer, a column for each role; those outside of layers by themselves.

    Attributes:
        file: the file.
        roles: the columns.
        layers: number and cells of each layer.
        others: name and cell.
    """

    file: FileFigures
    roles: tuple[str, ...]
    layers: tuple[tuple[int, tuple[Cell | None, ...]], ...]
    others: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation.

    Attributes:
        name, sha256, tokens, context, positions: of the text.
        files: the reference first, then by size, the largest first.
        maps: a heat map for each file whose tensors were measured.
        answers: questions, each with who said what.
    """

    name: str
    sha256: str
    tokens: float
    context: float
    positions: float
    files: tuple[FileFigures, ...]
    maps: tuple[HeatMap, ...]
    answers: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    @property
    def compared(self) -> tuple[FileFigures, ...]:
        """The files that are compared with the reference."""
        return tuple(one for one in self.files if not one.reference)


@dataclass(frozen=True)
class CheckRow:
    """A check that was made.

    Attributes:
        name, figure, threshold, evidence: as in report.json.
        passed: whether it passed.
    """

    name: str
    figure: str
    threshold: str
    evidence: str
    passed: bool


@dataclass(frozen=True)
class Page:
    """The page.

    Attributes:
        manifest: of the package.
        evaluation: None without one.
        choice: None without one.
        verified: whether the package was checked.
        checks: what was checked, and of a proof what it found.
        proof: the same of a proof; empty without one.
        not_made: checks that were not made, with their reasons.
        differences: versions and what they do otherwise than the model's own template.
        notes: what the user was told.
    """

    manifest: Manifest
    evaluation: Evaluated | None = None
    choice: Choice | None = None
    verified: bool = False
    checks: tuple[CheckRow, ...] = ()
    proof: tuple[CheckRow, ...] = ()
    not_made: tuple[str, ...] = ()
    differences: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def read_page(manifest: Manifest, report: Mapping[str, Any]) -> Page:
    """Take what the page shows.

    Args:
        manifest: of the package.
        report: the object of report.json; empty if there is none.

    Raises:
        ValueError: a value is not what quantkit writes, with its key.
    """
    found = Fields(report)
    proof = found.fields("proof") if "proof" in found else None
    differences = found.each("ollama") if "ollama" in found else []
    return Page(
        manifest=manifest,
        evaluation=_evaluation(found.fields("evaluation")) if "evaluation" in found else None,
        choice=Choice.from_json(found.fields("choice")) if "choice" in found else manifest.choice,
        verified=report.get("verified") is True,
        checks=_checks(found),
        proof=() if proof is None else _checks(proof),
        not_made=found.texts("not_made") if "not_made" in found else (),
        differences=tuple((one.text("versions"), one.text("difference")) for one in differences),
        notes=found.texts("notes") if "notes" in found else manifest.notes,
    )


def _checks(found: Fields) -> tuple[CheckRow, ...]:
    return tuple(
        CheckRow(
            one.text("name"),
            one.optional_text("figure") or "",
            one.optional_text("threshold") or "",
            one.optional_text("evidence") or "",
            one.value("passed") is True,
        )
        for one in (found.each("checks") if "checks" in found else ())
    )


def _evaluation(found: Fields) -> Evaluated:
    reference = _file(found.fields("reference"), reference=True)
    others = sorted((_file(one) for one in found.each("files")), key=lambda one: (-one.nbytes, one.file))
    order = {one.file: place for place, one in enumerate((reference, *others))}
    answers = []
    for one in found.each("answers") if "answers" in found else []:
        by = [(each.text("who"), each.text("text").rstrip()) for each in one.each("by")]
        by.sort(key=lambda pair: order.get(pair[0], -1))  # a base that is not among the files comes first
        answers.append((one.text("question"), tuple(by)))
    maps = tuple(heat_map(one) for one in others if one.tensors)
    text = found.fields("text")
    return Evaluated(
        name=text.text("name"),
        sha256=text.optional_text("sha256") or "",
        tokens=text.number("tokens"),
        context=text.number("context"),
        positions=text.number("positions"),
        files=(reference, *others),
        maps=maps,
        answers=tuple(answers),
    )


def _file(found: Fields, *, reference: bool = False) -> FileFigures:
    plain = found.plain()
    figures = {
        key: number for key, value in plain.items() if (number := as_float(value)) is not None and math.isfinite(number)
    }
    tensors = tuple(
        (one.text("name"), one.text("type"), _number(one.plain().get("error"), "tensors.error"))
        for one in (found.each("tensors") if "tensors" in found else ())
    )
    nbytes = int(_number(plain.get("bytes"), "bytes"))
    return FileFigures(found.text("file"), found.text("label"), nbytes, figures, tensors, reference)


def _number(value: object, key: str) -> float:
    number = as_float(value)
    if number is None or not math.isfinite(number) or number < 0:
        raise ValueError(f'"{key}" is {value!r:.60}, not a number')
    return number


def heat_map(file: FileFigures) -> HeatMap:
    """Arrange the tensors of a file."""
    layers: dict[int, dict[str, Cell]] = {}
    others = []
    for name, kind, error in file.tensors:
        if kind.lower() in UNQUANTIZED:  # norms and biases
            continue
        cell = Cell(kind, error, shade(error))
        match = _LAYER.fullmatch(name)
        if match:
            layers.setdefault(int(match[1]), {})[match[2]] = cell
        else:
            others.append((name.removesuffix(".weight"), cell))
    roles = tuple(dict.fromkeys(role for cells in layers.values() for role in cells))
    rows = tuple((layer, tuple(cells.get(role) for role in roles)) for layer, cells in sorted(layers.items()))
    return HeatMap(file, roles, rows, tuple(others))


def shade(error: float) -> int:
    """From 0 for a relative error of at most a thousandth to ``SHADES`` for one as large as the tensor."""
    if error <= _FAINTEST:
        return 0
    return min(SHADES, math.ceil(SHADES * (1 - math.log(error) / math.log(_FAINTEST))))
