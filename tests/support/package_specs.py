"""A package for tests, and its files without weights."""

from __future__ import annotations

from pathlib import Path

from quantkit.chat_template.format import named_format
from quantkit.package.render import write_package
from quantkit.package.spec import PackagedModel, PackageSpec

SPEC = PackageSpec(
    name="tiny",
    models=(PackagedModel("tiny-q4_0.gguf", "q4_0"), PackagedModel("tiny-q8_0.gguf", "q8_0")),
    chat=named_format("chatml"),
    system=None,
    parameters=(),
    context_length=131072,
    base="org/base",
    adapters=("first-lora", "second-lora"),
    licenses=("MIT",),
    architecture="llama",
    parameter_count=2_031_000,
)


def packaged(spec: PackageSpec, folder: Path) -> Path:
    """The folder with the package's text files, and empty files for its models."""
    write_package(spec, folder)
    for model in spec.models:
        (folder / model.file).touch()
    return folder
