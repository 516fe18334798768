"""manifest.json: what went in, what came out, and with which versions. One value, one writer and one reader.

It carries no time and no absolute path: the same inputs give the same manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import CheckpointError, GGUFError, QuantkitError
from quantkit.files.json_fields import Fields
from quantkit.files.json_file import SCHEMA, json_bytes, read_json
from quantkit.files.replaceable import Mark
from quantkit.files.visible import visible
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.package.file_names import MANIFEST as MANIFEST
from quantkit.package.file_names import REPORT, named_twice
from quantkit.package.manifest_chat import ChatEntry
from quantkit.package.manifest_entries import (
    AdapterEntry,
    MatrixEntry,
    ModelEntry,
    ProjectorEntry,
    TextEntry,
)
from quantkit.package.manifest_modelfile import ModelfileEntry
from quantkit.package.manifest_sources import InputsEntry, SourcesEntry
from quantkit.package.own_files import first_foreign, foreign
from quantkit.plan.choice import Choice
from quantkit.system.shell import command

GGUFEntry = ModelEntry | ProjectorEntry | AdapterEntry
_LARGEST = 32 << 20  # bytes; a hundred thousand tensors have 16 million
PACKAGE_MARK = Mark(MANIFEST, ("schema", "versions", "models", "files", "chat"))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a package is. ``quantkit package`` leaves out what only a build knows.

    Attributes:
        name: the package's name.
        versions: of quantkit and of the libraries that decide the bytes, by name; only a record.
        recipe: by ``build``: the request, as far as it determines the result, and the device that was used.
        sources: by ``build``: where the model and its adapters came from, only a record; packages of the first versions
            have none.
        inputs: by ``build``: the weight files that were read; only a record.
        models: the GGUF models, the first being the default.
        adapter_files: by ``build``: the adapters by themselves. By ``package --lora``: what the models are run with.
        mmproj: by ``build --mmproj``: the part that sees pictures.
        files: the text files.
        modelfile: what only the Modelfiles say; packages of earlier versions have none.
        chat: how to talk to the model.
        notes: decisions that the user was told; only a record.
        effects: by ``build``: what each adapter changed, as measured while it was merged; only a record. The first
            versions did not write it.
        choice: by ``build`` with a size: how the types of the first model were chosen; see [choosing.md](choosing.md).
        imatrix: by ``build --calibrate``: the importance matrix.
    """

    name: str
    versions: Mapping[str, str]
    models: tuple[ModelEntry, ...]
    files: tuple[TextEntry, ...]
    chat: ChatEntry
    notes: tuple[str, ...]
    recipe: Mapping[str, Any] | None = None
    sources: SourcesEntry | None = None
    inputs: InputsEntry | None = None
    adapter_files: tuple[AdapterEntry, ...] | None = None
    mmproj: ProjectorEntry | None = None
    effects: tuple[AdapterEffect, ...] | None = None
    choice: Choice | None = None
    imatrix: MatrixEntry | None = None
    modelfile: ModelfileEntry | None = None

    @property
    def ggufs(self) -> tuple[GGUFEntry, ...]:
        """The models, and after them the part that sees and the adapters by themselves."""
        return (*self.models, *((self.mmproj,) if self.mmproj else ()), *(self.adapter_files or ()))

    @property
    def loras(self) -> tuple[AdapterEntry, ...]:
        """The LoRA files that the models are run with."""
        return tuple(entry for entry in self.adapter_files or () if entry.scale is not None)

    def require_whole(self, folder: Path, what: str) -> None:
        """Refuse a package whose models are run with LoRA files, for work that looks at the models alone.

        Raises:
            GGUFError: it is one.
        """
        if self.loras:
            model, lora = folder / self.models[0].file, folder / self.loras[0].file
            raise GGUFError(
                f"{folder}: its models are run with {self.loras[0].file}, and {what} looks at models alone",
                hint=f"merge it: {command('quantkit', 'merge', model, '--lora', lora, '-o', 'MERGED.gguf')}",
            )

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of all files but the manifest's own and the report's."""
        matrix = () if self.imatrix is None else (self.imatrix.file,)
        return (*(text.file for text in self.files), *(file for gguf in self.ggufs for file in gguf.files), *matrix)

    @property
    def own_template(self) -> bool:
        """Whether the files carry the chat template that lies beside their tokenizer, as far as is known."""
        elsewhere = self.sources is not None and self.sources.template is not None
        recipe = self.recipe or {}
        return not elsewhere and recipe.get("template", "auto") == "auto" and recipe.get("thinking") is None

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with ``schema``."""
        values = {
            "schema": SCHEMA,
            "name": self.name,
            "versions": dict(self.versions),
            "recipe": self.recipe,
            "sources": self.sources and self.sources.to_json(),
            "inputs": self.inputs and self.inputs.to_json(),
            "effects": None if self.effects is None else [effect.to_json() for effect in self.effects],
            "choice": self.choice and self.choice.to_json(),
            "models": [model.to_json() for model in self.models],
            "adapter_files": None if self.adapter_files is None else [file.to_json() for file in self.adapter_files],
            "mmproj": self.mmproj and self.mmproj.to_json(),
            "imatrix": None if self.imatrix is None else asdict(self.imatrix),
            "files": [asdict(text) for text in self.files],
            "modelfile": self.modelfile and self.modelfile.to_json(),
            "chat": self.chat.to_json(),
            "notes": list(self.notes),
        }
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: object) -> Manifest:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: something else did, or another version of it.
        """
        found = Fields(values)
        if found.value("schema") != SCHEMA:
            raise ValueError(f'"schema" is {found.value("schema")!r}, and this version reads schema {SCHEMA}')
        models = tuple(map(ModelEntry.from_json, found.each("models")))
        if not models:
            raise ValueError('"models" is empty')
        adapters = found.each("adapter_files") if "adapter_files" in found else None
        versions = found.fields("versions")
        manifest = cls(
            name=found.text("name"),
            versions={name: versions.text(name) for name in versions},
            recipe=found.fields("recipe").plain() if "recipe" in found else None,
            sources=SourcesEntry.from_json(found.fields("sources")) if "sources" in found else None,
            inputs=InputsEntry.from_json(found.fields("inputs")) if "inputs" in found else None,
            models=models,
            adapter_files=None if adapters is None else tuple(map(AdapterEntry.from_json, adapters)),
            mmproj=ProjectorEntry.from_json(found.fields("mmproj")) if "mmproj" in found else None,
            files=tuple(map(TextEntry.from_json, found.each("files"))),
            chat=ChatEntry.from_json(found.fields("chat")),
            notes=found.texts("notes"),
            effects=tuple(map(AdapterEffect.from_json, found.each("effects"))) if "effects" in found else None,
            choice=Choice.from_json(found.fields("choice")) if "choice" in found else None,
            imatrix=MatrixEntry.from_json(found.fields("imatrix")) if "imatrix" in found else None,
            modelfile=ModelfileEntry.from_json(found.fields("modelfile")) if "modelfile" in found else None,
        )
        if (twice := named_twice(manifest.file_names)) is not None:
            raise ValueError(f"{twice!r} is listed twice, or is the name of another file on some system")
        return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of manifest.json."""
    return json_bytes(manifest.to_json(), indent=1)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest.json of a package that is being made."""
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def read_manifest(folder: Path, *, own_files: bool = True) -> Manifest:
    """Read a package's manifest.json.

    Args:
        folder: the package.
        own_files: refuse a package of whose files one is a link to elsewhere, a pipe or a device: nobody should read
            them. ``verify`` names them all instead.

    Raises:
        QuantkitError: there is none, or it is not as :func:`write_manifest` writes it.
    """
    if folder.is_file():
        raise QuantkitError(
            f"{folder}: this is a file, not a package",
            hint=f"give its folder, or check the file alone: {command('quantkit', 'smoke', folder)}",
        )
    if not folder.is_dir():
        raise QuantkitError(f"{folder}: no such folder", hint="give the folder that quantkit build made")
    path = folder / MANIFEST
    if not path.exists():
        raise QuantkitError(
            f"{folder}: no {MANIFEST}, so this is not a folder made by quantkit build", hint=ggufs_hint(folder)
        )
    try:
        if what := foreign(folder, MANIFEST):
            raise CheckpointError(f"{path}: is {what}")
        manifest = Manifest.from_json(read_json(path, strict=True, largest=_LARGEST))
        if own_files and (found := first_foreign(folder, (*manifest.file_names, REPORT))):
            raise CheckpointError(f"{folder / found[0]}: is {found[1]}")
        return manifest
    except CheckpointError as error:
        why = str(error)
    except ValueError as error:
        why = f"{path}: {error}"
    again = "take the file of the original package, or build it again"
    raise QuantkitError(why, hint=f"{again}; to chat, {ggufs_hint(folder)}" if _ggufs(folder) else again)


def ggufs_hint(folder: Path) -> str:
    """What to give instead of a folder without a manifest."""
    files = _ggufs(folder)
    if not files and (folder / "config.json").is_file():
        return f"this is a checkpoint; build it: {command('quantkit', 'build', folder, '-o', 'DIR')}"
    if not files:
        return "there is no .gguf file in it; make one with: quantkit build MODEL -o DIR"
    return "give one of the files: " + ", ".join(str(file) for file in files)


def _ggufs(folder: Path) -> list[Path]:
    return visible(folder, "*.gguf")
