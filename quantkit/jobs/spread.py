"""One build over the nodes of a Ray cluster with a shared file system.

The plan knows every byte's place, so nodes need not know of each other: shares of whole tensors (whose checksums are of
their bytes in order) are dealt, and every node writes its own at their offsets. A share that was not answered for is
dealt again: it writes the same bytes to the same places.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.cluster.connection import connected
from quantkit.cluster.dealing import SHARES, Dealing, Heard, Worker, fitting_nodes, nothing_heard
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
    heard: Heard = nothing_heard,
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
    digests: dict[str, dict[str, str]] = {output.file: {} for output in outputs}
    source, cuda, run = prepared.subject.source, prepared.workers.cuda, prepared.run
    recipe, key = absolute(prepared.recipe), plan_key(tensors)
    with connected(address, work.final) as ray, run.reporter.phase("writing", weights) as progress:
        present = fitting_nodes(ray, cards=cuda)
        dealing, sent = Dealing(ray, run.reporter, alike=False, heard=heard), ray.put(tuple(outputs))

        def answered(worker: Worker, share: Share, done: Done) -> bool:
            for file, found in done.digests.items():
                digests[file] |= found
            if isinstance(source, Merger):
                source.meter.add(done.measures)
            progress(share.weights)
            return True

        try:
            dealing.hire(
                present,
                SpreadNode,
                lambda actor, node, processors: actor.open.remote(
                    recipe, prepared.workers.kind, run.threads or processors, sent, key
                ),
                cards=cuda,
            )
            dealing.run(
                shares(tensors, SHARES * len(present)),
                lambda worker, share: worker.actor.carry.remote(share, work.path, work.place, "--outtype"),
                answered,
            )
            return digests
        finally:
            dealing.close()


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
