"""Rows in another order than the checkpoint's, and matrices that are transposes of some of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.engine.ranges import row_ranges
from quantkit.engine.rows import Rows, joined
from quantkit.ggml.types import GGMLType
from quantkit.model.merger import Merger
from quantkit.plan.order import indices, runs_between, tiled
from quantkit.plan.values import PlannedTensor

HEADS, KEYS, VALUES, COLUMNS = 3, 4, 2, 8
EACH = KEYS + VALUES


@pytest.fixture
def stored(tmp_path: Path) -> torch.Tensor:
    values = torch.arange(HEADS * EACH * COLUMNS, dtype=torch.float32).reshape(HEADS * EACH, COLUMNS)
    save_file({"kv": values}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return values


def read(folder: Path, tensor: PlannedTensor, chunk: int) -> np.ndarray:
    with open_checkpoint(folder) as checkpoint:
        merger = Merger(checkpoint, [])
        ranges = row_ranges(tensor, chunk)
        return np.concatenate([merger.rows(tensor, part.start, part.stop).merged() for part in ranges])


def test_runs() -> None:
    runs = (range(4, 6), range(3))
    assert list(runs_between(runs, 1, 4)) == [range(5, 6), range(2)]
    assert list(runs_between(runs, 2, 5)) == [range(3)]
    assert indices(runs).tolist() == [4, 5, 0, 1, 2]
    assert tiled(2, 3, 1) == (range(1), range(3, 4), range(1, 2), range(4, 5), range(2, 3), range(5, 6))


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_rows_of_one_source_for_two_targets(tmp_path: Path, stored: torch.Tensor, chunk: int) -> None:
    starts = [head * EACH for head in range(HEADS)]
    keys = tuple(range(start, start + KEYS) for start in starts)
    values = tuple(range(start + KEYS, start + EACH) for start in starts)
    heads = stored.reshape(HEADS, EACH, COLUMNS)
    f32 = GGMLType.F32
    turned = PlannedTensor("k", "kv", (HEADS, COLUMNS, KEYS), f32, row_order=keys, transposed=True)
    plain = PlannedTensor("v", "kv", (HEADS, VALUES, COLUMNS), f32, row_order=values)
    flat = PlannedTensor("v", "kv", (HEADS * VALUES, COLUMNS), f32, row_order=values)
    assert np.array_equal(read(tmp_path, turned, chunk), heads[:, :KEYS].transpose(1, 2).reshape(-1, KEYS).numpy())
    for tensor in (plain, flat):
        assert np.array_equal(read(tmp_path, tensor, chunk), heads[:, KEYS:].reshape(-1, COLUMNS).numpy())


def test_joined_rows_keep_their_factors() -> None:
    right = np.ones((1, 2), dtype=np.float32)
    one = Rows(np.zeros((1, 2), dtype=np.float32)).plus(np.full((1, 1), 2, dtype=np.float32), right)
    other = Rows(np.ones((2, 2), dtype=np.float32)).plus(np.full((2, 1), 3, dtype=np.float32), right)
    whole = joined([one, other])
    assert len(whole.pairs) == 1
    assert whole.merged().tolist() == [[2, 2], [4, 4], [4, 4]]
    assert joined([one, Rows(np.ones((1, 2), dtype=np.float32))]).merged().tolist() == [[2, 2], [1, 1]]


def test_columns_in_another_order() -> None:
    rows = Rows(np.arange(6, dtype=np.float32).reshape(2, 3))
    chosen = indices((range(2, 3), range(2)))
    assert rows.with_columns(chosen).merged().tolist() == [[2, 0, 1], [5, 3, 4]]
    left, right = np.ones((2, 1), dtype=np.float32), np.array([[10, 20, 30]], dtype=np.float32)
    assert rows.plus(left, right).with_columns(chosen).merged().tolist() == [[32, 10, 21], [35, 13, 24]]
