"""The text files that make GGUF files a package: Modelfile, chat scripts and card."""

from __future__ import annotations

from quantkit.package.parameters import PARAMETERS, check_parameters
from quantkit.package.render import render_package, write_package
from quantkit.package.spec import PackagedModel, PackageSpec

__all__ = [
    "PARAMETERS",
    "PackageSpec",
    "PackagedModel",
    "check_parameters",
    "render_package",
    "write_package",
]
