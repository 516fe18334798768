"""Open a file of tensors by its suffix."""

from __future__ import annotations

from pathlib import Path

from quantkit.checkpoint.lfs import is_lfs_pointer, lfs_hint
from quantkit.checkpoint.tensor_file import DISK_HINT, Refusal, SafetensorsFile, TensorFile
from quantkit.errors import CheckpointError


def open_tensor_file(path: Path, refuse: Refusal = CheckpointError) -> TensorFile:
    """Open a ``.safetensors`` or PyTorch pickle (``.bin``, ``.pt``) file.

    Args:
        path: the file.
        refuse: the error class to raise, so that an adapter's file is reported as an adapter's.

    Raises:
        QuantkitError: *refuse*, naming the file and what is wrong with it.
    """
    if is_lfs_pointer(path):
        raise refuse(f"{path}: a git-lfs pointer, not the file itself", hint=lfs_hint(path))
    try:
        if path.suffix == ".safetensors":
            return SafetensorsFile(path, refuse)
        from quantkit.checkpoint.pickle_file import PickleFile  # which needs torch

        return PickleFile(path, refuse)
    except FileNotFoundError:
        raise refuse(f"{path}: file is missing", hint="download the folder again") from None
    except OSError as error:
        raise refuse(f"{path}: cannot be read ({error.strerror or error})", hint=DISK_HINT) from None
