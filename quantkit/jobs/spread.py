"""One build over the nodes of a Ray cluster with a shared file system.

The plan knows every byte's place, so nodes need not know of each other: shares of whole tensors (whose checksums are of
their bytes in order) are dealt, and every node writes its own at their offsets. A share that was not answered for is
dealt again: it writes the same bytes to the same places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.cluster.connection import Node, connected, nodes
from quantkit.engine.stream import Progress
from quantkit.errors import QuantkitError
from quantkit.files.output_file import OutputFile
from quantkit.files.workspace import Workspace
from quantkit.jobs.absolute import absolute
from quantkit.jobs.prepare import PlannedBuild
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_stream import check_space
from quantkit.jobs.spread_node import Done, Share, SpreadNode, plan_key
from quantkit.model.merger import Merger
from quantkit.plan.values import Output, PlannedTensor, count_elements

# Shares for each node: enough that all end at about the same time, and that a lost node costs little.
_SHARES = 8
# Shares that a node has at a time, so that it never waits for the next.
_AHEAD = 2

Heard = Callable[[str, str, Share | None], None]
"""Called with what happened (``dealt``, ``done``, ``lost``), the node's name, and the share."""


def require_spreadable(recipe: Recipe) -> None:
    """Refuse what one process has to do as a whole.

    Raises:
        QuantkitError: the option that cannot be combined.
    """
    reasons = {
        "--calibrate": recipe.calibrate is not None,
        "--size, --bits and --fit": recipe.asked is not None,
        "--via-llama-cpp": recipe.via_llama_cpp is not None,
        "--mmproj": recipe.mmproj,
    }
    for flag, given in reasons.items():
        if given:
            raise QuantkitError(
                f"{flag} cannot go with --ray: this work is not divided over nodes", hint="leave out one of the two"
            )


def spread_stream(
    address: str,
    prepared: PlannedBuild,
    outputs: Sequence[Output],
    work: Workspace,
    heard: Heard = lambda what, node, share: None,
) -> dict[str, dict[str, str]]:
    """Stream a build's outputs on every node of a cluster.

    Args:
        address: of the cluster, as :func:`quantkit.cluster.connection.connected` takes it.
        prepared: the build.
        outputs: its files.
        work: its workspace, in a folder that all nodes share.
        heard: told of the shares.

    Returns:
        By file, by tensor: sha256.

    Raises:
        QuantkitError: no cluster, no node that is left, or the first error of any node.
    """
    check_space(work, sum(output.nbytes for output in outputs))
    tensors = prepared.plan.tensors
    for output in outputs:
        OutputFile(work.path / output.file, output.header, output.nbytes, shown=work.place / output.file).close()
    weights = sum(count_elements(tensor.shape) for tensor in tensors)
    with connected(address, work.final) as ray, prepared.run.reporter.phase("writing", weights) as progress:
        spread = _Spread(ray, prepared, outputs, work, heard, progress)
        try:
            return spread.run()
        finally:
            spread.close()


