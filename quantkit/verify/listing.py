"""What a package's manifest says of its files, read with suspicion: the folder may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.package.built import MANIFEST, read_manifest

REPORT = "report.json"


@dataclass(frozen=True)
class ListedText:
    """A text file: its name, bytes and sha256."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ListedModel:
    """A GGUF model or an adapter by itself.

    Attributes:
        files: names, the parts of a split model in order.
        adapter: whether it is an adapter.
        size: bytes of all files.
        tensors: type and sha256 by name.
        headers: sha256 of the bytes before the tensors by file; empty in packages that have no such sums.
    """

    files: tuple[str, ...]
    adapter: bool
    size: int
    tensors: Mapping[str, tuple[str, str]]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Listing:
    """A package by its manifest.

    Attributes:
        folder: the package.
        texts: its text files.
        models: its GGUF files, the first being the default.
        template: name of the chat format.
        stops: texts that end a turn.
        system: the system prompt.
        own_template: whether the files carry the chat template of the checkpoint, as far as is known.
        source: what it was built from, for people: an id or the name of a folder; "" if that is not known.
    """

    folder: Path
    texts: tuple[ListedText, ...]
    models: tuple[ListedModel, ...]
    template: str
    stops: tuple[str, ...]
    system: str | None
    own_template: bool
    source: str

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files but the manifest's own and the report's."""
        return (*(text.file for text in self.texts), *(file for model in self.models for file in model.files))


def read_listing(folder: Path) -> Listing:
    """Read a package's manifest.

    Raises:
        QuantkitError: there is none, or it is none of quantkit's.
    """
    if not folder.is_dir():
        raise QuantkitError(f"{folder}: no such folder", hint="give the folder that quantkit build made")
    manifest = read_manifest(folder)
    try:
        return _listing(folder, manifest)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise QuantkitError(
            f"{folder / MANIFEST}: not as quantkit writes it ({type(error).__name__}: {error})",
            hint="take the file of the original package, or build it again",
        ) from None


def _listing(folder: Path, manifest: Mapping[str, Any]) -> Listing:
    chat, source = manifest["chat"], manifest.get("sources", {}).get("model", {})
    models = [_model(entry, adapter=False) for entry in manifest["models"]]
    if not models:
        raise ValueError("no models")
    system = chat["system"]
    return Listing(
        folder=folder,
        texts=tuple(
            ListedText(_name(entry["file"]), int(entry["size"]), _text(entry["sha256"])) for entry in manifest["files"]
        ),
        models=(*models, *(_model(entry, adapter=True) for entry in manifest.get("adapter_files", ()))),
        template=_text(chat["template"]),
        stops=tuple(map(_text, chat["stops"])),
        system=None if system is None else _text(system),
        own_template=manifest.get("recipe", {}).get("template", "auto") == "auto",
        source=_text(source.get("id") or source.get("folder") or ""),
    )


def _model(entry: Mapping[str, Any], *, adapter: bool) -> ListedModel:
    return ListedModel(
        files=tuple(map(_name, entry.get("parts") or [entry["file"]])),
        adapter=adapter,
        size=int(entry["size"]),
        tensors={name: (_text(tensor["type"]), _text(tensor["sha256"])) for name, tensor in entry["tensors"].items()},
        headers={_name(file): _text(digest) for file, digest in entry.get("headers", {}).items()},
    )


def _name(value: Any) -> str:
    """A file of the folder itself: a manifest must not send anybody elsewhere."""
    name = _text(value)
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file in the folder")
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, not {value!r}")
    return value
