"""What manifest.json says of the model and the adapters that went in. A field is a key of the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from quantkit.files.json_fields import Fields


@dataclass(frozen=True)
class SourceEntry:
    """Where a model or an adapter came from: a repository of a hub, or a folder.

    Attributes:
        folder: the folder's name; left out for a repository.
        hub: the hub's name; left out for a folder, as the next two.
        id: of the repository.
        revision: of the repository, resolved.
    """

    folder: str = ""
    hub: str = ""
    id: str = ""
    revision: str = ""

    @property
    def label(self) -> str:
        """For people: the id or the folder's name, "" where neither is known."""
        return self.id or self.folder

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"hub": self.hub, "id": self.id, "revision": self.revision} if self.id else {"folder": self.folder}

    @classmethod
    def from_json(cls, found: Fields) -> SourceEntry:
        """What :meth:`to_json` wrote."""
        return cls(**{key: found.optional_text(key) or "" for key in ("folder", "hub", "id", "revision")})


@dataclass(frozen=True)
class SourcesEntry:
    """Where the model and its adapters came from.

    Attributes:
        model: the base.
        adapters: in the order in which they were merged.
        template: the adapter with the chat template; left out if the template lies beside the tokenizer.
    """

    model: SourceEntry
    adapters: tuple[SourceEntry, ...]
    template: SourceEntry | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        own = {} if self.template is None else {"template": self.template.to_json()}
        return {"model": self.model.to_json(), "adapters": [adapter.to_json() for adapter in self.adapters], **own}

    @classmethod
    def from_json(cls, found: Fields) -> SourcesEntry:
        """What :meth:`to_json` wrote."""
        adapters = tuple(map(SourceEntry.from_json, found.each("adapters")))
        template = SourceEntry.from_json(found.fields("template")) if "template" in found else None
        return cls(SourceEntry.from_json(found.fields("model")), adapters, template)


@dataclass(frozen=True)
class InputEntry:
    """A weight file that was read.

    Attributes:
        file: its name.
        size: its bytes.
    """

    file: str
    size: int

    @classmethod
    def from_json(cls, found: Fields) -> InputEntry:
        """From JSON values."""
        return cls(found.text("file"), found.size("size"))


@dataclass(frozen=True)
class InputsEntry:
    """The weight files that were read.

    Attributes:
        model: of the base.
        adapters: of each adapter, in the order in which they were merged.
    """

    model: tuple[InputEntry, ...]
    adapters: tuple[tuple[InputEntry, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        adapters = [[asdict(file) for file in files] for files in self.adapters]
        return {"model": [asdict(file) for file in self.model], "adapters": adapters}

    @classmethod
    def from_json(cls, found: Fields) -> InputsEntry:
        """What :meth:`to_json` wrote."""
        adapters = (tuple(map(InputEntry.from_json, files)) for files in found.each_list("adapters"))
        return cls(tuple(map(InputEntry.from_json, found.each("model"))), tuple(adapters))
