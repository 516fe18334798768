"""A recipe as a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.jobs.argument_kinds import ADAPTERS, DATA, MATRIX, PATH, PATHS, SOURCE, TEMPLATE
from quantkit.jobs.arguments import PathInput, read_path
from quantkit.jobs.fields import refuse_unknown
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.jobs.run_options import RECIPE_FILE_FIELDS

_PATH_KINDS = (SOURCE, ADAPTERS, PATH, PATHS, MATRIX, DATA, TEMPLATE)
# "C:\new\table" is valid, and has a line break and a tab.
_ESCAPED = "\b\t\n\f\r"
_WINDOWS_PATH = r"in double quotes a backslash begins an escape: write paths in single quotes, as 'C:\models\qwen'"


def read_recipe(path: PathInput) -> dict[str, Any]:
    """The settings of a recipe file, as keyword arguments of :func:`quantkit.jobs.build.build`.

    Args:
        path: a TOML file; its keys are the fields of :class:`~quantkit.jobs.recipe.Recipe`, ``device`` and ``threads``.
            Paths in it are relative to it.

    Raises:
        QuantkitError: not TOML, an unknown key, or a value of the wrong type.
    """
    path = read_path("path", path)
    return read_settings(load_toml(path), path)


def load_toml(path: Path) -> dict[str, Any]:
    """The keys and values of a TOML file, as they are written.

    Raises:
        QuantkitError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))  # Windows' editors begin with the mark
    except OSError as error:
        raise QuantkitError(
            f"{path}: cannot be read ({error.strerror or error})", hint="give the path of a recipe in TOML"
        ) from None
    except UnicodeDecodeError as error:
        raise QuantkitError(f"{path}: not UTF-8 ({error.reason})", hint="save it as UTF-8 in your editor") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        backslash = "\\" in str(error) or "hex value" in str(error)  # the U of C:\Users wants digits
        hint = _WINDOWS_PATH if backslash else "write it as KEY = VALUE lines in UTF-8"
        raise QuantkitError(f"{path}: not valid TOML ({error})", hint=hint) from None


def read_settings(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the keys and values of a recipe file mean.

    Args:
        settings: as :func:`load_toml` returns them.
        path: the file, for messages, and for the paths in it.

    Raises:
        QuantkitError: an unknown key, or a value of the wrong type.
    """
    known = {**RECIPE_FIELDS, **RECIPE_FILE_FIELDS}
    refuse_unknown(settings, known, what="key", where=f"{path}: ")
    for key, value in settings.items():
        if known[key].kind in _PATH_KINDS and any(sign in text for text in _texts_in(value) for sign in "\b\t\n\f\r"):
            raise QuantkitError(
                f"{path}: {key} has a tab, a line break or another control character", hint=_WINDOWS_PATH
            )
    return {key: known[key].read(value, file=path) for key, value in settings.items()}


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(item)
