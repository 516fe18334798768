"""The encoded formats that quantkit has its own encoders for: one record per format, and everything reads these.

The numbers are those of ggml-quants.c and ggml-common.h. Who reads them: the reference in tensor operations, the
compiled lanes, the validity check, and (through :func:`quantkit.kernels.cuda_source.header`) the CUDA kernels.
This module does without torch and numba.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.ggml.types import NEEDS_IMPORTANCE, GGMLType
from quantkit.kernels.searches import AffineSearch, GridSearch, MovingSearch, SplitSearch, TrialSearch

# Weights in a super-block of a K-quant.
SUPER_BLOCK = 256
# A sub-block whose largest magnitude is below this is all zeros to ggml (GROUP_MAX_EPS).
NOTHING = 1e-15
# The searches that minimize squared errors weighted by importances.
_WEIGHTED_AFFINE, _WEIGHTED_TRIALS = AffineSearch(-0.9, 36, absolute=False, apart=0.05), TrialSearch(9)


@dataclass(frozen=True)
class Format:
    """An encoded format.

    Attributes:
        type: its ggml type, which knows the size of a block.
        kernel: the template in ``encoders.cu``, ``table.cu``, ``grid.cu``, ``split.cu`` or ``small.cu`` that encodes
            it; ``Weighted`` before the name makes the one that takes importances, and with a grid one does both.
        halves: byte offsets of the float16 numbers in a block: the scale, then the minimum, if there are such.
    """

    type: GGMLType
    kernel: str
    halves: tuple[int, ...]

    @property
    def weighted(self) -> AffineSearch | TrialSearch | GridSearch | SplitSearch | None:
        """The search with importances; None for a format that does not use them, or whose search only libggml has."""
        return None

    @property
    def prepares_long(self) -> bool:
        """Whether libggml prepares for seconds before it encodes the first block: grids of eight dimensions."""
        return False


@dataclass(frozen=True)
class BlockFormat(Format):
    """A format with one scale per block of 32 weights, and no search.

    Attributes:
        bits: bits of a level.
        lanes: whether ``lane_blocks`` has a compiled encoder for it.
    """

    bits: int
    lanes: bool = False

    @property
    def block(self) -> int:
        """Weights in a block."""
        return self.type.block

    @property
    def least(self) -> int:
        """The lowest level, with a minimum: zero."""
        return 0 if len(self.halves) > 1 else -(1 << self.bits - 1)

    @property
    def top(self) -> int:
        """The highest level."""
        return self.least + (1 << self.bits) - 1

    @property
    def weighted(self) -> AffineSearch | TrialSearch | None:
        """The search with importances; Q8_0 does not use any."""
        if self.bits == 8:
            return None
        return _WEIGHTED_AFFINE if len(self.halves) > 1 else _WEIGHTED_TRIALS


@dataclass(frozen=True)
class KQuant(Format):
    """A format with super-blocks of 256 weights, divided into sub-blocks with a scale each.

    Attributes:
        block: weights in a sub-block.
        least: the lowest level; levels are stored as their distance from it.
        top: the highest level.
        search: how the scale of a sub-block is found.
    """

    block: int
    least: int
    top: int
    search: AffineSearch | TrialSearch | MovingSearch

    @property
    def weighted(self) -> AffineSearch | TrialSearch:
        """The search with importances."""
        return _WEIGHTED_AFFINE if isinstance(self.search, AffineSearch) else _WEIGHTED_TRIALS


@dataclass(frozen=True)
class TableFormat(Format):
    """A format with a scale per 32 weights, whose levels number the values of a table.

    Attributes:
        search: how the scale is found, with importances and without.
        together: blocks of 32 weights in a block of the type.
    """

    search: TrialSearch
    together: int

    @property
    def weighted(self) -> TrialSearch:
        """The search with importances."""
        return self.search


@dataclass(frozen=True)
class GridShape:
    """The grid of a format: the points that a group of weights can be, numbered by a code.

    Attributes:
        codes: the number of points.
        group: weights in a point: its dimensions.
        levels: how many values a weight can have.
        distances: a point off the grid has as neighbours the points of the grid at the so many smallest distances.
        block: weights with a scale of their own.
    """

    codes: int
    group: int
    levels: int
    distances: int
    block: int


@dataclass(frozen=True)
class GridFormat(Format):
    """A format whose groups of weights are points of a grid: magnitudes, with the signs apart.

    Attributes:
        search: how the scale of a block is found, with importances and without.
        variance: how often the mean square of a super-block counts in the weights of errors.
        alone: the same without importances; None for a format that cannot do without.
        nothing: a block whose largest value is below this is all zeros.
        even_signs: whether eight weights have an even number of signs, of which seven are stored.
        fits_all: whether the last fit looks up all groups of a block, and not only those that were off the grid.
        factor: what the unit of the scales is multiplied by before it is stored.
        from_unit: whether the search begins with a fit of the values to multiples of a unit (``make_qp_quants``), and
            not with the largest; such a format makes the last fit always.
    """

    search: GridSearch
    variance: float
    alone: float | None
    nothing: float
    even_signs: bool
    fits_all: bool
    factor: float
    from_unit: bool = False

    @property
    def shape(self) -> GridShape:
        """The numbers of its grid."""
        return GRID_SHAPES[self.type]

    @property
    def weighted(self) -> GridSearch:
        """The search with importances."""
        return self.search

    @property
    def prepares_long(self) -> bool:
        return self.shape.group == 8


@dataclass(frozen=True)
class SplitFormat(Format):
    """A format with three levels, whose groups of weights are points of a grid.

    Attributes:
        search: how the scale and the levels of a block are found, with importances and without.
        nothing: a block whose largest magnitude is below this is all zeros.
        factor: what the unit of the scales is multiplied by before it is stored.
        fits_unit: whether the unit is fitted to the levels as they are stored.
    """

    search: SplitSearch
    nothing: float
    factor: float
    fits_unit: bool

    @property
    def shape(self) -> GridShape:
        """The numbers of its grid."""
        return GRID_SHAPES[self.type]

    @property
    def weighted(self) -> SplitSearch:
        """The search with importances."""
        return self.search

    @property
    def prepares_long(self) -> bool:
        return self.shape.group == 8


# The points themselves are libggml's, see quantkit.kernels.grids.
GRID_SHAPES: dict[GGMLType, GridShape] = {
    GGMLType.IQ1_M: GridShape(2048, 8, 3, 3, 16),
    GGMLType.IQ1_S: GridShape(2048, 8, 3, 3, 32),
    GGMLType.IQ2_S: GridShape(1024, 8, 3, 1, 16),
    GGMLType.IQ2_XS: GridShape(512, 8, 3, 2, 16),
    GGMLType.IQ2_XXS: GridShape(256, 8, 3, 2, 32),
    GGMLType.IQ3_S: GridShape(512, 4, 8, 3, 32),
    GGMLType.IQ3_XXS: GridShape(256, 4, 8, 2, 32),
}

# The values of IQ4_NL and IQ4_XS in ascending order, which define these formats.
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

K_QUANTS: dict[GGMLType, KQuant] = {
    form.type: form
    for form in (
        KQuant(GGMLType.Q2_K, "Affine16", (80, 82), 16, 0, 3, AffineSearch(-0.5, 15, absolute=True)),
        KQuant(GGMLType.Q3_K, "Symmetric3", (108,), 16, -4, 3, MovingSearch(5)),
        KQuant(GGMLType.Q4_K, "Affine32", (0, 2), 32, 0, 15, AffineSearch(-1.0, 20, absolute=False)),
        KQuant(GGMLType.Q5_K, "Affine32", (0, 2), 32, 0, 31, AffineSearch(-0.5, 15, absolute=False)),
        KQuant(GGMLType.Q6_K, "Symmetric6", (208,), 16, -32, 31, TrialSearch(9)),
    )
}
BLOCK_FORMATS: dict[GGMLType, BlockFormat] = {
    form.type: form
    for form in (
        BlockFormat(GGMLType.Q4_0, "BlockSymmetric", (0,), 4, lanes=True),
        BlockFormat(GGMLType.Q4_1, "BlockAffine", (0, 2), 4),
        BlockFormat(GGMLType.Q5_0, "BlockSymmetric", (0,), 5),
        BlockFormat(GGMLType.Q5_1, "BlockAffine", (0, 2), 5),
        BlockFormat(GGMLType.Q8_0, "Block8", (0,), 8, lanes=True),
    )
}
TABLE_FORMATS: dict[GGMLType, TableFormat] = {
    form.type: form
    for form in (
        TableFormat(GGMLType.IQ4_NL, "TableBlock", (0,), TrialSearch(7), 1),
        TableFormat(GGMLType.IQ4_XS, "TableSuper", (0,), TrialSearch(7), 8),
    )
}
GRID_FORMATS: dict[GGMLType, GridFormat] = {
    form.type: form
    for form in (
        # Of values that arithmetic decides none but zero is below 1e-25.
        GridFormat(GGMLType.IQ3_S, "GridPlain", (0,), GridSearch(9, 0.2), 2, 0, 1e-25, False, True, 1.033),
        GridFormat(GGMLType.IQ3_XXS, "GridEven", (0,), GridSearch(15, 0.2), 2, 0, 1e-8, True, False, 1.0125),
        GridFormat(GGMLType.IQ2_S, "GridTen", (0,), GridSearch(9, 0.1), 2, 0.5, 1e-8, False, False, 0.9875),
        GridFormat(
            GGMLType.IQ2_XXS, "GridEight", (0,), GridSearch(6, 0.1), 1, None, NOTHING, True, True, 1.0, from_unit=True
        ),
        GridFormat(GGMLType.IQ2_XS, "GridNine", (0,), GridSearch(9, 0.1), 1, None, NOTHING, True, False, 1.0),
    )
}
SPLIT_FORMATS: dict[GGMLType, SplitFormat] = {
    form.type: form
    for form in (
        # IQ1_M has no place for its unit as such: a nibble of it is in each word of scales.
        SplitFormat(GGMLType.IQ1_M, "SplitBlocksOfTwo", (), SplitSearch(2), 1e-7, 1.1125, fits_unit=True),
        SplitFormat(GGMLType.IQ1_S, "SplitBlocksOfOne", (0,), SplitSearch(1), 1e-12, 1.125, fits_unit=False),
    )
}
# Formats whose levels follow from the largest magnitude alone.
SMALL_FORMATS: dict[GGMLType, Format] = {
    form.type: form
    for form in (
        Format(GGMLType.MXFP4, "ExponentBlock", ()),
        Format(GGMLType.TQ1_0, "Ternary1", (52,)),
        Format(GGMLType.TQ2_0, "Ternary2", (64,)),
    )
}
FORMATS: dict[GGMLType, Format] = {
    **BLOCK_FORMATS,
    **K_QUANTS,
    **TABLE_FORMATS,
    **GRID_FORMATS,
    **SPLIT_FORMATS,
    **SMALL_FORMATS,
}
# Formats that can be encoded without importances.
PLAIN = frozenset(FORMATS) - NEEDS_IMPORTANCE
# Of these, formats with compiled encoders for the processor.
IN_LANES = PLAIN - {form.type for form in BLOCK_FORMATS.values() if not form.lanes}
# Formats whose kernels read the table of a grid, see quantkit.kernels.grids.
WITH_GRID = frozenset({*GRID_FORMATS, *SPLIT_FORMATS})
# Formats that a compiled call encodes together with merging and rounding.
ONE_CALL = frozenset({GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.TQ1_0, GGMLType.TQ2_0})
# Formats whose blocks do not depend on importances.
UNWEIGHTED = frozenset({GGMLType.Q8_0, *SMALL_FORMATS})
# Formats that have encoders with importances, for the processor and in CUDA.
WEIGHTED = frozenset(kind for kind, form in FORMATS.items() if form.weighted is not None)
