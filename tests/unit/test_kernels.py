"""The encoders against two oracles: libggml, and the gguf library where it can encode the type."""

from __future__ import annotations

import threading

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType
from quantkit.kernels import encode as encoding
from quantkit.kernels import lanes
from quantkit.kernels.arithmetic import first_largest
from quantkit.kernels.encode import encode
from quantkit.kernels.rounding import decided, round_to

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

RANDOM = np.random.default_rng(7)
NORMAL = RANDOM.standard_normal((64, 64), dtype=np.float32)
# Halves of the step: with 127 in a block the scale is exactly 1, and k + 0.5 must be rounded away from zero.
HALVES = np.arange(-126.5, 127.5, 1, dtype=np.float32).reshape(127, 2).repeat(16, axis=1)
HALVES[:, 0] = 127.0
BELOW_HALF = np.tile(np.nextafter(np.float32(0.5), np.float32(0)) * np.array([1, -1], dtype=np.float32), (2, 16))
BELOW_HALF[:, 5] = 127.0
ONE_OUTLIER = NORMAL.copy()
ONE_OUTLIER[:, 17] = 1e4
ZERO_BLOCKS = NORMAL.copy()
ZERO_BLOCKS[::3] = 0.0
ZERO_BLOCKS[1, :32] = -0.0
TIES = np.where(RANDOM.random((8, 32)) < 0.5, -1.0, 1.0).astype(np.float32)

DISTRIBUTIONS = {
    "gaussian": NORMAL,
    "heavy-tails": (NORMAL**7).astype(np.float32),
    "log-uniform": (np.sign(NORMAL) * np.exp(NORMAL * 3)).astype(np.float32),
    "weights": NORMAL.astype(np.float16).astype(np.float32) / 64,
    "zero-blocks": ZERO_BLOCKS,
    "all-zero": np.zeros((2, 32), dtype=np.float32),
    "constant": np.full((3, 32), -0.0625, dtype=np.float32),
    "halves": HALVES,
    "below-half": BELOW_HALF.astype(np.float32),
    "one-outlier": ONE_OUTLIER,
    "same-magnitudes": TIES,
    "largest-half": np.full((1, 32), 65504.0, dtype=np.float32) * TIES[:1],
    "half-subnormals": NORMAL * np.float32(2.0**-20),
    "scale-subnormal": NORMAL * np.float32(1e-6),
    "large": NORMAL * np.float32(1e6),
    # The scale is zero, the values are not.
    "smallest": np.eye(2, 32, dtype=np.float32) * np.float32(1e-45),
    "many-columns": RANDOM.standard_normal((1, 4096), dtype=np.float32),
}
# One over the scale is infinite: libggml's bytes are what the processor makes of the conversion.
TINY = {
    "subnormals": np.full((1, 32), 1e-41, dtype=np.float32) * TIES[:1],
    "mixed": np.concatenate([NORMAL[:1, :32], np.full((1, 32), 1e-40, dtype=np.float32)]),
}


both = pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.Q8_0], ids=lambda kind: kind.name)


def floats(values: np.ndarray) -> np.ndarray:
    return np.array(values, dtype=np.float32, order="C")


def by_ggml(kind: GGMLType, values: np.ndarray) -> bytes:
    return ggml.quantize_rows(kind, np.ascontiguousarray(values, dtype=np.float32)).tobytes()


def by_gguf(kind: GGMLType, values: np.ndarray) -> bytes:
    return gguf.quants.quantize(values.copy(), gguf.GGMLQuantizationType(kind.value)).tobytes()


