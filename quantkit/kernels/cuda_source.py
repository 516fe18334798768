"""The source text of the CUDA kernels: ``cuda.cu``, ``encoders.cu``, and the formats' numbers as a header."""

from __future__ import annotations

from collections.abc import Collection
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


def program(kinds: Collection[GGMLType], source: GGMLType) -> tuple[str, dict[str, str]]:
    """Write the program with the kernels for some formats and one type of input.

    Args:
        kinds: of :data:`quantkit.kernels.formats.FORMATS`.
        source: the type of the rows: F16, BF16 or F32.

    Returns:
        The source, in which each kernel has its format's name, and the texts of the files that it includes, by name.
    """
    assert source in UNQUANTIZED.values(), source
    lines = [
        f"KERNEL({kind.name}, {launcher(FORMATS[kind])}, {encoder(FORMATS[kind])}, {source.name})"
        for kind in sorted(kinds)
    ]
    return "\n".join([_text("cuda.cu"), *lines, ""]), {"encoders.cu": _text("encoders.cu"), "formats.h": header()}


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
