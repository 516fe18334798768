"""The plan of a build without the build: what ``quantkit build --dry-run`` prints."""

from __future__ import annotations

from typing import Unpack

from quantkit.jobs.arguments import SourceInput
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import BuildKeywords, Recipe, read_request
from quantkit.jobs.run_options import RunOptions
from quantkit.plan.values import Plan


def plan(model: Recipe | SourceInput, *, run: RunOptions | None = None, **keywords: Unpack[BuildKeywords]) -> Plan:
    """Plan a build: its files with their sizes, each tensor's type, and the notes. No weight of the base is read.

    A model or an adapter that comes from a hub is downloaded.

    Args:
        model: the base model, or a whole :class:`~quantkit.jobs.recipe.Recipe`.
        run, **keywords: as in :func:`quantkit.jobs.build.build`.

    Raises:
        QuantkitError: by name, whatever would end the build before its first weight.
    """
    recipe, run = read_request(model, run, **keywords)
    with prepare(recipe, run) as prepared:
        return prepared.plan
