"""What a node of a farm does: plan a build, and build it. Both answer with a value, also if they fail."""

from __future__ import annotations

from typing import Any

from quantkit.cluster.board import BoardReporter
from quantkit.cluster.kind import check_version
from quantkit.errors import QuantkitError
from quantkit.farm.published import is_published
from quantkit.farm.values import Answer, Failure, Item, Needs
from quantkit.files.cleaning import clean_after_killed_runs
from quantkit.files.replaceable import check_free_folder
from quantkit.hub.fetch import fetch
from quantkit.hub.lock import one_download
from quantkit.jobs.build import build
from quantkit.jobs.choose import unquantized
from quantkit.jobs.memory_estimate import estimate_memory
from quantkit.jobs.prepare import prepare
from quantkit.jobs.run_options import RunOptions
from quantkit.package.manifest import PACKAGE_MARK
from quantkit.system.progress import Reporter


def plan(item: Item, board: Any) -> Answer:
    """Is the package there already? Otherwise what its build takes.

    Args:
        item: the build.
        board: told of the progress.
    """
    import ray

    reporter = BoardReporter(board, item.key)
    reporter.tell("planning", ray.get_runtime_context().get_node_id())
    try:
        check_version(item.version)
        with one_download(item.recipe.model, item.recipe.adapters):
            fetch(item.recipe.model, item.recipe.adapters, reporter)
        if is_kept(item, reporter):
            return Answer(kept=True)
        check_free_folder(item.folder, PACKAGE_MARK, overwrite=item.overwrite)
        return Answer(needs=_needs(item, reporter))
    except QuantkitError as error:
        return Answer(failure=Failure.of(error, planning=True))


def run(item: Item, board: Any, again: bool) -> Answer:
    """Build a package.

    Args:
        item: the build.
        board: told of the beginning and of the progress.
        again: an earlier attempt ended without an answer, perhaps after the package was published.
    """
    import ray

    reporter = BoardReporter(board, item.key)
    reporter.tell("begun", ray.get_runtime_context().get_node_id())
    try:
        with one_download(item.recipe.model, item.recipe.adapters):
            fetch(item.recipe.model, item.recipe.adapters, reporter)
        if again and is_kept(item, reporter):
            return Answer(kept=True)
        result = build(item.recipe, verify=item.verify, run=_options(item, reporter))
        if again:  # the process of the lost attempt may have ended only after this one began
            clean_after_killed_runs(item.folder, overwrite=True)
    except QuantkitError as error:
        return Answer(failure=Failure.of(error))
    return Answer(seconds=result.seconds, size=result.plan.nbytes)


def is_kept(item: Item, reporter: Reporter) -> bool:
    """Whether the package is there.

    What a lost attempt left beside it is removed: its process may have ended after the package was made elsewhere.
    """
    kept = is_published(item.recipe, item.device, verified=item.verify, threads=item.threads, reporter=reporter)
    if kept:
        clean_after_killed_runs(item.folder, overwrite=True)
    return kept


def _options(item: Item, reporter: Reporter) -> RunOptions:
    resume = item.recipe.via_llama_cpp is None
    return RunOptions(item.device, item.threads, item.overwrite, item.fsync, reporter, resume)


def _needs(item: Item, reporter: Reporter) -> Needs:
    """By the plan. What llama.cpp's converter reads has none before it is read: then only the processors count."""
    cards = int(item.device == "cuda")
    if item.recipe.via_llama_cpp is not None:
        return Needs(item.threads, 0, cards, 0)
    recipe = item.recipe if item.recipe.asked is None else unquantized(item.recipe)
    with prepare(recipe, _options(item, reporter)) as prepared:
        loads = item.recipe.calibrate is not None or item.recipe.asked is not None
        # Calibration and a choice of types write the unquantized file, and load it.
        whole = sum(one.outtype.nbytes(one.shape) for one in prepared.plan.tensors) if loads else 0
        memory = estimate_memory(prepared).host + whole
        return Needs(item.threads, memory, cards, prepared.plan.nbytes + whole)
