"""A checkpoint's tensors for transformers, by name and one at a time.

The safetensors library reads safetensors files, and not quantkit's own reader, so that a fault of the reader shows in a
proof. Quantized weights and pickles are read as quantkit reads them: transformers would need the library that quantized
them, and a pickle cannot be read in parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from quantkit.checkpoint.dtypes import to_float32
from quantkit.checkpoint.folder import Checkpoint, open_checkpoint
from quantkit.checkpoint.tensor_names import bare, holder


class Weight(Protocol):
    """A tensor that is read when it is indexed with ``[...]``, as transformers' loader does."""

    def __getitem__(self, index: Any, /) -> torch.Tensor: ...


class Weights:
    """The tensors of an open checkpoint, by transformers' names for them."""

    def __init__(self, checkpoint: Checkpoint, known: Collection[str]) -> None:
        """Name the tensors.

        Args:
            checkpoint: the checkpoint.
            known: names that transformers' model has for its tensors.
        """
        self._checkpoint = checkpoint
        self._stored = _stored_names(checkpoint, known)
        files = {spec.file for spec in checkpoint.tensors.values()}
        self._own_reader = bool(checkpoint.formats) or any(file.suffix != ".safetensors" for file in files)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._stored)

    @contextmanager
    def some(self, names: Iterable[str]) -> Iterator[dict[str, Weight]]:
        """Some tensors, to be read in the block. Files are mapped no longer: what was read of them counts as memory."""
        if self._own_reader:
            yield {name: _Read(self._checkpoint, self._stored[name]) for name in names}
            return
        from safetensors import safe_open

        specs = {name: self._checkpoint.tensors[self._stored[name]] for name in names}
        with ExitStack() as stack:
            files = {spec.file for spec in specs.values()}
            opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
            yield {name: opened[spec.file].get_slice(spec.name) for name, spec in specs.items()}


def _stored_names(checkpoint: Checkpoint, known: Collection[str]) -> Mapping[str, str]:
    """By transformers' name the name in the file; the same, but where the model was saved from within a wrapper.

    transformers' loader converts the names of its own history (stacked experts, the decoder alone), and no wrapper's.
    """
    names = {bare(name): name for name in checkpoint.tensors}
    holders = [] if any(name in known for name in names) else holder(names, known.__contains__)
    held = {name.removeprefix(prefix): stored for prefix in holders[:1] for name, stored in names.items()}
    return held if 2 * sum(name in held for name in known) > len(known) else names


@contextmanager
def open_weights(model: Path, known: Collection[str]) -> Iterator[Weights]:
    """Open the weights of a checkpoint.

    Args:
        model: its folder.
        known: names that transformers' model has for its tensors.

    Raises:
        CheckpointError: the folder is broken.
    """
    with open_checkpoint(model) as checkpoint:
        yield Weights(checkpoint, known)


class _Read:
    """A tensor that quantkit's reader reads, as float32."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint, self._name = checkpoint, name

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.from_numpy(to_float32(self._checkpoint.read(self._name)))[index]
