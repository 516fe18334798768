"""The source text of the CUDA kernels: ``cuda.cu``, ``encoders.cu``, and the formats' numbers as a header."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from quantkit.ggml.types import UNQUANTIZED, GGMLType
from quantkit.kernels.formats import (
    FORMATS,
    NOTHING,
    SUPER_BLOCK,
    AffineSearch,
    BlockFormat,
    Format,
    KQuant,
    TrialSearch,
)


@dataclass(frozen=True)
class Variant:
    """A kernel.

    Attributes:
        stored: the type of the weights in the checkpoint: F32, F16 or BF16.
        outtype: the type they are rounded to.
        kinds: the formats they are encoded in, of :data:`quantkit.kernels.formats.FORMATS`, in order.
    """

    stored: GGMLType
    outtype: GGMLType
    kinds: tuple[GGMLType, ...]


def program(variant: Variant) -> tuple[str, dict[str, str]]:
    """Write the program of one kernel, ``carry``.

    Returns:
        The source, and the texts of the files that it includes, by name.
    """
    assert {variant.stored, variant.outtype} <= {*UNQUANTIZED.values()}, variant
    lines = [
        f"ENCODE({number}, {launcher(FORMATS[kind])}, {encoder(FORMATS[kind])})"
        for number, kind in enumerate(variant.kinds)
    ]
    begin = f"BEGIN({variant.stored.name}, {variant.outtype.name})"
    files = {"encoders.cu": _text("encoders.cu"), "formats.h": header()}
    return "\n".join([_text("cuda.cu"), begin, *lines, "END", ""]), files


def launcher(form: Format) -> str:
    """The function template that runs a format's encoder."""
    return "encode_super_blocks" if isinstance(form, KQuant) else "encode_blocks"


def encoder(form: Format) -> str:
    """The class of ``encoders.cu`` that encodes a format."""
    return f"{form.kernel}<format::{form.type.name}>"


def header() -> str:
    """Write ``formats.h``: the constants of all formats, each a struct in the namespace ``format``."""
    structs = [f"struct {form.type.name} {{\n{_members(form)}}};\n" for form in FORMATS.values()]
    defines = f"#define SUPER {SUPER_BLOCK}\n#define NOTHING {NOTHING!r}f\n"
    return "\n".join(["// Written by quantkit.kernels.cuda_source.", defines, "namespace format {", *structs, "}\n"])


def _members(form: Format) -> str:
    """The constants of a format, a line each."""
    numbers = {"BYTES": form.type.block_nbytes, "SCALE_AT": form.halves[0]}
    if len(form.halves) > 1:
        numbers["LOW_AT"] = form.halves[1]
    others = ""
    if isinstance(form, BlockFormat):
        numbers["BITS"] = form.bits
    elif isinstance(form, KQuant):
        numbers |= {"LANES": SUPER_BLOCK // form.block, "BLOCK": form.block, "LEAST": form.least, "TOP": form.top}
        if isinstance(form.search, AffineSearch):
            numbers["STEPS"] = form.search.steps
            others = f"    static const bool ABSOLUTE = {str(form.search.absolute).lower()};\n"
            others += f"    static constexpr float FIRST = {form.search.first!r}f;\n"
        elif isinstance(form.search, TrialSearch):
            numbers["STEPS"] = form.search.steps
        else:
            numbers["ROUNDS"] = form.search.rounds
    return "".join(f"    static const int {name} = {value};\n" for name, value in numbers.items()) + others


def _text(name: str) -> str:
    return (resources.files("quantkit.kernels") / name).read_text(encoding="utf-8")
