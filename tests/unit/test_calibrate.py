"""Sums of squares in llama-imatrix's order, the file of a matrix, and when one goes on with an unfinished file."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.calibrate import make
from quantkit.calibrate.chunks import Chunks
from quantkit.calibrate.experts import FewTokens, expert_notes, few_tokens
from quantkit.calibrate.held import Held
from quantkit.calibrate.imatrix_file import Progress, read_progress, read_sums, write_imatrix
from quantkit.calibrate.products import Product, add_product
from quantkit.calibrate.sums import Sums, add_dense, add_routed, add_squares, empty
from quantkit.calibrate.sums_file import read_sums_file, write_sums_file
from quantkit.errors import OutputError, QuantkitError
from quantkit.ggml.tensor import Tensor, check_layout, functions
from quantkit.gguf.fingerprint import fingerprint
from quantkit.gguf.header import read_header
from quantkit.gguf.model import read_model
from quantkit.material.tokens import Tokens
from quantkit.plan.imatrix import read_imatrix
from quantkit.system.progress import Reporter
from tests.unit.tiny_gguf import write_tiny_gguf


def in_order(total: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One addition after another, as a C loop does them."""
    total = total.copy()
    for row in rows:
        total = total + row * row
    return total


@given(st.integers(0, 70), st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_rows_are_added_one_after_another(rows: int, columns: int, seed: int, strided: bool) -> None:
    random = np.random.default_rng(seed)
    total = (random.random(columns) * 100).astype(np.float32)
    given = (random.standard_normal((rows, 2 * columns)) ** 3).astype(np.float32)
    given = given[:, ::2] if strided else np.ascontiguousarray(given[:, :columns])
    expected = in_order(total, given)
    add_squares(total, given)
    assert total.tobytes() == expected.tobytes()


def test_another_order_gives_other_bits() -> None:
    """Otherwise the test above could not fail."""
    rows = np.random.default_rng(3).standard_normal((600, 64)).astype(np.float32)
    zero = np.zeros(64, dtype=np.float32)
    assert in_order(zero, rows).tobytes() != in_order(zero, rows[::-1]).tobytes()


def test_products_of_several_matrices() -> None:
    """Rows repeat over the matrices of a tensor, as in ggml's products."""
    random = np.random.default_rng(1)
    rows = random.standard_normal((1, 4, 3, 8)).astype(np.float32)
    sums = empty(2, 8, 1)
    add_dense(sums, rows, (1, 2))
    zero = np.zeros(8, dtype=np.float32)
    for matrix in (0, 1):
        expected = in_order(in_order(zero, rows[0, matrix]), rows[0, matrix + 2])
        assert sums.values[matrix].tobytes() == expected.tobytes()
    assert sums.counts.tolist() == [6]


@pytest.mark.parametrize("shared", [True, False])
def test_experts_get_their_rows_by_choice_and_then_by_token(shared: bool) -> None:
    random = np.random.default_rng(2)
    tokens, choices, experts = 50, 3, 5
    rows = random.standard_normal((tokens, 1 if shared else choices, 8)).astype(np.float32)
    chosen = random.integers(0, experts - 1, (tokens, choices)).astype(np.int32)
    sums = empty(experts, 8, experts)
    found = add_routed(sums, rows, chosen)
    expected, counts = np.zeros((experts, 8), dtype=np.float32), [0] * experts
    for choice in range(choices):
        for token in range(tokens):
            expert = chosen[token, choice]
            row = rows[token, 0 if shared else choice]
            expected[expert] = expected[expert] + row * row
            counts[expert] += 1
    assert sums.values.tobytes() == expected.tobytes()
    assert sums.counts.tolist() == counts
    assert found.tolist() == [0, 1, 2, 3]


def some_sums() -> dict[str, Sums]:
    routed = Sums(np.arange(12, dtype=np.float32).reshape(3, 4), np.array([4, 0, 90]))
    return {
        "blk.1.ffn_up_exps.weight": routed,
        "blk.0.attn_q.weight": Sums(np.ones((1, 5), dtype=np.float32), np.array([64])),
        "blk.0.attn_k_b.weight": Sums(np.ones((2, 3), dtype=np.float32), np.array([32])),
    }


def test_the_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, some_sums(), "a.txt", 16, None)
    assert read_progress(path) is None
    again = read_sums(path)
    assert [*again] == sorted(some_sums())
    for name, one in some_sums().items():
        assert again[name].values.reshape(-1).tolist() == one.values.reshape(-1).tolist()
        assert again[name].counts.tolist() == one.counts.tolist()
    importance = read_imatrix(path)["blk.1.ffn_up_exps.weight"]
    assert importance.tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, *(i / 90 for i in range(8, 12))])


