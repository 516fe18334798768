"""Every way to encode gives ggml's bytes: the specification, the compiled lanes, and the kernels' own source."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import quantkit
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import encode as encoding
from quantkit.kernels import lanes
from quantkit.kernels.arithmetic import nearest_int
from quantkit.kernels.cache import keep, read_kept
from quantkit.kernels.cuda_source import Variant, program
from quantkit.kernels.formats import (
    GRID_FORMATS,
    IN_LANES,
    IQ4_VALUES,
    PLAIN,
    SPLIT_FORMATS,
    TABLE_FORMATS,
    UNWEIGHTED,
    WEIGHTED,
    WITH_GRID,
)
from quantkit.kernels.mxfp4 import FIRST, early_steps
from quantkit.kernels.reference.encode import encode as specified
from quantkit.kernels.rounding import SMALLEST, decided, weighable
from tests.support.host_encoders import HostEncoders, compiler
from tests.support.weights import blocks, columns_importance, distributions, importances

Encode = Callable[[GGMLType, np.ndarray], np.ndarray]

# Not a multiple of the lanes' groups.
DISTRIBUTIONS = distributions(21)
MANY = distributions(37)["heavy tails"]
# Of rows, those that the specification of a grid encodes too: it takes milliseconds for a block.
FEW = slice(None, None, 5)
every_kind = pytest.mark.parametrize("kind", sorted(PLAIN), ids=lambda kind: kind.name)
every_table = pytest.mark.parametrize("kind", sorted(TABLE_FORMATS), ids=lambda kind: kind.name)
every_grid = pytest.mark.parametrize("kind", sorted(GRID_FORMATS), ids=lambda kind: kind.name)
in_lanes = pytest.mark.parametrize("kind", sorted(IN_LANES), ids=lambda kind: kind.name)
every_weighted = pytest.mark.parametrize("kind", sorted(WEIGHTED), ids=lambda kind: kind.name)
any_blocks = settings(max_examples=50)


def by_ggml(kind: GGMLType, rows: np.ndarray) -> np.ndarray:
    return ggml.quantize_rows(kind, rows).reshape(-1, kind.block_nbytes)


def by_specification(kind: GGMLType, rows: np.ndarray) -> np.ndarray:
    return specified(kind, rows)


def by_lanes(kind: GGMLType, rows: np.ndarray) -> np.ndarray:
    encoded = lanes.encode(kind, rows)
    assert encoded is not None
    return encoded


def by_weighted_lanes(kind: GGMLType, rows: np.ndarray, importance: np.ndarray) -> np.ndarray:
    encoded = lanes.encode(kind, rows, importance)
    assert encoded is not None
    return encoded


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostEncoders:
    if compiler() is None:
        pytest.skip("there is no C++ compiler")
    return HostEncoders(tmp_path_factory.mktemp("host"))


@pytest.fixture(autouse=True)
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of these tests are few, and encoded as large ranges are."""
    monkeypatch.setattr(encoding, "WORTH_NUMBA", 0)


@pytest.fixture(scope="module")
def numba() -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")


def assert_ggml(encode: Encode, kind: GGMLType, rows: np.ndarray) -> None:
    differing = (encode(kind, rows) != by_ggml(kind, rows)).any(axis=1)
    assert not differing.any(), f"{differing.sum()} of {differing.size} blocks differ, first {differing.argmax()}"


def assert_ggml_for_all(encode: Encode, kind: GGMLType) -> None:
    for name, values in DISTRIBUTIONS.items():
        for rows in (values, values.astype(np.float16).astype(np.float32)):
            differing = (encode(kind, rows) != by_ggml(kind, rows)).any(axis=1)
            assert not differing.any(), f"{name}: {differing.sum()} of {differing.size} blocks differ"


