"""The text files that make GGUF files a package: Modelfile, chat scripts and card."""

from __future__ import annotations

from quantkit.package.ollama import no_modelfile_notes, template_notes
from quantkit.package.parameters import PARAMETERS, check_parameters
from quantkit.package.render import render_package, write_package
from quantkit.package.spec import PackagedAdapter, PackagedModel, PackageSpec

__all__ = [
    "PARAMETERS",
    "PackageSpec",
    "PackagedAdapter",
    "PackagedModel",
    "check_parameters",
    "no_modelfile_notes",
    "render_package",
    "template_notes",
    "write_package",
]
