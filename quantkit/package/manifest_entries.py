"""The entries of manifest.json for files, as values. A field is a key of the file, and is described as one.

What is read is read with suspicion: the folder may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.files.json_fields import Fields
from quantkit.package.file_names import name_fault

LARGEST_TEXT = 64 << 20
"""Bytes of a text file at most: it is read without progress."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a GGUF file.

    Attributes:
        type: its type in lower case, such as ``q4_0``.
        sha256: of its bytes.
        reason: why it has another type than the file's; left out where it has not.
    """

    type: str
    sha256: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"type": self.type, "sha256": self.sha256, **({"reason": self.reason} if self.reason else {})}

    @classmethod
    def from_json(cls, found: Fields) -> TensorEntry:
        """What :meth:`to_json` wrote."""
        return cls(found.text("type"), found.text("sha256"), found.optional_text("reason") or "")


@dataclass(frozen=True)
class ModelEntry:
    """A GGUF model: one file, or the parts of a split one.

    Attributes:
        file: its name, of a split model that of the first part.
        parts: names of all parts of a split model; left out for one file.
        quant: its quantization type in lower case, such as ``q4_k_m``.
        size: bytes of all files.
        headers: by file, the sha256 of the bytes before its tensors; packages of the first versions have none.
        tensors: by name.
    """

    file: str
    quant: str
    size: int
    headers: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]
    parts: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all its files, in order."""
        return self.parts or (self.file,)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "file": self.file,
            **({"parts": list(self.parts)} if self.parts else {}),
            "quant": self.quant,
            **_contents(self),
        }

    @classmethod
    def from_json(cls, found: Fields) -> ModelEntry:
        """What :meth:`to_json` wrote."""
        file = _checked_name(found, "file", found.text("file"))
        listed = found.texts("parts") if "parts" in found else ()
        parts = tuple(_checked_name(found, "parts", part) for part in listed)
        if parts and parts[0] != file:
            raise found.error("parts", f"a list that begins with {file!r}")
        return cls(
            file=file,
            parts=parts,
            quant=found.text("quant"),
            size=found.size("size"),
            headers=_headers(found),
            tensors=_tensors(found),
        )


@dataclass(frozen=True)
class ProjectorEntry:
    """The part of a model that sees pictures, as llama.cpp's mmproj file.

    Attributes:
        file: its name.
        projector: llama.cpp's name of its family, such as ``gemma3``.
        size: bytes of the file.
        headers: the sha256 of the bytes before its tensors, by its name.
        tensors: by name.
    """

    file: str
    projector: str
    size: int
    headers: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]

    @property
    def files(self) -> tuple[str, ...]:
        """Its name: it is never split."""
        return (self.file,)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"file": self.file, "projector": self.projector, **_contents(self)}

    @classmethod
    def from_json(cls, found: Fields) -> ProjectorEntry:
        """What :meth:`to_json` wrote."""
        return cls(
            file=_checked_name(found, "file", found.text("file")),
            projector=found.text("projector"),
            size=found.size("size"),
            headers=_headers(found),
            tensors=_tensors(found),
        )


@dataclass(frozen=True)
class AdapterEntry:
    """An adapter by itself, as a LoRA file for llama.cpp.

    Attributes:
        file: its name.
        adapter: where it came from: an id, or the name of a folder.
        alpha: the file's scaling.
        scale: how much of it the models are run with; left out where they contain it already.
        size: bytes of the file.
        headers: the sha256 of the bytes before its tensors, by its name.
        tensors: by name.
    """

    file: str
    adapter: str
    alpha: float
    size: int
    headers: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]
    scale: float | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Its name: an adapter is never split."""
        return (self.file,)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "file": self.file,
            "adapter": self.adapter,
            "alpha": self.alpha,
            **({} if self.scale is None else {"scale": self.scale}),
            **_contents(self),
        }

    @classmethod
    def from_json(cls, found: Fields) -> AdapterEntry:
        """What :meth:`to_json` wrote."""
        return cls(
            file=_checked_name(found, "file", found.text("file")),
            adapter=found.text("adapter"),
            alpha=found.number("alpha"),
            scale=found.number("scale") if "scale" in found else None,
            size=found.size("size"),
            headers=_headers(found),
            tensors=_tensors(found),
        )


@dataclass(frozen=True)
class TextEntry:
    """A text file of the package.

    Attributes:
        file: its name.
        size: its bytes.
        sha256: of its bytes.
    """

    file: str
    size: int
    sha256: str

    @classmethod
    def from_json(cls, found: Fields) -> TextEntry:
        """From JSON values."""
        size = found.size("size")
        if size > LARGEST_TEXT:
            raise found.error("size", f"at most {LARGEST_TEXT}: it is a text")
        return cls(_checked_name(found, "file", found.text("file")), size, found.text("sha256"))


@dataclass(frozen=True)
class MatrixEntry:
    """The importance matrix that was computed for the package.

    Attributes:
        file: its name.
        size: its bytes.
        sha256: of its bytes.
        data: name of the text or the conversations; ``auto`` for quantkit's own text.
        data_sha256: of that file.
        tokens: how many were evaluated.
        context: tokens of a chunk.
    """

    file: str
    size: int
    sha256: str
    data: str
    data_sha256: str
    tokens: int
    context: int

    @classmethod
    def from_json(cls, found: Fields) -> MatrixEntry:
        """From JSON values."""
        return cls(
            file=_checked_name(found, "file", found.text("file")),
            size=found.size("size"),
            sha256=found.text("sha256"),
            data=found.text("data"),
            data_sha256=found.text("data_sha256"),
            tokens=found.size("tokens"),
            context=found.size("context"),
        )


def _checked_name(found: Fields, key: str, name: str) -> str:
    """A file of the folder itself: a manifest must not send anybody elsewhere."""
    if wanted := name_fault(name):
        raise found.error(key, wanted, name)
    return name


def _contents(entry: ModelEntry | ProjectorEntry | AdapterEntry) -> dict[str, Any]:
    tensors = {name: tensor.to_json() for name, tensor in entry.tensors.items()}
    return {"size": entry.size, "headers": dict(entry.headers), "tensors": tensors}


def _headers(found: Fields) -> dict[str, str]:
    if "headers" not in found:
        return {}
    headers = found.fields("headers")
    return {_checked_name(found, "headers", file): headers.text(file) for file in headers}


def _tensors(found: Fields) -> dict[str, TensorEntry]:
    tensors = found.fields("tensors")
    return {name: TensorEntry.from_json(tensors.fields(name)) for name in tensors}
