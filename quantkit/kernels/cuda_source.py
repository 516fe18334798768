"""The source text of the CUDA kernels: ``cuda.cu``, ``encoders.cu``, and the formats' numbers as a header."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from importlib import resources

from quantkit.ggml.types import UNQUANTIZED, GGMLType
from quantkit.kernels.formats import (
    BLOCK_FORMATS,
    FORMATS,
    IQ4_VALUES,
    NOTHING,
    SUPER_BLOCK,
    BlockFormat,
    Format,
    GridFormat,
    KQuant,
    SplitFormat,
    TableFormat,
)
from quantkit.kernels.mxfp4 import FIRST, early_steps
from quantkit.kernels.searches import LEVEL_MOVE, AffineSearch, GridSearch, MovingSearch, SplitSearch, TrialSearch

SOURCES = ("encoders.cu", "weighted.cu", "table.cu", "small.cu", "grid.cu", "split.cu")
_Search = AffineSearch | TrialSearch | MovingSearch | GridSearch | SplitSearch


@dataclass(frozen=True)
class Variant:
    """A kernel.

    Attributes:
        stored: the type of the weights in the checkpoint: F32, F16 or BF16.
        outtype: the type they are rounded to.
        kinds: the formats they are encoded in, of :data:`quantkit.kernels.formats.FORMATS`, in order.
        weighted: the places in *kinds* of those that are encoded with importances.
    """

    stored: GGMLType
    outtype: GGMLType
    kinds: tuple[GGMLType, ...]
    weighted: tuple[int, ...] = ()

    @property
    def needs_squares(self) -> bool:
        """Whether an output depends on the sum of squares of a whole row."""
        return any(self.kinds[number] in BLOCK_FORMATS for number in self.weighted)


def program(variant: Variant) -> tuple[str, dict[str, str]]:
    """Write the program of one kernel, ``carry``, and of ``squares`` if it needs those.

    Returns:
        The source, and the texts of the files that it includes, by name.
    """
    assert {variant.stored, variant.outtype} <= {*UNQUANTIZED.values()}, variant
    lines = [_encode(number, FORMATS[kind], number in variant.weighted) for number, kind in enumerate(variant.kinds)]
    types = f"({variant.stored.name}, {variant.outtype.name})"
    last = [f"SQUARES{types}"] if variant.needs_squares else []
    files = {name: _text(name) for name in SOURCES} | {"formats.h": header()}
    return "\n".join([_text("cuda.cu"), f"BEGIN{types}", *lines, "END", *last, ""]), files


def _encode(number: int, form: Format, weighted: bool) -> str:
    """The line that encodes one output."""
    if isinstance(form, GridFormat | SplitFormat):
        return f"ENCODE_GRID({number}, {launcher(form)}, {encoder(form)})"
    return f"ENCODE{'_WEIGHTED' * weighted}({number}, {launcher(form, weighted)}, {encoder(form, weighted)})"


def has_weighted(form: Format) -> bool:
    """Whether a format has a class of its own for importances."""
    return form.weighted is not None and not isinstance(form, GridFormat | SplitFormat)


def launcher(form: Format, weighted: bool = False) -> str:
    """The function template that runs a format's encoder, with importances or without; a grid's does both."""
    if isinstance(form, GridFormat | SplitFormat):
        return f"encode_{'grid' if isinstance(form, GridFormat) else 'split'}_super_blocks"
    return f"encode_{'weighted_' * weighted}{'super_' * (form.type.block == SUPER_BLOCK)}blocks"


def encoder(form: Format, weighted: bool = False) -> str:
    """The class that encodes a format, or the one that takes importances."""
    name = form.type.name
    weighted = weighted and has_weighted(form)
    return f"Weighted{form.kernel}<weighted::{name}>" if weighted else f"{form.kernel}<format::{name}>"


def header() -> str:
    """Write ``formats.h``: the constants of all formats, each a struct in the namespace ``format``.

    The namespace ``weighted`` has them again, with the constants of the search with importances.
    """
    plain = [
        _struct(form, form.search if isinstance(form, KQuant | TableFormat | GridFormat) else None)
        for form in FORMATS.values()
    ]
    weighted = [_struct(form, form.weighted, weighted=True) for form in FORMATS.values() if has_weighted(form)]
    defines = f"#define SUPER {SUPER_BLOCK}\n#define NOTHING {NOTHING!r}f\n#define LEVEL_MOVE {LEVEL_MOVE}f\n"
    spaces = ["namespace format {", *plain, "}\n", "namespace weighted {", *weighted, "}\n"]
    return "\n".join(["// Written by quantkit.kernels.cuda_source.", defines, _table(), _early(), *spaces])


def _table() -> str:
    """The table of IQ4: its lowest value, then the middle between neighbours and the higher of them."""
    steps = [f"STEP({(low + high) / 2}f, {high}.0f)" for low, high in itertools.pairwise(IQ4_VALUES)]
    return f"#define IQ4_LEAST {IQ4_VALUES[0]}.0f\n#define IQ4_TABLE(STEP) {' '.join(steps)}\n"


def _early() -> str:
    """What MXFP4 has in place of a logarithm."""
    return f"#define MXFP4_FIRST {FIRST}\n#define MXFP4_EARLY {', '.join(map(str, early_steps()))}\n"


def _struct(form: Format, search: _Search | None, *, weighted: bool = False) -> str:
    """The constants of a format, a line each."""
    numbers = {"BYTES": form.type.block_nbytes} | dict(zip(("SCALE_AT", "LOW_AT"), form.halves, strict=False))
    if isinstance(form, BlockFormat):
        numbers["BITS"] = form.bits
    elif isinstance(form, KQuant):
        numbers["LANES"] = SUPER_BLOCK // form.block
    if isinstance(form, GridFormat | SplitFormat):
        numbers |= {"BLOCK": form.shape.block, "GROUP": form.shape.group, "LEVELS": form.shape.levels}
    elif isinstance(form, BlockFormat | KQuant):
        numbers |= {"BLOCK": form.block, "LEAST": form.least, "TOP": form.top}
    else:
        numbers["LANES"] = form.type.block // 32
    flags, floats = {"WEIGHTED": weighted}, dict[str, float]()
    if isinstance(form, GridFormat):
        flags |= {"EVEN_SIGNS": form.even_signs, "FITS_ALL": form.fits_all, "FROM_UNIT": form.from_unit}
        floats |= {"NOTHING_BELOW": form.nothing, "FACTOR": form.factor}
        floats |= {"VARIANCE": float(form.variance), "ALONE": float(form.alone or 0)}
    if isinstance(form, SplitFormat):
        numbers["PARTS"], flags["FITS_UNIT"] = form.search.parts, form.fits_unit
        floats |= {"NOTHING_BELOW": form.nothing, "FACTOR": form.factor}
    if isinstance(search, AffineSearch):
        numbers["STEPS"], flags["ABSOLUTE"] = search.steps, search.absolute
        floats |= {"FIRST": search.first, "APART": search.apart}
    elif isinstance(search, TrialSearch):
        numbers["STEPS"] = search.steps
    elif isinstance(search, GridSearch):
        numbers["STEPS"] = search.steps
        floats["APART"] = search.apart
    elif isinstance(search, MovingSearch):
        numbers["ROUNDS"] = search.rounds
    lines = [f"static const int {name} = {value};" for name, value in numbers.items()]
    lines += [f"static const bool {name} = {str(value).lower()};" for name, value in flags.items()]
    lines += [f"static constexpr float {name} = {value!r}f;" for name, value in floats.items()]
    return "\n    ".join([f"struct {form.type.name} {{", *lines]) + "\n};\n"


def _text(name: str) -> str:
    return (resources.files("quantkit.kernels") / name).read_text(encoding="utf-8")
