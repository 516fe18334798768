"""LoRA on stacks that are one tensor of the checkpoint: which factor is for which side of the matrices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from quantkit.adapter.changes import LowRank, Place
from quantkit.checkpoint.tensor_file import TensorSpec
from quantkit.errors import AdapterError
from tests.unit.test_expert_parameters import EXPERTS, FUSED, LAYER, RANK, factors, opened

NAME, DOWN = f"{LAYER}.mlp.experts.down_proj", ["down_proj"]
Shape = tuple[int, ...]


def stack(*shape: int, bias: bool = False) -> dict[str, TensorSpec]:
    shapes: dict[str, Shape] = {NAME: shape, **({f"{NAME}_bias": (shape[0], shape[2])} if bias else {})}
    return {name: TensorSpec(name, "F32", size, Path("model"), 0, 4 * math.prod(size)) for name, size in shapes.items()}


@pytest.mark.parametrize(
    ("rows", "columns", "bias", "turned"),
    [(3, 5, False, False), (5, 3, False, True), (5, 3, True, True), (4, 4, True, True)],
)
def test_each_matrix_has_its_share(tmp_path: Path, rows: int, columns: int, bias: bool, turned: bool) -> None:
    """As PEFT computes it: of matrices [in, out] its einsum is ``e i o``, of others ``e o i``."""
    tensors = factors(FUSED, columns, rows) if turned else factors(FUSED, rows, columns)
    a, b = (tensors[f"{FUSED}.lora_{side}.weight"] for side in "AB")
    a, b = a.reshape(EXPERTS, RANK, -1), b.reshape(-1, RANK, EXPERTS)
    expected = torch.einsum(f"o r e, e r i -> e {'i o' if turned else 'o i'}", b, a)
    base = stack(EXPERTS, rows, columns, bias=bias)
    with opened(tmp_path / "a", tensors, base, target_parameters=DOWN) as adapter:
        changes = adapter.changes[NAME]
        assert len(changes) == EXPERTS
        for expert, change in enumerate(changes):
            assert isinstance(change, LowRank)
            assert change.place == Place(expert * rows, EXPERTS * rows)
            left, right = adapter.factors(change)
            whole = np.zeros((EXPERTS, rows, columns), dtype=np.float32)
            whole[expert] = expected[expert].numpy()
            np.testing.assert_array_equal(left @ right, whole.reshape(-1, columns))


@pytest.mark.parametrize(
    ("shape", "bias", "message"),
    [
        (
            (EXPERTS, 3, 6),
            False,
            r"factors of shape \[4, 5\] and \[3, 4\], which do not fit 2 matrices of shape \[3, 6\]",
        ),
        ((3, 3, 5), False, "do not fit 3 matrices"),
        ((1, 3, 5), False, "do not fit 1 matrices"),
        ((EXPERTS, 3, 5), True, "do not fit 2 matrices"),  # that class has them the other way
    ],
)
def test_factors_of_another_model(tmp_path: Path, shape: Shape, bias: bool, message: str) -> None:
    with (
        pytest.raises(AdapterError, match=message),
        opened(tmp_path / "a", factors(FUSED, 3, 5), stack(*shape, bias=bias), target_parameters=DOWN),
    ):
        pass


@pytest.mark.parametrize(("version", "turned"), [("0.18.1", True), ("0.19.0", False), (None, None)])
def test_square_matrices(tmp_path: Path, version: str | None, turned: bool | None) -> None:
    """Which factor is for their rows depends on the version of PEFT that saved them."""
    tensors, base = factors(FUSED, 4, 4), stack(EXPERTS, 4, 4)
    settings = {"target_parameters": DOWN, "peft_version": version}
    if turned is None:
        with (
            pytest.raises(AdapterError, match=r"square matrices, and peft_version .* does not say which factor"),
            opened(tmp_path / "a", tensors, base, **settings),
        ):
            pass
        return
    with opened(tmp_path / "a", tensors, base, **settings) as adapter:
        assert [change.transposed for change in adapter.changes[NAME]] == [turned] * EXPERTS


def test_granites_stacks_have_other_names_in_checkpoints(tmp_path: Path) -> None:
    stored = f"{LAYER}.block_sparse_moe.output_linear.weight"
    base = {stored: stack(EXPERTS, 3, 5)[NAME]}
    key = FUSED.replace(".mlp.", ".block_sparse_moe.")
    with opened(tmp_path / "a", factors(key, 3, 5), base, target_parameters=DOWN) as adapter:
        assert {name: len(changes) for name, changes in adapter.changes.items()} == {stored: EXPERTS}
