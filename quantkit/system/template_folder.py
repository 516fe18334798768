"""The folder ``templates/``: inside an installed package, and next to the package in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.system.shell import installation


@cache
def template_folder() -> Path:
    """The folder of the templates.

    Raises:
        QuantkitError: this installation has none.
    """
    package = Path(__file__).parents[1]
    places = (package / "templates", package.parent / "templates")
    for folder in places:
        # Next to an installed package, a folder with this name belongs to another package.
        if (folder / "generic" / "Modelfile").is_file():
            return folder
    raise QuantkitError(
        f"{places[0]}: missing; this installation of quantkit is incomplete", hint=f"install it again, {installation()}"
    )