def shares(tensors: Sequence[PlannedTensor], count: int) -> list[Share]:
    """Tensors in about *count* shares of about the same number of weights, the largest tensors first."""
    ordered = sorted(tensors, key=lambda tensor: count_elements(tensor.shape), reverse=True)
    most = -(-sum(count_elements(tensor.shape) for tensor in tensors) // count)
    made: list[Share] = []
    names: list[str] = []
    weights = 0
    for tensor in ordered:
        names.append(tensor.name)
        weights += count_elements(tensor.shape)
        if weights >= most:
            made.append(Share(len(made), tuple(names), weights))
            names, weights = [], 0
    return [*made, *([Share(len(made), tuple(names), weights)] if names else [])]


@dataclass
class _Worker:
    """A node at work."""

    node: Node
    actor: Any
    open: bool = False
    given: dict[Any, Share] = field(default_factory=dict)


class _Spread:
    """One run."""

    def __init__(
        self,
        ray: Any,
        prepared: PlannedBuild,
        outputs: Sequence[Output],
        work: Workspace,
        heard: Heard,
        progress: Progress,
    ) -> None:
        self.ray, self.outputs, self.heard, self.progress = ray, outputs, heard, progress
        self.source, self.wanted = prepared.subject.source, len(prepared.plan.tensors)
        self.place: tuple[Path, Path] = (work.path, work.place)
        cuda = prepared.workers.cuda
        present = [node for node in nodes(ray) if node.resources.get("GPU" if cuda else "CPU", 0) >= 1]
        if not present:
            raise QuantkitError(
                "no node of the cluster has a " + ("graphics card" if cuda else "processor") + " for the build",
                hint="pass --device cpu, or add such a node",
            )
        self.waiting = deque(shares(prepared.plan.tensors, _SHARES * len(present)))
        self.digests: dict[str, dict[str, str]] = {output.file: {} for output in outputs}
        recipe, key = absolute(prepared.recipe), plan_key(prepared.plan.tensors)
        sent = ray.put(tuple(outputs))
        self.opening: dict[Any, _Worker] = {}
        for node in present:
            processors = int(node.resources.get("CPU", 1))
            actor = self._actor(node, processors, int(node.resources.get("GPU", 0)) if cuda else 0)
            threads = prepared.run.threads or processors
            ref = actor.open.remote(recipe, prepared.workers.kind, threads, sent, key)
            self.opening[ref] = _Worker(node, actor)
        self.workers = list(self.opening.values())

    def _actor(self, node: Node, processors: int, cards: int) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(node.id, soft=False)
        options = {"num_cpus": processors, "num_gpus": cards, "scheduling_strategy": here, "max_restarts": 0}
        return self.ray.remote(SpreadNode).options(**options).remote()

    def run(self) -> dict[str, dict[str, str]]:
        """Until every share is done."""
        from ray.exceptions import RayError

        while self.waiting or any(worker.given for worker in self.workers):
            refs = {ref: worker for worker in self.workers for ref in worker.given} | self.opening
            if not refs:
                raise QuantkitError(
                    "every node was lost before the build was done", hint="look at the cluster, and build again"
                )
            ready, _ = self.ray.wait(list(refs), num_returns=1, timeout=1.0)
            for ref in ready:
                worker = refs[ref]
                try:
                    answer = self.ray.get(ref)
                except RayError:
                    self._lost(worker)
                    continue
                if isinstance(answer, QuantkitError):
                    where = f"node {worker.node.name}: {answer}"
                    raise type(answer)(where, hint=answer.hint)
                self._answered(worker, ref, answer)
        return self.digests

    def _answered(self, worker: _Worker, ref: Any, answer: Done | None) -> None:
        if answer is None:
            del self.opening[ref]
            worker.open = True
        elif (share := worker.given.pop(ref, None)) is not None:
            for file, found in answer.digests.items():
                self.digests[file] |= found
            if isinstance(self.source, Merger):
                self.source.meter.add(answer.measures)
            self.progress(share.weights)
            self.heard("done", worker.node.name, share)
        self._deal()

    def _deal(self) -> None:
        """Give every node that is ready the next shares."""
        for worker in self.workers:
            while worker.open and self.waiting and len(worker.given) < _AHEAD:
                share = self.waiting.popleft()
                worker.given[worker.actor.carry.remote(share, *self.place, "--outtype")] = share
                self.heard("dealt", worker.node.name, share)

    def _lost(self, worker: _Worker) -> None:
        """Deal its shares again, to the others."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        self.opening = {ref: one for ref, one in self.opening.items() if one is not worker}
        self.heard("lost", worker.node.name, None)
        for share in worker.given.values():
            self.waiting.appendleft(share)
        self._deal()

    def close(self) -> None:
        """End the actors; none of them writes any more."""
        for worker in self.workers:
            self.ray.kill(worker.actor)
