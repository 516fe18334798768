"""A family's rules as planned tensors, and the type that each is rounded to."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.arch.base import Rule
from quantkit.ggml.types import GGMLType
from quantkit.plan.values import PlannedTensor

# Norms, routers and short convolutions.
_FLOAT32 = (
    *("_norm.weight", ".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight"),
    *(".ssm_conv1d.weight", ".shortconv.conv.weight", ".altup_correct_coef.weight", ".altup_predict_coef.weight"),
)


def planned_tensor(rule: Rule, outtype: GGMLType) -> PlannedTensor:
    """The tensor of a rule, which is rounded to *outtype*."""
    return PlannedTensor(
        *(rule.target, rule.source, rule.shape, outtype, rule.arrange, rule.unit, rule.source_unit),
        row_order=rule.row_order,
        column_order=rule.column_order,
        transposed=rule.transposed,
        compute=rule.compute,
        folds=rule.folds,
        zero_rows=rule.zero_rows,
    )


def base_type(name: str, shape: Sequence[int], base: GGMLType) -> GGMLType:
    """Vectors, what is no weight and what :data:`_FLOAT32` names stay float32, as in llama.cpp's converter."""
    return GGMLType.F32 if len(shape) <= 1 or name.endswith(_FLOAT32) or not name.endswith(".weight") else base
