"""The text files that make GGUF files a package: Modelfile, chat scripts and card."""

from __future__ import annotations

from quantkit.ollama.messages import check_messages
from quantkit.ollama.parameters import PARAMETERS, check_parameters, merge_parameters
from quantkit.package.ollama_modelfile import ollama_differences, package_notes
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
