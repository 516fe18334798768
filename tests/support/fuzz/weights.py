"""Reads a file of weights as a build does."""

from __future__ import annotations

from quantkit.checkpoint.dtypes import READABLE
from quantkit.checkpoint.tensor_file import TensorFile


def read_weights(opened: TensorFile) -> None:
    """Read each tensor whose type can be read, and close the file."""
    try:
        for name, spec in opened.specs.items():
            if spec.dtype in READABLE:
                opened.read(name)
    finally:
        opened.close()
