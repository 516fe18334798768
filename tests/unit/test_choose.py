"""Choosing types: candidates, errors, groups, sensitivities, the search, and how a choice is written down."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.choose.altered import Alterable
from quantkit.choose.candidates import candidates, probe
from quantkit.choose.digits import rounded
from quantkit.choose.divergence import CONTEXT, sequence_count, sequences
from quantkit.choose.errors import SAMPLE_MATRICES, SAMPLE_WEIGHTS, measure_errors, sample_rows
from quantkit.choose.expressions import expressions, options
from quantkit.choose.groups import groups, role_of
from quantkit.choose.search import Measured, bounds, check_size, padded, search
from quantkit.choose.sensitivity import measure_sensitivities
from quantkit.engine.crew import opened_crew
from quantkit.engine.device import Workers
from quantkit.engine.gguf_source import gguf_tensors, open_source
from quantkit.engine.rows import Rows
from quantkit.errors import QuantizationError, QuantkitError
from quantkit.files.json_fields import Fields
from quantkit.ggml import library as ggml
from quantkit.ggml.types import GGMLType as T
from quantkit.gguf.header import TensorInfo, encode_header
from quantkit.gguf.kv import string
from quantkit.gguf.model import read_model
from quantkit.jobs.recipe import Recipe
from quantkit.plan.choice import BITS, Asked, Choice, ChosenTensor, Compared
from quantkit.plan.values import PlannedTensor

WORKERS = Workers(1)


def planned(name: str, *shape: int) -> PlannedTensor:
    return PlannedTensor(name, name, shape, T.F16)


class Stored:
    """Rows from arrays."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = {name.replace("__", "."): array.astype(np.float16) for name, array in arrays.items()}

    def rows(self, tensor: PlannedTensor, start: int, stop: int, memory: object = None) -> Rows:
        return Rows(self.arrays[tensor.name].reshape(-1, tensor.columns)[start:stop])

    def explain_non_finite(self, tensor: PlannedTensor, start: int, stop: int) -> QuantkitError | None:
        return None


def test_types_that_need_an_importance_are_for_tensors_that_have_one() -> None:
    tensor = planned("blk.0.attn_v.weight", 4, 512)
    without, weighted = candidates(tensor, ()), candidates(tensor, {tensor.name})
    assert set(weighted) - set(without) == {T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS}
    assert without[-1] is T.F16
    # llama.cpp encodes the embedding in these two without one
    assert {T.IQ2_S, T.IQ3_XXS} <= set(candidates(planned("token_embd.weight", 4, 512), ()))


def test_rows_that_are_no_multiple_of_256_have_types_with_small_blocks() -> None:
    found = candidates(planned("blk.0.attn_v.weight", 4, 288), ())
    assert found == (T.Q4_0, T.IQ4_NL, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.F16)
    assert probe(found) is T.Q4_0
    assert probe(candidates(planned("a", 4, 256), ())) is T.Q3_K
    assert probe((T.F16,)) is None


def test_the_error_is_that_of_the_weighted_squares() -> None:
    tensor = planned("blk.0.attn_v.weight", 8, 256)
    values = np.random.default_rng(1).normal(size=(8, 256)).astype(np.float16)
    importance = np.linspace(0.1, 3, 256, dtype=np.float32)
    found = measure_errors(
        {tensor: (T.Q4_K, T.F16)}, Stored(blk__0__attn_v__weight=values), {tensor.name: importance}, WORKERS
    )[tensor.name]
    rows = values.astype(np.float32)
    decoded = ggml.dequantize_rows(T.Q4_K, bytes(ggml.quantize_rows(T.Q4_K, rows, importance)), 256)
    expected = (importance * (rows - decoded) ** 2).sum() / (importance * rows**2).sum()
    assert found.by_type[T.Q4_K] == pytest.approx(expected, rel=1e-3)
    assert found.by_type[T.F16] == 0
    assert found.sampling == 0


