"""All text files of a package at once."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import OutputError
from quantkit.files.output_file import write_error
from quantkit.package.card import card
from quantkit.package.chat_script import chat_ps1, chat_sh
from quantkit.package.ollama_modelfile import modelfile, modelfile_name, no_modelfile
from quantkit.package.spec import PackageSpec, check_spec

_EXECUTABLE = "chat.sh"


def render_package(spec: PackageSpec) -> dict[str, str]:
    """Return every text file by name: Modelfile, Modelfile.TYPE for further models, chat.sh, chat.ps1, README.md.

    A model that Ollama cannot run does not get a Modelfile, such as a split one.

    Raises:
        OutputError: a file name that some system does not allow, or two models of the same type.
        ChatFormatError: a parameter, system prompt or other text that cannot be written.
    """
    check_spec(spec)
    names: set[str] = set()
    files: dict[str, str] = {}
    for index, model in enumerate(spec.models):
        name = modelfile_name(index, model)
        if name in names:
            raise OutputError(
                f"package {spec.name!r} has two models of type {model.quant}: both would use the name {name}"
            )
        names.add(name)
        if no_modelfile(model, spec.loras) is None:
            files[name] = modelfile(spec, index)
    return files | {"chat.sh": chat_sh(spec), "chat.ps1": chat_ps1(spec), "README.md": card(spec)}


def write_package(spec: PackageSpec, folder: Path) -> tuple[Path, ...]:
    """Write the text files of a package, as UTF-8 and with the line ends of their texts, into a folder (made if
    absent).

    Nothing is written if one of them cannot be rendered.

    Raises:
        OutputError: the folder or a file cannot be written; also as :func:`render_package`.
        ChatFormatError: as :func:`render_package`.
    """
    paths = []
    for name, text in render_package(spec).items():
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8"))
            if name == _EXECUTABLE:
                path.chmod(0o755)
        except OSError as error:
            raise write_error(path, error) from error
        paths.append(path)
    return tuple(paths)
