"""Is a package that is there what its recipe would make? Then a farm does not build it again."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.files.json_file import read_json
from quantkit.hub.fetch import fetch
from quantkit.hub.matrix import HubMatrix
from quantkit.jobs.recipe import Recipe
from quantkit.material.data_file import CALIBRATION
from quantkit.package.file_names import REPORT
from quantkit.package.manifest import Manifest, read_manifest
from quantkit.package.plan_entries import source_entry, versions
from quantkit.system.progress import Reporter
from quantkit.verify.intact import check_contents

# Stages after the last byte of the models. Those files say when a build was: later work writes the others again.
_AFTERWARDS = frozenset({"package", "verify", "prove", "evaluate"})


def is_published(recipe: Recipe, device: str, *, verified: bool, threads: int, reporter: Reporter) -> bool:
    """Whether the package of a recipe is there, made by this version from these inputs, and whole.

    The manifest must have the recipe, the device, the versions and, of a hub, the revisions; every checksum in it must
    be that of the file. Inputs have no checksums in it: a file or folder among them that changed after the build began,
    by the time of its last change of status (which copying and renaming set, too), makes the package an old one.

    Args:
        recipe: with absolute paths.
        device: ``cpu`` or ``cuda``.
        verified: the checks that load the model must have been made; those that were made must have passed.
        threads: tensors that are read at a time.
        reporter: hears of downloads and of the reading.

    Raises:
        HubError: a model or an adapter cannot be downloaded.
    """
    if isinstance(recipe.imatrix, HubMatrix):  # the manifest does not have its revision
        return False
    try:
        manifest = read_manifest(recipe.folder)
        report = read_json(recipe.folder / REPORT)
        written = max((recipe.folder / file).stat().st_mtime for gguf in manifest.ggufs for file in gguf.files)
        begun = written - sum(value for stage, value in report["seconds"].items() if stage not in _AFTERWARDS)
    except (QuantkitError, KeyError, AttributeError, TypeError, OSError):
        return False
    if report.get("passed") is False or (verified and report.get("passed") is not True):
        return False
    model, adapters = fetch(recipe.model, recipe.adapters, reporter)
    folders = [model, *(adapter.folder for adapter in adapters)]
    if not _is_asked(manifest, recipe, device, folders) or _last_change(recipe, folders) >= begun:
        return False
    found = check_contents(recipe.folder, manifest, threads=threads, reporter=reporter)
    return all(check.passed for check in found.checks)


def _is_asked(manifest: Manifest, recipe: Recipe, device: str, folders: list[Path]) -> bool:
    """Whether the manifest has what the recipe asks for, from these sources, by the libraries that are here."""
    asked = json.loads(json.dumps({**recipe.to_json(), "device": device}))
    given = (recipe.model, *(adapter.source for adapter in recipe.adapters))
    sources = [source_entry(source, folder) for source, folder in zip(given, folders, strict=True)]
    known = manifest.sources
    return (
        manifest.recipe == asked
        and known is not None
        and [known.model, *known.adapters] == sources
        and dict(manifest.versions) == versions([name for name in manifest.versions if name != "quantkit"])
    )


def _last_change(recipe: Recipe, folders: list[Path]) -> float:
    """When an input last changed, in seconds since 1970; what lies in the recipe's own folder is no input."""
    files = [recipe.imatrix, recipe.calibrate, recipe.choice_data, Path(recipe.template)]
    paths: list[str | Path] = [
        path for path in files if isinstance(path, Path) and path != CALIBRATION and os.path.isfile(path)
    ]
    trees = [*folders, *([recipe.via_llama_cpp] if recipe.via_llama_cpp else [])]
    return max(os.stat(path).st_ctime for path in itertools.chain(paths, _all(trees, recipe.folder)))


def _all(folders: list[Path], but: Path) -> Iterator[str]:
    """The folders with everything in them, where links lead; not *but*, nor the folders around it, which its own
    appearance changes."""
    own = os.path.realpath(but)
    for folder in folders:
        for root, names, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(root)
            names[:] = [name for name in names if os.path.realpath(os.path.join(root, name)) != own]
            if not own.startswith(os.path.join(real, "")):
                yield root
            yield from (path for name in files if os.path.exists(path := os.path.join(root, name)))
