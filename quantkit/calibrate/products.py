"""The products that importances are computed from: one is the rows that went through one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.calibrate.sums import Floats, Sums, add_dense, add_routed, empty
from quantkit.errors import QuantkitError


@dataclass(frozen=True, eq=False)
class Product:
    """A product of activations with a layer's matrices.

    Attributes:
        name: the matrices' tensor.
        matrices: the tensor's outer and inner sizes.
        rows: the activations, float32 [outer, inner, n, columns]; of experts [1, tokens, choices or 1, columns].
        chosen: the expert of each token's choices, shape [tokens, choices]; None of an ordinary product.
    """

    name: str
    matrices: tuple[int, int]
    rows: Floats
    chosen: npt.NDArray[np.int32] | None


def add_product(all_sums: dict[str, Sums], product: Product) -> None:
    """Add a product's rows to the sums of its tensor.

    Raises:
        QuantkitError: values that are not finite, an expert that is not there, or sums of another shape.
    """
    name, (outer, inner), chosen = product.name, product.matrices, product.chosen
    columns = product.rows.shape[-1]
    if chosen is not None:
        sums = _sums(all_sums, name, inner, columns, counts=inner)
        if chosen.min() < 0 or chosen.max() >= inner:
            raise QuantkitError(f"{name}: the router chose an expert that is not there")
        found = add_routed(sums, product.rows[0], chosen)
        finite = bool(np.isfinite(sums.values[found]).all())
    else:
        sums = _sums(all_sums, name, outer * inner, columns, counts=1)
        add_dense(sums, product.rows, product.matrices)
        finite = bool(np.isfinite(sums.values).all())
    if not finite:
        raise QuantkitError(
            f"{name}: llama.cpp computes values for it that are not finite, so it has no importances",
            hint="check the model (quantkit smoke FILE); if it was trained in BF16, build it with --outtype bf16",
        )


def _sums(all_sums: dict[str, Sums], name: str, matrices: int, columns: int, *, counts: int) -> Sums:
    found = all_sums.get(name)
    if found is None:
        found = all_sums[name] = empty(matrices, columns, counts)
    if found.values.size != matrices * columns:
        raise QuantkitError(
            f"{name}: {matrices * columns} importances, but {found.values.size} so far",
            hint="begin again with --overwrite",
        )
    found.values = found.values.reshape(matrices, columns)  # a file has one row where there is one count
    return found