@cache
def weighted_by_ggml(kind: GGMLType) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """What it is, rows, importances, and ggml's blocks, which some formats take seconds for.

    Rows of one super-block and, with some importances, of many: blocks of 32 depend on their whole row.
    """
    found = []
    for columns in (256, 21 * 256 // 2 // 256 * 256):
        weights = importances(columns)
        if columns > 256:
            weights = {how: weights[how] for how in ("random", "with zeros", "mostly zeros", "the largest")}
        for name, values in DISTRIBUTIONS.items():
            rows = np.ascontiguousarray(values.reshape(-1)[: values.size // columns * columns].reshape(-1, columns))
            for how, importance in weights.items():
                blocks = ggml.quantize_rows(kind, rows, importance).reshape(-1, kind.block_nbytes)
                found.append((f"{name}, {how}", rows, importance, blocks))
    return found


def assert_ggml_by_importance(encode: Callable[..., np.ndarray], kind: GGMLType) -> None:
    for what, rows, importance, expected in weighted_by_ggml(kind):
        differing = (encode(kind, rows, importance) != expected).any(axis=1)
        assert not differing.any(), f"{what}: {differing.sum()} of {differing.size} blocks differ"


def assert_every_way(kind: GGMLType, host: HostEncoders, rows: np.ndarray, importance: np.ndarray | None) -> None:
    """Of rows of one super-block: the kernels' source, the lanes, and of few rows the specification."""
    expected = by_blocks(kind, ggml.quantize_rows(kind, rows, importance))
    for encode in (host.encode, lanes.encode):
        encoded = encode(kind, rows, importance)
        assert encoded is not None
        assert encoded.tobytes() == expected.tobytes()
    few = np.ascontiguousarray(rows[FEW])
    assert specified(kind, few, importance).tobytes() == expected[FEW].tobytes()


def by_blocks(kind: GGMLType, encoded: np.ndarray) -> np.ndarray:
    return encoded.reshape(-1, kind.block_nbytes)


@every_kind
def test_the_specification_is_ggml(kind: GGMLType) -> None:
    assert_ggml_for_all(by_specification, kind)


@every_kind
def test_the_kernels_source_is_ggml(kind: GGMLType, host: HostEncoders) -> None:
    assert_ggml_for_all(host.encode, kind)


@every_weighted
def test_the_kernels_source_is_ggml_with_importances(kind: GGMLType, host: HostEncoders) -> None:
    assert_ggml_by_importance(host.encode, kind)


@every_weighted
def test_lanes_are_ggml_with_importances(kind: GGMLType, numba: None) -> None:
    assert_ggml_by_importance(by_weighted_lanes, kind)


@every_weighted
def test_any_number_of_weighted_rows(kind: GGMLType, numba: None) -> None:
    values, weights = MANY, importances(768)["with zeros"]
    for count in (0, 1, 2, 5, 11):
        rows = np.ascontiguousarray(values.reshape(-1)[: count * 768].reshape(count, 768))
        expected = ggml.quantize_rows(kind, rows, weights).reshape(-1, kind.block_nbytes)
        assert np.array_equal(by_weighted_lanes(kind, rows, weights), expected)


@every_weighted
def test_what_searches_cannot_decide_with_importances_goes_to_ggml(
    kind: GGMLType, numba: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantkit.kernels import lane_weighted

    monkeypatch.setattr(lane_weighted, "_WILD", np.float32(0))
    lane_weighted.affine.cache_clear()
    rows = np.ascontiguousarray(DISTRIBUTIONS["negative"].reshape(1, -1)[:, : 9 * 256])
    weights = importances(9 * 256)["random"]
    expected = ggml.quantize_rows(kind, rows, weights)
    assert by_weighted_lanes(kind, rows, weights).tobytes() == expected.tobytes()
    lane_weighted.affine.cache_clear()


@every_weighted
@any_blocks
@given(rows=blocks(), importance=columns_importance())
def test_every_way_is_ggml_with_any_importances(
    kind: GGMLType, host: HostEncoders, rows: np.ndarray, importance: np.ndarray
) -> None:
    assert weighable(importance)
    expected = ggml.quantize_rows(kind, rows, importance)
    assert host.encode(kind, rows, importance).tobytes() == expected.tobytes()
    if kind in {**TABLE_FORMATS, **GRID_FORMATS, **SPLIT_FORMATS}:
        assert specified(kind, rows, importance).tobytes() == expected.tobytes()
    assert bytes(encoding.encode(kind, rows, importance)) == expected.tobytes()


@every_table
def test_the_specification_is_ggml_with_importances(kind: GGMLType) -> None:
    assert_ggml_by_importance(specified, kind)


@every_table
def test_trials_whose_values_change_next_to_a_middle(kind: GGMLType, host: HostEncoders, numba: None) -> None:
    """Quotients of every trial at the middles of the table and one step of float32 to each side."""
    middles = np.array([(low + high) / 2 for low, high in itertools.pairwise(IQ4_VALUES)], dtype=np.float32)
    assert np.diff(middles).min() > 7.1  # from the central trial to the outermost at most 7: across one middle
    rows = []
    for largest in np.float32([1, -1, 0.37, -0.011]):
        for step in range(-7, 8):
            exact = middles * (largest / np.float32(step - 127))
            for to in (-np.inf, None, np.inf):
                near = exact if to is None else np.nextafter(exact, np.float32(to))
                rows.append(np.resize(np.concatenate([[largest], near, [0.0]]), 256))
    values = np.array(rows, dtype=np.float32)
    for importance in (None, importances()["random"]):
        expected = ggml.quantize_rows(kind, values, importance).tobytes()
        for encode in (specified, host.encode, lanes.encode):
            assert encode(kind, values, importance).tobytes() == expected


@every_table
def test_a_scale_whose_inverse_is_infinite(kind: GGMLType, host: HostEncoders, numba: None) -> None:
    """Infinity times zero is NaN, of which processors and devices keep different bits."""
    values, importance = np.zeros((2, 256), dtype=np.float32), np.zeros(256, dtype=np.float32)
    values[:, 0], values[0, 1], values[1, 1], values[:, 70] = 1, 1e-20, -1e-20, 0.5
    importance[1:3] = 1, 1e20
    expected = ggml.quantize_rows(kind, values, importance).tobytes()
    for encode in (specified, host.encode, lanes.encode):
        assert encode(kind, values, importance).tobytes() == expected


def with_and_without(kind: GGMLType, *importance: np.ndarray) -> tuple[np.ndarray | None, ...]:
    """Importances, and none for a format that can do without."""
    return (None, *importance) if kind in PLAIN else importance


@every_grid
def test_the_specification_of_a_grid_is_ggml_with_importances(kind: GGMLType) -> None:
    for what, rows, importance, expected in weighted_by_ggml(kind):
        if rows.shape[1] == 256 and what.endswith((", random", ", with zeros", ", the largest")):
            few = np.ascontiguousarray(rows[FEW])
            assert specified(kind, few, importance).tobytes() == expected[FEW].tobytes(), what


@every_grid
def test_groups_next_to_where_levels_and_neighbours_change(kind: GGMLType, host: HostEncoders, numba: None) -> None:
    """Weights at lattice points and half-way between them, in float32's neighbours too: errors are equal, or almost."""
    random = np.random.default_rng(5)
    shape = GRID_FORMATS[kind].shape
    highest = 2 * shape.levels - 1
    rows = (random.integers(0, highest + 1, (200, 256)) * random.choice([-1, 1], (200, 256))).astype(np.float32)
    rows[:, :: shape.block] = highest  # the largest of each block
    steps = np.float32([0, 0, -1, 1]) * np.float32(2.0**-20)
    rows *= (1 + random.choice(steps, rows.shape)) * np.float32(0.37)
    rows[::2] *= np.exp2(-random.integers(0, 40, (100, 1)).astype(np.float32))
    for importance in with_and_without(kind, np.ones(256, dtype=np.float32), importances()["with zeros"]):
        assert_every_way(kind, host, rows, importance)


@every_grid
def test_a_spike_in_each_block(kind: GGMLType, host: HostEncoders, numba: None) -> None:
    """All other weights have the lowest level, and with an importance of zero the spike has no part in the fit."""
    rows, importance = DISTRIBUTIONS["weights"].copy(), np.ones(256, dtype=np.float32)
    rows[:, 5::16] = np.geomspace(0.1, 60000, rows.shape[0], dtype=np.float32)[:, None]
    rows[1::2, 5::32] *= -1
    importance[5::16] = 0
    for weights in with_and_without(kind, importance, importances()["random"]):
        assert_every_way(kind, host, rows, weights)


@every_grid
def test_blocks_of_zeros_between_others(kind: GGMLType, host: HostEncoders, numba: None) -> None:
    """In IQ3_S the blocks after one of zeros move forward, where low bits and signs are stored."""
    rows = np.repeat(DISTRIBUTIONS["weights"][:8], 32, axis=0)
    for number, row in enumerate(rows):
        row.reshape(8, 32)[(number >> np.arange(8) & 1) == 1] = 0
    for importance in with_and_without(kind, importances()["mostly zeros"]):
        assert_every_way(kind, host, rows, importance)


@every_grid
def test_a_weight_far_below_zero_that_does_not_matter(kind: GGMLType, host: HostEncoders, numba: None) -> None:
    """Its sign changes where the number of signs must be even: a value far below the lowest, which wraps as in C."""
    rows, importance = DISTRIBUTIONS["scales below float16"].copy(), importances()["random"]
    importance[::8] = 0
    rows[:, ::8] = -np.geomspace(1e-7, 60000, rows[:, ::8].size, dtype=np.float32).reshape(rows[:, ::8].shape)
    assert_every_way(kind, host, rows, importance)


@every_grid
def test_lanes_do_not_depend_on_what_they_doubt(kind: GGMLType, numba: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lines do not decide, ggml's sums do: with a margin that no line has, everywhere."""
    from quantkit.kernels import lane_grid, lane_points

    def forget() -> None:
        lane_grid.search.cache_clear()
        lane_points.steps_of.cache_clear()

    monkeypatch.setattr(lane_points, "_MARGIN", np.float32(1e6))
    forget()
    importance = importances()["random"]
    for name in ("weights", "heavy tails", "coarse"):
        rows = DISTRIBUTIONS[name]
        expected = ggml.quantize_rows(kind, rows, importance).tobytes()
        assert by_weighted_lanes(kind, rows, importance).tobytes() == expected
    forget()


def test_mxfp4_next_to_powers_of_two(host: HostEncoders, numba: None) -> None:
    """ggml's log2f rounds up to a whole number a few floats before a power of two."""
    powers = np.ldexp(np.float32(1), np.arange(-82, 16)).astype(np.float32)
    largest = (powers.view(np.int32)[:, None] + np.arange(-130, 3, dtype=np.int32)).view(np.float32).reshape(-1, 1)
    some = np.float32([[1, -0.5, 1 / 3, 0.75, -0.25, 0, -0.125, 0.0625, -0.03125, 0.9, 5 / 16, -7 / 16, 0.1875, 1e-3]])
    rows = np.resize(np.concatenate([some, -some], axis=1), (largest.size, 32)) * largest
    rows = np.where(np.abs(rows) < SMALLEST, np.float32(0), rows)[largest[:, 0] > 4 * SMALLEST]
    rows = np.ascontiguousarray(rows.astype(np.float32))
    for encode in (by_specification, host.encode, by_lanes):
        assert_ggml(encode, GGMLType.MXFP4, rows)
    steps = early_steps()
    assert steps.max() < 100
    assert steps[-FIRST - 1 : -FIRST + 2].tolist() == [0, 0, 0]  # beside 1 a logarithm has many digits


@pytest.mark.parametrize("kind", sorted(UNWEIGHTED), ids=lambda kind: kind.name)
def test_importances_without_effect(kind: GGMLType) -> None:
    rows, importance = DISTRIBUTIONS["weights"], importances()["random"]
    expected = ggml.quantize_rows(kind, rows, importance).tobytes()
    assert bytes(encoding.encode(kind, rows, importance)) == expected == by_ggml(kind, rows).tobytes()


def test_the_table_is_ggmls() -> None:
    one = np.array([1], dtype="<f2").view(np.uint8)
    block = np.concatenate([one, np.arange(16, dtype=np.uint8)]).tobytes()
    assert ggml.dequantize_rows(GGMLType.IQ4_NL, block, 32)[0, :16].tolist() == list(IQ4_VALUES)


@in_lanes
def test_lanes_are_ggml(kind: GGMLType, numba: None) -> None:
    assert_ggml_for_all(by_lanes, kind)


@every_kind
@any_blocks
@given(rows=blocks())
def test_every_way_is_ggml_for_any_values(kind: GGMLType, host: HostEncoders, rows: np.ndarray) -> None:
    assert_ggml(by_specification, kind, rows)
    assert_ggml(host.encode, kind, rows)
    if kind in IN_LANES and lanes.available():
        assert_ggml(by_lanes, kind, rows)
    assert bytes(encoding.encode(kind, rows)) == by_ggml(kind, rows).tobytes()


@in_lanes
def test_counts_that_do_not_fill_the_lanes(kind: GGMLType, numba: None) -> None:
    for count in (1, 2, 7, 8, 9, 15, 16, 17, 32, 33):
        assert_ggml(by_lanes, kind, MANY[:count])
    assert_ggml(by_lanes, kind, np.ascontiguousarray(MANY.reshape(-1)[: 36 * 256].reshape(3, -1)))
    assert by_lanes(kind, MANY[:0]).shape == (0, kind.block_nbytes)


@in_lanes
def test_sub_blocks_whose_stored_scale_is_zero(kind: GGMLType, numba: None) -> None:
    rows = DISTRIBUTIONS["weights"].copy()
    rows[::3, :64] *= np.float32(1e-6)  # next to the others these round to nothing
    rows[1, 32:96] = 0
    assert_ggml(by_lanes, kind, rows)


@in_lanes
def test_values_that_arithmetic_does_not_decide_go_to_ggml(kind: GGMLType, numba: None) -> None:
    for value in (1e-26, 1e-40, 65536.0, 1e30):
        if kind in WITH_GRID and value == 1e30:
            continue  # ggml's errors overflow, and it aborts
        rows = DISTRIBUTIONS["weights"][:2].copy()
        rows[1, 200] = -value
        assert not decided(rows)
        assert lanes.encode(kind, rows) is None
        assert bytes(encoding.encode(kind, rows)) == by_ggml(kind, rows).tobytes()


@in_lanes
def test_without_numba_ggml_encodes(kind: GGMLType, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(lanes, "available", lambda: False)
    monkeypatch.setattr(lanes, "encode", never)
    rows = DISTRIBUTIONS["weights"][:2]
    assert bytes(encoding.encode(kind, rows)) == by_ggml(kind, rows).tobytes()


def test_only_tests_import_the_reference() -> None:
    package = Path(quantkit.__file__).parent
    importers = {path for path in package.rglob("*.py") if "quantkit.kernels.reference" in path.read_text("utf-8")}
    assert {path.parent.name for path in importers} == {"reference"}


def in_three_threads(encode: Encode, kind: GGMLType, inputs: list[np.ndarray]) -> dict[int, set[bytes]]:
    """By number of the input: what came out in ten calls, while the others were encoded."""
    start = threading.Barrier(3)
    found: dict[int, set[bytes]] = {}

    def work(number: int) -> None:
        start.wait()
        found[number] = {encode(kind, inputs[number]).tobytes() for _ in range(10)}

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@in_lanes
def test_threads_share_nothing(kind: GGMLType, numba: None) -> None:
    inputs = [np.ascontiguousarray(DISTRIBUTIONS[name]) for name in ("weights", "positive", "log-uniform")]
    expected = {number: {by_ggml(kind, rows).tobytes()} for number, rows in enumerate(inputs)}
    assert in_three_threads(by_lanes, kind, inputs) == expected


@every_weighted
def test_threads_share_nothing_with_importances(kind: GGMLType, numba: None) -> None:
    inputs = [np.ascontiguousarray(DISTRIBUTIONS[name]) for name in ("weights", "positive", "log-uniform")]
    weights = importances()["random"]
    found = in_three_threads(lambda kind, rows: by_weighted_lanes(kind, rows, weights), kind, inputs)
    assert found == {number: {ggml.quantize_rows(kind, rows, weights).tobytes()} for number, rows in enumerate(inputs)}


@in_lanes
def test_small_ranges_do_not_wait_for_numba(kind: GGMLType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # as it is outside of these tests
    asked: list[int] = []
    monkeypatch.setattr(lanes, "available", lambda: True)
    monkeypatch.setattr(lanes, "encode", lambda kind, rows, importance: asked.append(rows.size))
    for count in (1 << 10, 1 << 18):
        rows = np.zeros((1, count), dtype=np.float32)
        assert bytes(encoding.encode(kind, rows)) == by_ggml(kind, rows).tobytes()
    assert asked == [1 << 18]


@pytest.mark.parametrize("writable", [True, False])
def test_what_numba_compiles_is_kept_where_that_is_possible(
    writable: bool, numba: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantkit.kernels.lane_common import compiled

    def double(values: np.ndarray) -> None:
        values[0] *= 2

    folder = tmp_path / "cache"
    if not writable:
        folder.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    values = np.ones(1, dtype=np.float32)
    compiled(double)(values)
    assert values[0] == 2
    assert len(list(folder.glob("quantkit/numba/**/*.nbc"))) == writable


def test_what_numba_compiled_is_found_again(numba: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its closure has other compiled functions, which are new in each process; not with other constants."""
    from quantkit.kernels.lane_common import compiled, inlined

    def make(constant: float) -> Callable[[float], float]:
        @inlined
        def times(value: float) -> float:
            return value * constant

        def run(value: float) -> float:
            return times(value)

        return compiled(run)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    for constant, hits in ((2.0, 0), (2.0, 1), (3.0, 0)):
        function = make(constant)
        assert function(1.5) == constant * 1.5
        assert sum(function.stats.cache_hits.values()) == hits


def test_a_numba_that_does_not_import_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    lanes.available.cache_clear()
    assert not lanes.available()
    lanes.available.cache_clear()


def test_what_arithmetic_decides() -> None:
    assert decided(np.array([0.0, -0.0, 1.0, -65504.0, 1e-7, 6e-8], dtype=np.float32))
    assert decided(np.empty((0, 256), dtype=np.float32))
    for value in (1e-26, 66000.0, -1e38, np.inf, np.nan):
        assert not decided(np.array([1.0, value], dtype=np.float32))


def test_importances_that_arithmetic_decides() -> None:
    assert weighable(np.array([0.0, 1e-40, 1.0, 1e20], dtype=np.float32))
    for value in (-1.0, 1e21, np.inf, np.nan):
        assert not weighable(np.array([1.0, value], dtype=np.float32))


def test_nearest_int_wraps_as_its_bits_do() -> None:
    values = np.array([0.5, 1.5, -2.5, 4194303.0, 4194304.0, 12582912.0, np.inf, -np.inf], dtype=np.float32)
    # 0x4b400000 is the shift's own pattern; beyond 2**22 the exponent changes and the mantissa means something else.
    expected = [0, 2, -2, 4194303, -4194304, 0, -4194304, -4194304]
    assert nearest_int(values).tolist() == expected


def test_the_program_encodes_every_format_in_one_kernel() -> None:
    variant = Variant(GGMLType.BF16, GGMLType.F16, (GGMLType.Q6_K, GGMLType.Q4_0))
    source, headers = program(variant)
    assert source.splitlines()[-4:] == [
        "BEGIN(BF16, F16)",
        "ENCODE(0, encode_super_blocks, Symmetric6<format::Q6_K>)",
        "ENCODE(1, encode_blocks, BlockSymmetric<format::Q4_0>)",
        "END",
    ]
    assert set(headers) == {"encoders.cu", "weighted.cu", "table.cu", "small.cu", "grid.cu", "split.cu", "formats.h"}


def test_the_program_encodes_with_importances_where_there_are_some() -> None:
    kinds = (GGMLType.Q4_K, GGMLType.Q4_K, GGMLType.Q5_1)
    source, _ = program(Variant(GGMLType.BF16, GGMLType.F16, kinds, weighted=(1, 2)))
    assert source.splitlines()[-6:] == [
        "BEGIN(BF16, F16)",
        "ENCODE(0, encode_super_blocks, Affine32<format::Q4_K>)",
        "ENCODE_WEIGHTED(1, encode_weighted_super_blocks, WeightedAffine32<weighted::Q4_K>)",
        "ENCODE_WEIGHTED(2, encode_weighted_blocks, WeightedBlockAffine<weighted::Q5_1>)",
        "END",
        "SQUARES(BF16, F16)",
    ]
    assert not Variant(GGMLType.BF16, GGMLType.F16, kinds, weighted=(1,)).needs_squares


def test_a_kept_binary_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "kernels" / "a.cubin"
    assert read_kept(path) is None
    keep(path, b"binary")
    assert read_kept(path) == b"binary"
    assert [child.name for child in path.parent.iterdir()] == ["a.cubin"]
    path.write_bytes(path.read_bytes()[:-1])
    assert read_kept(path) is None
    blocked = tmp_path / "file"
    blocked.touch()
    keep(blocked / "b.cubin", b"binary")  # no folder can be made there
    assert read_kept(blocked / "b.cubin") is None
