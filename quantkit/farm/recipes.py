"""The recipes of a farm: files, folders of files, and a matrix in one file."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.farm.values import Wanted
from quantkit.files.visible import visible
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.source import source_name
from quantkit.jobs.absolute import absolute
from quantkit.jobs.fields import refuse_unknown
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.jobs.recipe_file import load_toml, read_settings
from quantkit.jobs.run_options import RECIPE_FILE_FIELDS
from quantkit.material.data_file import CALIBRATION

MATRIX = "matrix"
# The farm makes one of these for each package.
_NOT_IN_A_MATRIX = ("name", "out")
_NOT_IN_LABELS = re.compile(r"[^\w.+-]+")
_EXAMPLE = 'write it as [matrix] with lines such as quants = ["q4_0", ["q8_0", "q4_k_m"]]'


def read_recipes(paths: Sequence[Path]) -> tuple[Wanted, ...]:
    """The packages that recipe files ask for.

    Args:
        paths: files, or folders whose ``*.toml`` files are read in the order of their names.

    Raises:
        QuantkitError: a file that is no recipe, a folder without one, or two packages in one folder.
    """
    wanted = [one for path in paths for file in _files(path) for one in _of_file(file)]
    _refuse_twice(wanted)
    return tuple(wanted)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(visible(path, "*.toml"))
    if not found:
        raise QuantkitError(
            f"{path}: no recipe (*.toml) in this folder", hint="give recipe files, or a folder that has them"
        )
    return found


def _of_file(file: Path) -> Iterator[Wanted]:
    settings = load_toml(file)
    if MATRIX not in settings:
        known = read_settings(settings, file)
        yield _wanted(file.stem, _recipe(known, file), known)
        return
    axes = _axes(settings.pop(MATRIX), file)
    if both := [key for key in axes if key in settings]:
        raise QuantkitError(
            f"{file}: {both[0]} is given for all builds and in [matrix]", hint="leave it out in one of the two places"
        )
    shared = read_settings(settings, file)
    place = shared.pop("out", None) or Path(file.stem)
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        given = read_settings({key: value for key, value in chosen.items() if value != ""}, file)
        recipe = _recipe({**shared, **given}, file)
        parts = [_part(key, getattr(recipe, key)) for key in axes if len(axes[key]) > 1]
        label = "-".join(parts) or file.stem
        yield _wanted(f"{file.stem}/{label}", replace(recipe, out=place / label), shared | given)


def _axes(matrix: Any, file: Path) -> dict[str, list[Any]]:
    """The values of each key."""
    if not isinstance(matrix, dict) or not matrix:
        raise QuantkitError(f"{file}: matrix is not a table of lists", hint=_EXAMPLE)
    refuse_unknown(matrix, {**RECIPE_FIELDS, **RECIPE_FILE_FIELDS}, what="key", where=f"{file}: [matrix]: ")
    for key, values in matrix.items():
        if key in _NOT_IN_A_MATRIX:
            raise QuantkitError(
                f"{file}: {key} cannot be in [matrix]: every build gets a folder of its own",
                hint=f"write {key} above [matrix]; out is the folder around those of the builds",
            )
        if key in RECIPE_FILE_FIELDS:
            raise QuantkitError(f"{file}: {key} cannot be in [matrix]", hint=f"write it above [matrix]: {key} = ...")
        if not isinstance(values, list) or not values:
            raise QuantkitError(f"{file}: matrix.{key} is {values!r:.120}; expected a list of values", hint=_EXAMPLE)
    return matrix


def _part(key: str, value: Any) -> str:
    """A value in a folder's name."""
    none = f"no-{key}"
    match key, value:
        case "model", _:
            text = source_name(value)
        case "adapters", None | ():
            text = "base"
        case "adapters", _:
            text = "+".join(map(_adapter, value))
        case "quants", _:
            text = "+".join(value)
        case _, None | ():
            text = none
        case _, Path():
            text = "auto" if value == CALIBRATION else value.stem
        case _, str() | int() | float():
            text = f"{key}-{str(value).lower() if isinstance(value, bool) else value}"
        case _:
            text = f"{key}-{value}"
    return _NOT_IN_LABELS.sub("_", text).lstrip(".") or none


def _adapter(adapter: AdapterSource) -> str:
    return source_name(adapter.source) + ("" if adapter.weight == 1 else f"x{adapter.weight:g}")


def _recipe(settings: Mapping[str, Any], file: Path) -> Recipe:
    fields = {key: value for key, value in settings.items() if key in RECIPE_FIELDS}
    if "model" not in fields:
        raise QuantkitError(f"{file}: model is missing", hint='write it as model = "org/name", or a folder')
    try:
        return Recipe(**fields)
    except QuantkitError as error:
        raise type(error)(f"{file}: {error}", hint=error.hint) from None


def _wanted(label: str, recipe: Recipe, settings: Mapping[str, Any]) -> Wanted:
    own = {key: value for key, value in settings.items() if key in RECIPE_FILE_FIELDS}
    return Wanted(label, absolute(recipe), own.get("device"), own.get("threads"))


def _refuse_twice(wanted: Sequence[Wanted]) -> None:
    """Refuse two builds that would replace each other."""
    seen: dict[str, Wanted] = {}
    for one in wanted:
        folder = os.path.realpath(one.recipe.folder)
        if folder in seen:
            raise QuantkitError(
                f"{seen[folder].label} and {one.label} would both write {one.recipe.folder}",
                hint='give one of them another folder: out = "DIR" in its recipe',
            )
        seen[folder] = one
