"""Memory that a worker uses again and again: many workers that get it from the system and give it back wait for each
other longer than they compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


class Kept:
    """Arrays by name, for one thread. Each is as large as it ever had to be."""

    def __init__(self) -> None:
        self._held: dict[str, npt.NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array of arbitrary values, valid until its name is asked for again."""
        nbytes = math.prod(shape) * dtype.itemsize
        held = self._held.get(name)
        if held is None or held.size < nbytes:
            held = self._held[name] = np.empty(nbytes, dtype=np.uint8)
        return held[:nbytes].view(dtype).reshape(shape)
