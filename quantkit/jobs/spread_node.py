"""What a node does for a build that is spread over several: it plans the same, and streams the tensors it is given.

An actor of Ray's. Its answers are values: an error that a user can act on is one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from quantkit import __version__
from quantkit.cluster.dealing import Opened
from quantkit.engine.encoders import kinds, load_encoders
from quantkit.engine.stream import stream
from quantkit.errors import QuantkitError
from quantkit.files.fileio import sync
from quantkit.jobs.prepare import PlannedBuild, prepare
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions
from quantkit.model.effect_meter import Measures
from quantkit.model.merger import Merger
from quantkit.plan.values import Output, PlannedTensor


@dataclass(frozen=True)
class Share:
    """Tensors that a node is to stream.

    Attributes:
        number: of the share.
        names: of the tensors.
        weights: of all of them.
    """

    number: int
    names: tuple[str, ...]
    weights: int


@dataclass(frozen=True)
class Done:
    """A share that lies in the files.

    Attributes:
        digests: by file, by tensor: sha256.
        measures: what the adapters changed.
    """

    digests: Mapping[str, Mapping[str, str]]
    measures: Measures


def plan_key(tensors: Sequence[PlannedTensor]) -> str:
    """Equal for two plans that stream the same tensors from the same sources."""
    told = [__version__, *(repr((one.name, one.sources, one.shape, one.outtype.name, one.unit)) for one in tensors)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


class SpreadNode:
    """One node's part of a build."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def open(
        self, recipe: Recipe, device: str, threads: int, outputs: Sequence[Output], key: str
    ) -> Opened | QuantkitError:
        """Plan, and load the encoders.

        Args:
            recipe: what is built, with absolute paths.
            device: ``cpu`` or ``cuda``.
            threads: worker threads.
            outputs: the files, as they are planned where the build was begun.
            key: of the plan there, see :func:`plan_key`.
        """
        try:
            run = RunOptions(device, threads)
            self._prepared: PlannedBuild = self._held.enter_context(prepare(recipe, run))
            tensors = self._prepared.plan.tensors
            if plan_key(tensors) != key:
                raise QuantkitError(
                    "this node plans other tensors than the machine where the build was begun",
                    hint="install the same version on every node, and give every node the same model and adapters",
                )
            self._outputs = outputs
            self._tensors = {tensor.name: tensor for tensor in tensors}
            load_encoders(kinds(tensors, outputs), outputs, self._source, self._prepared.workers)()
        except QuantkitError as error:
            return error
        return Opened()

    @property
    def _source(self) -> Merger:
        source = self._prepared.subject.source
        assert isinstance(source, Merger)
        return source

    def carry(self, share: Share, folder: Path, shown: Path, wider: str) -> Done | QuantkitError:
        """Stream a share into the files, and flush them: a node that is lost afterwards takes nothing with it.

        Args:
            share: the tensors.
            folder: where the files are.
            shown, wider: as in :func:`quantkit.engine.stream.stream`.
        """
        tensors = [self._tensors[name] for name in share.names]
        workers = self._prepared.workers
        try:
            digests = stream(
                tensors, self._outputs, self._source, folder, workers=workers, shown=shown, wider=wider, exist=True
            )
            for output in self._outputs:
                sync(folder / output.file)
        except QuantkitError as error:
            return error
        sources = [source for tensor in tensors for source in tensor.sources]
        return Done(digests, self._source.meter.measures(sources))