@pytest.fixture(autouse=True)
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of these tests are few, and encoded as large ranges are."""
    monkeypatch.setattr(encoding, "WORTH_NUMBA", 0)


def test_a_block_by_hand() -> None:
    values = np.zeros((1, 32), dtype=np.float32)
    values[0, :4] = [127.0, -2.5, 0.5, -127.0]
    expected = b"\x00\x3c" + bytes([127, 256 - 3, 1, 256 - 127]) + bytes(28)
    assert bytes(encode(GGMLType.Q8_0, values)) == expected


def test_a_q4_0_block_by_hand() -> None:
    values = np.zeros((1, 32), dtype=np.float32)
    values[0, :3] = [-8.0, 7.0, 0.5]
    values[0, 16] = -1.0
    # d = -8 / -8 = 1; levels are int(x + 8.5): 0, 15, 9, and 7 in the upper half of the first byte
    assert bytes(encode(GGMLType.Q4_0, values)) == b"\x00\x3c" + bytes([0x70, 0x8F, 0x89]) + b"\x88" * 13


@both
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_an_encoder_is_ggml(kind: GGMLType, name: str) -> None:
    values = DISTRIBUTIONS[name]
    ours = lanes.encode(kind, floats(values))
    assert (ours is not None) == decided(floats(values))
    if ours is not None:
        assert ours.shape == (values.size // 32, kind.block_nbytes)
        assert ours.tobytes() == by_ggml(kind, values)
    assert bytes(encode(kind, floats(values))) == by_ggml(kind, values)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_q8_0_is_the_gguf_library(name: str) -> None:
    assert bytes(encode(GGMLType.Q8_0, floats(DISTRIBUTIONS[name]))) == by_gguf(GGMLType.Q8_0, DISTRIBUTIONS[name])


@both
@pytest.mark.parametrize("name", TINY)
def test_what_arithmetic_does_not_decide_is_left_to_ggml(kind: GGMLType, name: str) -> None:
    values = TINY[name]
    assert lanes.encode(kind, floats(values)) is None
    assert bytes(encode(kind, floats(values))) == by_ggml(kind, values)


def test_the_first_of_equal_magnitudes_gives_q4_0_its_sign() -> None:
    values = np.zeros((2, 32), dtype=np.float32)
    values[0, 3], values[0, 20] = 1.0, -1.0
    values[1, 3], values[1, 20] = -1.0, 1.0
    assert first_largest(values).tolist() == [1.0, -1.0]
    assert not np.signbit(first_largest(np.full((1, 32), -0.0, dtype=np.float32))).any()


BLOCKS = st.integers(1, 3).flatmap(
    lambda count: st.lists(
        st.one_of(
            st.floats(width=32, allow_nan=False, allow_infinity=False),
            st.floats(-2, 2, width=32),
            st.integers(-254, 254).map(lambda k: k / 2),
            st.just(0.0),
        ),
        min_size=32 * count,
        max_size=32 * count,
    )
)


@both
@given(values=BLOCKS)
def test_an_encoder_is_ggml_for_any_values(kind: GGMLType, values: list[float]) -> None:
    rows = np.array(values, dtype=np.float32).reshape(-1, 32)
    assert bytes(encode(kind, floats(rows))) == by_ggml(kind, rows)


@given(values=st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=32, max_size=32), scale=st.integers(-30, 0))
def test_q8_0_is_the_gguf_library_for_any_finite_scale(values: list[float], scale: int) -> None:
    rows = np.array(values, dtype=np.float32).reshape(1, 32) * np.float32(2.0**scale)
    ours = lanes.encode(GGMLType.Q8_0, floats(rows))
    if ours is not None:
        assert ours.tobytes() == by_gguf(GGMLType.Q8_0, rows)


def test_q8_0_takes_whole_rows_only() -> None:
    with pytest.raises(ValueError, match="reshape"):
        lanes.encode(GGMLType.Q8_0, np.zeros((1, 33), dtype=np.float32))


def test_results_outlive_the_buffers_they_were_made_in() -> None:
    large, small = floats(NORMAL), floats(NORMAL[:1] * 3)
    first = encode(GGMLType.Q8_0, large)
    kept = bytes(first)
    second = encode(GGMLType.Q8_0, small)
    again = encode(GGMLType.Q8_0, large)
    assert bytes(first) == kept == bytes(again) == by_ggml(GGMLType.Q8_0, NORMAL)
    assert bytes(second) == by_ggml(GGMLType.Q8_0, NORMAL[:1] * 3)
    assert np.array_equal(large, NORMAL)  # the input is not written to


def test_threads_do_not_share_buffers() -> None:
    start, results = threading.Barrier(4), {}
    expected = {i: by_ggml(GGMLType.Q8_0, NORMAL * (i + 1)) for i in range(4)}

    def work(number: int) -> None:
        rows = floats(NORMAL * (number + 1))
        start.wait()
        results[number] = [bytes(encode(GGMLType.Q8_0, rows)) for _ in range(30)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: set(found) for i, found in results.items()} == {i: {found} for i, found in expected.items()}


@pytest.mark.parametrize("kind", [GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1], ids=lambda k: k.name)
@pytest.mark.parametrize("name", ["gaussian", "weights", "heavy-tails", "constant", "same-magnitudes"])
def test_types_without_an_encoder_go_to_ggml(kind: GGMLType, name: str) -> None:
    values = DISTRIBUTIONS[name]
    assert bytes(encode(kind, floats(values))) == by_ggml(kind, values) == by_gguf(kind, values)


def test_importance_reaches_ggml() -> None:
    values = np.tile(DISTRIBUTIONS["many-columns"][:, :256], (4, 1))
    importance = (RANDOM.random(256, dtype=np.float32) ** 4 + np.float32(1e-3)).astype(np.float32)
    with_it = bytes(encode(GGMLType.Q4_K, floats(values), importance))
    assert with_it == ggml.quantize_rows(GGMLType.Q4_K, values, importance).tobytes()
    assert with_it != bytes(encode(GGMLType.Q4_K, floats(values)))
    legacy = bytes(encode(GGMLType.Q4_0, floats(values), importance))
    assert legacy == ggml.quantize_rows(GGMLType.Q4_0, values, importance).tobytes()
    assert legacy != bytes(encode(GGMLType.Q4_0, floats(values)))
    # No influence on Q8_0, as in ggml.
    assert bytes(encode(GGMLType.Q8_0, floats(values), importance)) == by_ggml(GGMLType.Q8_0, values)


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.BF16], ids=lambda kind: kind.name)
def test_plain_types(kind: GGMLType) -> None:
    assert bytes(encode(kind, floats(NORMAL))) == round_to(NORMAL, kind).tobytes()
