"""The text files that make GGUF files a package: Modelfile, chat scripts and card."""

from __future__ import annotations

from quantkit.package.messages import check_messages
from quantkit.package.ollama import ollama_differences, package_notes
from quantkit.package.parameters import PARAMETERS, check_parameters, merge_parameters
from quantkit.package.render import render_package, write_package
from quantkit.package.spec import PackagedAdapter, PackagedModel, PackageSpec

__all__ = [
    "PARAMETERS",
    "PackageSpec",
    "PackagedAdapter",
    "PackagedModel",
    "check_messages",
    "check_parameters",
    "merge_parameters",
    "ollama_differences",
    "package_notes",
    "render_package",
    "write_package",
]
