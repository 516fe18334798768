"""The products of some chunks, kept on the disk until it is their turn to be added.

A sum has to be made row by row in the text's order, and a node that computes a later part of the text does not have the
sums of what comes before. So it keeps its rows. Products that have their rows in common (those of queries, keys and
values) keep them once.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.calibrate.products import Product, add_product
from quantkit.calibrate.sums import Sums
from quantkit.system.temporary import temporary_root


@dataclass(frozen=True, eq=False)
class _Kept:
    """A product whose rows are in the file.

    Attributes:
        place: where they begin, in bytes.
        shape: of the rows.
        matrices, chosen: as in :class:`~quantkit.calibrate.products.Product`.
    """

    place: int
    shape: tuple[int, ...]
    matrices: tuple[int, int]
    chosen: npt.NDArray[np.int32] | None


class Held:
    """Products in the order in which llama.cpp computed them. Their file has no name, and is gone with its process."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._file = tempfile.TemporaryFile(dir=temporary_root())  # noqa: SIM115  (closed by :meth:`close`)
        self._products: dict[str, list[_Kept]] = {}
        self._source, self._names, self._place = 0, set[str](), 0
        self.nbytes = 0

    def keep(self, product: Product, source: int) -> None:
        """Keep a product.

        Args:
            product: its arrays may change afterwards.
            source: the address of the tensor that the rows are of. Products that follow each other with the same
                source and different names have the same rows: a name that comes again belongs to the next batch.

        Raises:
            OSError: the disk is full.
        """
        if source != self._source or product.name in self._names:
            self._source, self._place = source, self.nbytes
            self._names.clear()
            rows = np.ascontiguousarray(product.rows)
            self._file.write(rows.data)
            self.nbytes += rows.nbytes
        self._names.add(product.name)
        chosen = None if product.chosen is None else product.chosen.copy()
        kept = _Kept(self._place, product.rows.shape, product.matrices, chosen)
        self._products.setdefault(product.name, []).append(kept)

    def add(self, sums: dict[str, Sums], threads: int) -> None:
        """Add all rows to *sums*, tensors side by side.

        Raises:
            QuantkitError: as :func:`~quantkit.calibrate.products.add_product`.
        """
        self._file.flush()
        whole = np.memmap(self._file, np.uint8, "r", shape=(self.nbytes,)) if self.nbytes else None

        def one(name: str) -> dict[str, Sums]:
            own = {name: sums[name]} if name in sums else {}
            for kept in self._products[name]:
                assert whole is not None
                nbytes = 4 * int(np.prod(kept.shape, dtype=np.int64))
                rows = whole[kept.place : kept.place + nbytes].view(np.float32).reshape(kept.shape)
                add_product(own, Product(name, kept.matrices, rows, kept.chosen))
            return own

        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(one, self._products):
                sums |= found

    def close(self) -> None:
        """Forget everything."""
        self._file.close()