def test_every_expert_is_weighted_by_its_own_importance() -> None:
    tensor = planned("blk.0.ffn_up_exps.weight", 2, 4, 256)
    values = np.random.default_rng(2).normal(size=(2, 4, 256)).astype(np.float16)
    values[1] *= 10  # of no importance
    importance = np.concatenate([np.ones(256), np.zeros(256)]).astype(np.float32)
    source = Stored(blk__0__ffn_up_exps__weight=values)
    both = measure_errors({tensor: (T.Q4_K,)}, source, {tensor.name: importance}, WORKERS)[tensor.name]
    first = planned("first", 4, 256)
    alone = measure_errors(
        {first: (T.Q4_K,)}, Stored(first=values[0]), {"first": np.ones(256, dtype=np.float32)}, WORKERS
    )["first"]
    assert both.by_type == alone.by_type


def test_a_tensor_of_zeros_loses_nothing() -> None:
    tensor = planned("zeros", 4, 256)
    found = measure_errors({tensor: (T.Q4_K, T.F16)}, Stored(zeros=np.zeros((4, 256))), {}, WORKERS)["zeros"]
    assert found.by_type == {T.Q4_K: 0, T.F16: 0}


def test_a_sample_tells_its_error() -> None:
    columns = 256
    tensor = planned("large", 4 * SAMPLE_WEIGHTS // columns, columns)
    values = np.random.default_rng(3).standard_t(4, size=tensor.shape).astype(np.float16)
    found = measure_errors({tensor: (T.Q8_0,)}, Stored(large=values), {}, WORKERS)["large"]
    rows = values.astype(np.float32)
    decoded = ggml.dequantize_rows(T.Q8_0, bytes(ggml.quantize_rows(T.Q8_0, rows)), columns)
    whole = float(((rows - decoded) ** 2).sum() / (rows**2).sum())
    assert 0 < found.sampling < 0.1
    assert found.by_type[T.Q8_0] == pytest.approx(whole, rel=4 * found.sampling)


@pytest.mark.parametrize("shape", [(7, 256), (40_000, 512), (64, 1024, 256), (3, 128, 256)])
def test_sampled_rows_are_in_order_and_no_more_than_needed(shape: tuple[int, ...]) -> None:
    tensor = planned("t", *shape)
    sample = sample_rows(tensor)
    rows = [row for matrix in sample for row in matrix]
    assert rows == sorted(set(rows))
    assert rows[-1] < tensor.rows
    assert len(sample) == min(SAMPLE_MATRICES, tensor.rows // tensor.segment)
    assert len(rows) == tensor.rows or SAMPLE_WEIGHTS // 2 < len(rows) * tensor.columns <= SAMPLE_WEIGHTS


def test_roles() -> None:
    assert role_of("blk.12.attn_v.weight") == ("attn_v.weight", 12)
    assert role_of("token_embd.weight") == ("token_embd.weight", None)


@given(st.integers(1, 90), st.integers(1, 12), st.integers(1, 80))
def test_groups_are_neighbours_and_not_too_many(layers: int, roles: int, most: int) -> None:
    names = ["output.weight", *(f"blk.{layer}.r{role}.weight" for layer in range(layers) for role in range(roles))]
    found = groups(names, most)
    assert sorted(name for group in found for name in group) == sorted(names)
    assert len(found) <= max(most, roles + 1)
    for group in found:
        numbers = [role_of(name)[1] for name in group]
        assert len({role_of(name)[0] for name in group}) == 1
        assert numbers == [None] or numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_the_first_layers_and_the_last_are_by_themselves() -> None:
    names = [f"blk.{layer}.attn_v.weight" for layer in range(20)]
    sizes = [len(group) for group in groups(names, 7)]
    assert sizes[:2] == [1, 1]
    assert sizes[-1] == 1
    assert sum(sizes) == 20
    assert max(sizes[2:-1]) - min(sizes[2:-1]) <= 1


@given(
    st.dictionaries(
        st.sampled_from([f"blk.{n}.{role}.weight" for n in (0, 1, 2, 10, 11) for role in ("a", "a_b", "x.y")])
        | st.just("token_embd.weight"),
        st.sampled_from([T.Q4_K, T.Q5_K, T.IQ4_XS]),
        min_size=1,
    )
)
def test_the_first_expression_that_matches_has_the_type(types: Mapping[str, T]) -> None:
    pairs = expressions(types)
    for name, kind in types.items():
        assert next(own for pattern, own in pairs if re.search(pattern, name)) is kind


def test_expressions_are_grouped() -> None:
    types = {f"blk.{n}.attn_v.weight": T.Q6_K if n in (0, 3) else T.Q5_K for n in range(12)}
    assert options({**types, "token_embd.weight": T.Q8_0}) == (
        r"^blk\.(0|3)\.attn_v\.weight$=q6_K",
        r"^blk\.[0-9]+\.attn_v\.weight$=q5_K",
        r"^token_embd\.weight$=q8_0",
    )


def test_sensitivities_are_divergence_by_error() -> None:
    tensors = [planned(f"blk.{n}.attn_v.weight", 16, 256) for n in range(3)]
    source = Stored(**{f"blk__{n}__attn_v__weight": np.random.default_rng(n).normal(size=(16, 256)) for n in range(3)})
    errors = measure_errors(dict.fromkeys(tensors, (T.Q3_K, T.F16)), source, {}, WORKERS)
    true = {tensor.name: 0.1 * 3**n for n, tensor in enumerate(tensors)}
    asked: list[list[str]] = []

    def divergence(types: Mapping[PlannedTensor, T]) -> float:
        asked.append([tensor.name for tensor in types])
        return sum(true[tensor.name] * errors[tensor.name].by_type[kind] for tensor, kind in types.items())

    found, evaluations = measure_sensitivities(tensors, errors, divergence)
    assert found == pytest.approx(true, rel=0.05)
    assert evaluations == len(asked) == 3
    assert all(value == rounded(value, 2) for value in found.values())


def measured(beside: int = 1000) -> Measured:
    tensors = [planned(f"blk.{n}.attn_v.weight", 32, 256) for n in range(4)]
    source = Stored(**{f"blk__{n}__attn_v__weight": np.random.default_rng(n).normal(size=(32, 256)) for n in range(4)})
    errors = measure_errors({tensor: candidates(tensor, ()) for tensor in tensors}, source, {}, WORKERS)
    return Measured(tensors, errors, {tensor.name: 10.0**-n for n, tensor in enumerate(tensors)}, beside)


def test_the_sensitive_tensors_get_the_bits() -> None:
    known = measured()
    limits = bounds({tensor: tuple(known.errors[tensor.name].by_type) for tensor in known.tensors}, known.beside)
    nbytes = 1000 + 4 * T.Q4_K.nbytes((32, 256))
    assert limits[0] < nbytes < limits[1]
    found = search(known, nbytes)
    bits = [padded(tensor, found.types[tensor.name]) for tensor in known.tensors]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > bits[-1]
    assert found.nbytes == 1000 + sum(bits) <= nbytes
    assert found.predicted == pytest.approx(known.predicted(found.types))
    even = known.predicted(dict.fromkeys(found.types, T.Q4_K))
    assert even is not None
    assert found.predicted < 0.7 * even
    assert found.gap == 0


def test_more_room_is_never_worse() -> None:
    known = measured()
    sizes = range(1000 + 4 * T.Q3_K.nbytes((32, 256)), 1000 + 4 * T.F16.nbytes((32, 256)) + 1, 500)
    costs = [search(known, nbytes).predicted for nbytes in sizes]
    assert costs == sorted(costs, reverse=True)
    assert search(known, 1000 + 4 * T.F16.nbytes((32, 256))).predicted == 0


@pytest.mark.parametrize(
    ("nbytes", "expected"), [(99, "the smallest file has 100 bytes, 2.00 bits per weight"), (401, "has 400 bytes")]
)
def test_impossible_sizes_are_refused_with_what_is_possible(nbytes: int, expected: str) -> None:
    with pytest.raises(QuantizationError, match=expected) as caught:
        check_size(nbytes, 100, 400, 400)
    assert f"--bits {2 if nbytes < 100 else 8}.00" in caught.value.hint


def test_sequences_are_spread_over_the_text() -> None:
    ids = list(range(5 * CONTEXT))
    first, last = sequences(ids, 2, bos=0)
    assert first == tuple(range(CONTEXT))
    assert last == (0, *range(4 * CONTEXT + 1, 5 * CONTEXT))
    assert sequences(ids[:100], 2) == (tuple(range(100)),)


def test_a_large_model_is_evaluated_on_one_sequence() -> None:
    assert sequence_count(29_000_000) == 2
    assert len(sequences(range(5 * CONTEXT), sequence_count(8_000_000_000))) == 1


def test_a_choice_is_read_as_it_was_written() -> None:
    tensors = (ChosenTensor("a", "q4_K", 10, 0.1, 0.2, "why"),)
    choice = Choice(
        Asked(BITS, 4.6), "q4_k_m", 100, 4.598, 0.01, 0.0, True, "text", 9, 0.001, ("^a$=q4_K",), tensors,
        Compared("q4_k_s", 99, 0.02),
    )  # fmt: skip
    assert choice.label == "4.60bpw"
    assert Choice.from_json(Fields(choice.to_json())) == choice


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": "1M", "bits": 4.0}, "--size and --bits cannot be combined"),
        ({"size": "1M", "pure": True}, "--size and --pure cannot be combined"),
        ({"bits": 4.5, "tensor_types": ["a=q8_0"]}, "--bits and --tensor-type cannot be combined"),
        ({"bits": 4.5, "split_max_size": "1G"}, "--bits and --split-max-size cannot be combined"),
        ({"bits": 4.5, "via_llama_cpp": "llama.cpp"}, "--bits and --via-llama-cpp cannot be combined"),
    ],
)
def test_what_cannot_go_with_a_size_is_refused(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(QuantkitError, match=expected):
        Recipe("model", **fields)  # type: ignore[arg-type]


def test_a_size_takes_the_place_of_the_default_type() -> None:
    assert Recipe("model").quants == ("q4_0",)
    assert Recipe("model", bits=4.5).quants == ()
    assert Recipe("model", bits=4.5, quants="q4_k_m").quants == ("q4_k_m",)
    assert Recipe("model", size="2MB").asked == Asked("size", 2_000_000)


def test_an_altered_file_is_as_before_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "f16.gguf"
    values = np.random.default_rng(5).normal(size=(64, 256)).astype(np.float16)
    infos = [TensorInfo("a", (64, 256), T.F16, 0), TensorInfo("b", (64, 256), T.F16, values.nbytes)]
    path.write_bytes(encode_header([string("general.architecture", "llama")], infos) + values.tobytes() * 2)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    model = read_model(path)
    a, b = gguf_tensors(model)
    with open_source(model) as source, opened_crew(WORKERS) as crew:
        alterable = Alterable(source, {}, crew, tmp_path / "kept")
        with alterable.altered({b: T.Q4_K}) as changed:
            stored = np.frombuffer(changed.read_bytes()[-2 * values.nbytes :], dtype=np.float16).reshape(2, 64, 256)
        rows = values.astype(np.float32)
        decoded = ggml.dequantize_rows(T.Q4_K, bytes(ggml.quantize_rows(T.Q4_K, rows)), 256)
        assert (stored[0] == values).all()
        assert (stored[1] == decoded.astype(np.float16)).all()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == before
        with pytest.raises(RuntimeError), alterable.altered({a: T.Q4_K, b: T.Q8_0}):
            raise RuntimeError
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["f16.gguf"]
