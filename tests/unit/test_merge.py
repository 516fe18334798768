"""What changes make of rows: on values made by hand, in ranges and as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quantkit.adapter.changes import Add, Change, LowRank, Replace, Tokens
from quantkit.adapter.folder import Adapter
from quantkit.adapter.merged_modules import Key, MergedModules
from quantkit.checkpoint.dtypes import Floats
from quantkit.checkpoint.folder import Checkpoint
from quantkit.checkpoint.open_file import open_tensor_file
from quantkit.ggml.types import GGMLType
from quantkit.model import merger as merge
from quantkit.model.merger import Merger
from quantkit.plan.values import PlannedTensor
from tests.support.bits import as_array, as_tensor, bits
from tests.support.sums import low_rank_sum

ROWS, COLUMNS = 7, 4
W = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS) - 9
BIAS = torch.arange(ROWS, dtype=torch.float32)
A, B = torch.tensor([[1.0, 0, 2, -1], [0.5, 1, 0, 3]]), torch.arange(14.0).reshape(7, 2) - 6
FULL = torch.full((ROWS, COLUMNS), 3.0)
TRAINED = torch.tensor([[100.0, 1, 2, 3], [200.0, 4, 5, 6]])
BY_ROW, BY_COLUMN = torch.arange(1.0, 8), torch.arange(1.0, 5)
TENSORS = {"a": A, "b": B, "at": A.T, "bt": B.T, "full": FULL, "tokens": TRAINED, "row": BY_ROW, "column": BY_COLUMN}
LORA = LowRank("b", "a", False, 2.0)
SUM = W + 2 * B @ A

Opener = Callable[..., Merger]


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    """``opener({name: changes}, ..., weights=...)``: a merger of W and a bias with these adapters."""
    save_file({"w": W, "bias": BIAS}, tmp_path / "model.safetensors")
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(contiguous, tmp_path / "adapter.safetensors")
    base, file = (open_tensor_file(tmp_path / f"{name}.safetensors") for name in ("model", "adapter"))
    checkpoint = Checkpoint(tmp_path, {}, base.specs, {tmp_path / "model.safetensors": base})

    def make(*adapters: Mapping[str, Sequence[Change]], weights: Sequence[float] = ()) -> Merger:
        factors = weights or [1.0] * len(adapters)
        opened = [
            Adapter(tmp_path, {}, {name: tuple(ops) for name, ops in changes.items()}, file, weight)
            for changes, weight in zip(adapters, factors, strict=True)
        ]
        return Merger(checkpoint, opened)

    return make


def merged(merger: Merger, name: str = "w") -> torch.Tensor:
    """A tensor in ranges of two rows."""
    shape = merger.checkpoint.tensors[name].shape
    tensor = PlannedTensor(name, name, shape, GGMLType.F32)
    ranges = [(start, min(start + 2, shape[0])) for start in range(0, shape[0], 2)]
    rows = torch.cat([as_tensor(merger.rows(tensor, *each)) for each in ranges])
    assert torch.equal(as_tensor(merger.rows(tensor, 0, shape[0])), rows)
    return rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_order_of_the_sum(tmp_path: Path, dtype: torch.dtype) -> None:
    """Two adapters on one weight, of values whose sums are not exact: every bit of every range."""
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn((37, 24), generator=generator).to(dtype)
    factors = {
        f"{name}{rank}": torch.randn(size, generator=generator)
        for rank in (5, 3)
        for name, size in (("b", (37, rank)), ("a", (rank, 24)))
    }
    save_file({"w": weight}, tmp_path / "model.safetensors")
    save_file(factors, tmp_path / "adapter.safetensors")
    base, file = (open_tensor_file(tmp_path / f"{name}.safetensors") for name in ("model", "adapter"))
    changes = [LowRank("b5", "a5", False, 0.7), LowRank("b3", "a3", False, 1 / 3)]
    adapters = [Adapter(tmp_path, {}, {"w": (change,)}, file) for change in changes]
    merger = Merger(Checkpoint(tmp_path, {}, base.specs, {tmp_path / "model.safetensors": base}), adapters)
    expected = low_rank_sum(weight, factors["b5"], factors["a5"], 0.7)
    expected = low_rank_sum(expected, factors["b3"], factors["a3"], 1 / 3)
    tensor = PlannedTensor("w", "w", (37, 24), GGMLType.F32)
    for start, stop in ((0, 37), (0, 1), (5, 12), (36, 37)):
        rows = merger.rows(tensor, start, stop)
        assert len(rows.pairs) == 2
        assert bits(rows.merged()) == bits(expected[start:stop])
        again = merger.rows(tensor, start, stop)
        assert [again.pairs[i][1] is rows.pairs[i][1] for i in range(2)] == [True, True]
    base.close()
    file.close()


def test_rows_are_read_into_the_memory_of_the_caller(opener: Opener) -> None:
    given: list[np.ndarray] = []

    def memory(nbytes: int) -> np.ndarray:
        given.append(np.full(nbytes, 7, dtype=np.uint8))
        return given[-1]

    rows = opener({"w": [LORA]}).rows(PlannedTensor("w", "w", (ROWS, COLUMNS), GGMLType.F32), 2, 5, memory)
    assert [buffer.nbytes for buffer in given] == [3 * COLUMNS * 4]
    assert rows.stored.base is not None
    assert np.shares_memory(rows.stored, given[0])
    before = given[0].copy()
    assert torch.equal(as_tensor(rows), SUM[2:5])
    assert (given[0] == before).all()  # merging leaves what was read as it is


def test_only_the_order_of_rows_changes_in_a_matrix(opener: Opener) -> None:
    merger = opener({"w": [LORA]})
    tensor = PlannedTensor("w", "w", (ROWS, COLUMNS), GGMLType.F32, arrange=lambda rows: rows[::-1])
    assert torch.equal(as_tensor(merger.rows(tensor, 0, ROWS)), SUM.flip(0))
    bias = PlannedTensor("bias", "bias", (ROWS,), GGMLType.F32, arrange=lambda rows: rows[::-1] + 1)
    assert torch.equal(as_tensor(merger.rows(bias, 0, ROWS)), BIAS.flip(0) + 1)


def test_dora_gives_each_row_its_magnitude(opener: Opener) -> None:
    rows = merged(opener({"w": [LowRank("b", "a", False, 2.0, "row")]}))
    torch.testing.assert_close(rows, BY_ROW.unsqueeze(1) * SUM / SUM.norm(dim=1, keepdim=True))
    torch.testing.assert_close(rows.norm(dim=1), BY_ROW)


def test_dora_of_an_embedding_gives_each_column_its_magnitude(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_NORM_ROWS", 3)  # the norm is summed up over ranges
    rows = merged(opener({"w": [LowRank("bt", "at", True, 2.0, "column")]}))
    torch.testing.assert_close(rows, BY_COLUMN * SUM / SUM.norm(dim=0))
    torch.testing.assert_close(rows.norm(dim=0), BY_COLUMN)


def test_dora_starts_from_what_an_earlier_adapter_made(opener: Opener) -> None:
    for changes, dim in (("row", 1), ("column", 0)):
        keys = ("b", "a", False) if dim else ("bt", "at", True)
        rows = merged(opener({"w": [LORA]}, {"w": [LowRank(*keys, 1.0, changes)]}))
        second = SUM + B @ A
        size = BY_ROW.unsqueeze(1) if dim else BY_COLUMN
        torch.testing.assert_close(rows, size * second / second.norm(dim=dim, keepdim=True))


def test_single_tokens(opener: Opener) -> None:
    expected = W.clone()
    expected[5], expected[2] = TRAINED[0], TRAINED[1]
    assert torch.equal(merged(opener({"w": [Tokens("tokens", (5, 2))]})), expected)


# By what an adapter does alone: its changes, and what W becomes.
KINDS: dict[str, tuple[list[Change], torch.Tensor]] = {
    "lora": ([LORA], SUM),
    "full": ([Replace("full")], FULL),
    "full-then-lora": ([Replace("full"), LORA], FULL + 2 * B @ A),
    "dora": ([LowRank("b", "a", False, 2.0, "row")], BY_ROW.unsqueeze(1) * SUM / SUM.norm(dim=1, keepdim=True)),
}


@pytest.mark.parametrize("weight", [0.5, 0.0, 1.0, -1.5, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_the_share_of_the_change(opener: Opener, kind: str, weight: float) -> None:
    changes, alone = KINDS[kind]
    torch.testing.assert_close(merged(opener({"w": changes}, weights=[weight])), W + weight * (alone - W))


def test_the_weight_of_lora_multiplies_its_scaling(opener: Opener) -> None:
    half = opener({"w": [LORA]}, weights=[0.5])
    assert torch.equal(merged(half), merged(opener({"w": [LowRank("b", "a", False, 1.0)]})))
    bias = merged(opener({"bias": [Add("row", 3.0)]}, weights=[0.5]), "bias")
    assert torch.equal(bias, BIAS + 1.5 * BY_ROW)


def test_weights_in_a_stack(opener: Opener) -> None:
    """Each adapter changes what those before it made; only one merged whole overwrites it."""
    rows = merged(opener({"w": [LORA]}, {"w": [Replace("full")]}, {"w": [LORA]}, weights=[1, 0.25, 2]))
    torch.testing.assert_close(rows, SUM + 0.25 * (FULL - SUM) + 4 * B @ A)
    rows = merged(opener({"w": [LORA]}, {"w": [Replace("full")]}, {"w": [LORA]}, weights=[1, 1, 2]))
    torch.testing.assert_close(rows, FULL + 4 * B @ A)


class Modules:
    """Merges nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Key] = []
        self.modules = MergedModules(self.compute)

    def compute(self, key: Key) -> tuple[Floats, Floats | None]:
        self.asked.append(key)
        return as_array(W + key[0]), as_array(BIAS + key[0]) if key[2] == "biased" else None