def test_an_unfinished_file_is_a_matrix_too(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    progress = Progress(4, 9, 16, "t", "m")
    write_imatrix(path, some_sums(), "a.txt", 16, progress)
    assert read_progress(path) == progress
    assert len(read_imatrix(path)) == 3
    path.write_bytes(path.read_bytes()[:200])
    assert read_progress(path) is None


def test_experts_with_few_tokens_are_named() -> None:
    counts = np.array([100] * 30 + [0, 3])
    values = np.ones((32, 2), dtype=np.float32)
    sums = {
        f"blk.{layer}.ffn_{part}_exps.weight": Sums(values, counts) for layer in range(9) for part in ("up", "down")
    }
    sums["blk.0.attn_q.weight"] = Sums(values[:1], np.array([5]))
    found = few_tokens(sums)
    assert found[0] == FewTokens("blk.0.ffn_down_exps.weight", 32, 2, 1)
    assert len(found) == 9
    (note,) = expert_notes(found)
    assert "blk.0.ffn_down_exps.weight: 2 of 32 (6.2 %), 1 of them none; " in note
    assert "and 3 more tensors" in note
    assert expert_notes(few_tokens({"a": Sums(values, np.full(32, 7))})) == []


@pytest.mark.parametrize(
    ("context", "together", "batch"), [(512, 4, 2048), (700, 2, 1400), (4096, 1, 2048), (16, 128, 2048)]
)
def test_batches_are_llama_imatrixs(context: int, together: int, batch: int) -> None:
    chunks = Chunks((), context, 3)
    assert (chunks.together, chunks.batch) == (together, batch)


@pytest.mark.parametrize(
    ("ids", "context", "chunks", "message"),
    [
        (15, 16, None, "a.txt: 15 tokens, and a chunk has 16"),
        (99, 15, None, "--ctx must be at least 16"),
        (99, 16, 0, "--chunks at least 1"),
    ],
)
def test_too_little_is_refused(ids: int, context: int, chunks: int | None, message: str) -> None:
    with pytest.raises(QuantkitError) as refused:
        make._chunks(Tokens("a.txt", "", tuple(range(ids))), context, chunks)
    assert message in str(refused.value)


def test_only_the_same_matrix_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    plan = Progress(0, 9, 16, "t", "m")
    assert make._begun(path, plan, Reporter()) is None
    write_imatrix(path, some_sums(), "a.txt", 16, replace(plan, done=4))
    reporter = Reporter()
    assert make._begun(path, plan, reporter) == replace(plan, done=4)
    assert reporter.notes == [f"{path} has 4 of 9 chunks; continued with chunk 5"]
    for other, word in (({"model": "x"}, "model"), ({"tokens": "x"}, "text"), ({"context": 32}, "--ctx")):
        with pytest.raises(OutputError, match=f"with another {word}") as refused:
            make._begun(path, replace(plan, **other), Reporter())
        assert "--overwrite" in refused.value.hint
    write_imatrix(path, some_sums(), "a.txt", 16, None)
    assert make._begun(path, plan, Reporter()) is None, "a finished one is refused by the workspace"


def test_the_fingerprint_sees_every_tensor(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    whole, header = path.read_bytes(), read_header(path)
    before = fingerprint(read_model(path))
    assert fingerprint(read_model(path)) == before
    for info in header.tensors.values():
        changed = bytearray(whole)
        changed[header.data_offset + info.offset + info.type.nbytes(info.shape) // 2] ^= 1
        path.write_bytes(bytes(changed))
        assert fingerprint(read_model(path)) != before, info.name


def test_the_layout_of_tensors_is_the_librarys() -> None:
    product, routed = check_layout()
    names = [functions().ggml_op_name(number) for number in (product, routed)]
    assert names == [b"MUL_MAT", b"MUL_MAT_ID"]


MOVED = [name for name, _ in Tensor._fields_ if name not in ("op_params", "flags", "extra", "padding")]


@pytest.mark.parametrize("field", MOVED)
def test_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """A struct of the same size in which one field has changed places with what follows."""
    fields = [*Tensor._fields_]
    at = [name for name, _ in fields].index(field)
    padding = fields.pop()
    fields.insert(at, padding)

    moved = type("Moved", (ctypes.Structure,), {"_fields_": tuple(fields), "shape": Tensor.shape})
    monkeypatch.setattr("quantkit.ggml.tensor.Tensor", moved)
    check_layout.cache_clear()
    with pytest.raises(QuantkitError, match="lays out its tensors in another way"):
        check_layout()
    check_layout.cache_clear()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_not_blamed_on_the_model() -> None:
    with pytest.raises(OutputError, match="No space left"):
        write_imatrix(Path("/dev/full"), {}, "text.txt", 512, None)


def products(random: np.random.Generator) -> Iterator[tuple[Product, int]]:
    """Those of three batches of a model with experts, in which queries and keys have their rows in common."""
    for tokens in (40, 64, 17):
        for layer in (0, 1):
            rows = random.standard_normal((1, 1, tokens, 6)).astype(np.float32)
            for name in ("attn_q", "attn_k"):
                yield Product(f"blk.{layer}.{name}.weight", (1, 1), rows, None), 100 + layer
            heads = random.standard_normal((1, 4, tokens, 5)).astype(np.float32)
            yield Product(f"blk.{layer}.attn_v_b.weight", (1, 2), heads[:, :, ::-1], None), 200 + layer
            chosen = random.integers(0, 3, (tokens, 2)).astype(np.int32)
            for source, (name, columns) in enumerate((("ffn_up_exps", 6), ("ffn_gate_exps", 6), ("ffn_down_exps", 1))):
                choices = 1 if columns == 6 else 2
                seen = random.standard_normal((1, tokens, choices, columns)).astype(np.float32)
                yield Product(f"blk.{layer}.{name}.weight", (1, 3), seen, chosen), source


def test_products_that_were_kept_are_added_as_if_they_had_not_been() -> None:
    direct, later, held = dict[str, Sums](), dict[str, Sums](), Held()
    for name in ("blk.0.attn_q.weight", "blk.1.attn_v_b.weight"):  # there before
        shape = (2, 5) if "_b" in name else (1, 6)
        direct[name] = Sums(np.full(shape, 3.3, np.float32), np.array([9]))
        later[name] = direct[name].copy()
    written = 0
    for product, source in products(np.random.default_rng(7)):
        add_product(direct, product)
        chosen = None if product.chosen is None else product.chosen.copy()
        kept = replace(product, rows=product.rows.copy(), chosen=chosen)
        held.keep(kept, source)
        kept.rows[:] = np.nan  # llama.cpp uses its buffers again
        if kept.chosen is not None:
            kept.chosen[:] = -1
        written += product.rows.nbytes
    assert held.nbytes < written  # rows in common are there once
    held.add(later, 3)
    held.close()
    assert later.keys() == direct.keys()
    for name, sums in direct.items():
        assert sums.values.tobytes() == later[name].values.tobytes()
        assert sums.counts.tolist() == later[name].counts.tolist()


def test_one_matrix_that_is_used_again_and_again_has_its_own_rows_each_time() -> None:
    """Also if its rows have the same place each time."""
    held, direct, later = Held(), dict[str, Sums](), dict[str, Sums]()
    for value in (1.0, 2.0, 3.0):
        product = Product("blk.0.ffn_up.weight", (1, 1), np.full((1, 1, 20, 4), value, np.float32), None)
        add_product(direct, product)
        held.keep(product, 77)
    held.add(later, 1)
    held.close()
    assert later["blk.0.ffn_up.weight"].values.tolist() == direct["blk.0.ffn_up.weight"].values.tolist()


def test_sums_between_processes_are_exact(tmp_path: Path) -> None:
    sums = some_sums()
    sums["blk.0.attn_q.weight"].counts[0] = 2**24 + 1  # more than a float counts
    write_sums_file(tmp_path / "sums.npz", sums)
    read = read_sums_file(tmp_path / "sums.npz")
    assert read.keys() == sums.keys()
    assert all(read[name].values.tobytes() == one.values.tobytes() for name, one in sums.items())
    assert all(read[name].counts.tolist() == one.counts.tolist() for name, one in sums.items())
