"""A file that is loaded once, although it changes afterwards: only what has changed is brought up to date.

On the processor llama.cpp computes with the pages of the file itself, so there is nothing to do. What it has copied, to
a device for instance, is written there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from quantkit.choose.weights import find_weights
from quantkit.run.inference import LoadedModel, context_params, loaded_model, opened_context

# Tokens with which the weights are looked for.
_FEW = 8


class FollowedFile:
    """A loaded file, and a context in it.

    Attributes:
        model, context: llama.cpp's; others after the file was loaded again.
    """

    model: LoadedModel
    context: Any

    def __init__(
        self,
        path: Path,
        ids: Sequence[int],
        *,
        tokens: int,
        threads: int | None,
        gpu_layers: int,
        mapped: bool,
        hint: str,
    ) -> None:
        """Load a file.

        Args:
            path: the file, of one part.
            ids: some tokens that it can evaluate.
            tokens: of the context.
            threads, gpu_layers: how to compute.
            mapped: whether to compute with the pages of the file.
            hint: what to do if there is no memory for it.

        Raises:
            QuantkitError: llama.cpp refuses it.
        """
        self._path, self._ids, self._tokens, self._hint = path, ids[:_FEW], tokens, hint
        self._threads, self._gpu_layers, self._mapped = threads, gpu_layers, mapped
        self._stack, self._before = ExitStack(), frozenset[str]()
        self._load()

    def close(self) -> None:
        """Give the memory back."""
        self._stack.close()

    def follow(self, names: Collection[str]) -> list[str]:
        """Bring the model up to date.

        Args:
            names: the tensors that are not as when it was loaded; those of the last call are as they were then, unless
                they are among these.

        Returns:
            Tensors for which the file had to be loaded again: llama.cpp does not show where it has them.
        """
        changed, self._before = self._before | set(names), frozenset(names)
        hidden = sorted(changed - self._weights.places.keys())
        if not hidden and self._mapped:
            hidden = self._weights.stale(changed)
        elif not hidden:
            self._weights.write(changed)
        if hidden:
            self.close()
            self._load()
        return hidden

    def _load(self) -> None:
        self.model = self._stack.enter_context(
            loaded_model(self._path, n_gpu_layers=self._gpu_layers, repack=False, mapped=self._mapped)
        )
        self._weights = find_weights(self.model, self._ids, self._hint)
        params = context_params(self._tokens, self._threads)
        params.op_offload = False  # it would compute with copies of what is in the processor's memory
        self.context, _ = self._stack.enter_context(opened_context(self.model, params, self._hint))