def test_a_module_is_merged_once_for_all_its_rows() -> None:
    made, key = Modules(), (1, "m", "m")
    rows = [made.modules.weight(key, start, min(start + 3, ROWS)) for start in (3, 0, 6)]
    assert torch.equal(as_tensor(np.concatenate([rows[1], rows[0], rows[2]])), W + 1)
    assert made.asked == [key]
    rows[0].fill(0)  # a range belongs to whoever took it
    assert torch.equal(as_tensor(made.modules.weight(key, 3, 6)), W[3:6] + 1)
    assert made.asked == [key, key], "a weight is let go with its last row"


def test_a_bias_is_kept() -> None:
    made, key = Modules(), (2, "m", "biased")
    assert torch.equal(as_tensor(made.modules.weight(key, 0, ROWS)), W + 2)
    assert torch.equal(as_tensor(made.modules.bias(key, 1, 4)), BIAS[1:4] + 2)
    assert made.asked == [key]


def test_few_modules_are_kept() -> None:
    made = Modules()
    keys = [(number, "m", "m") for number in range(5)]
    for key in keys:
        made.modules.weight(key, 0, 1)
    assert made.asked == keys
    for key in keys[-3:]:
        made.modules.weight(key, 1, 2)
    assert made.asked == keys
    made.modules.weight(keys[0], 1, 2)
    assert made.asked == [*keys, keys[0]]
