"""Holds the manifest to the files that it describes: chat, serve and Ollama must act on what the files say.

Witnesses: the GGUF header (what the model is), each Modelfile (what Ollama does), chat.sh (what llama-cli does) and, in
a build's manifest, the recipe. The chat format and the sums have checks of their own in
:mod:`quantkit.verify.structure`. :data:`RECORDS` are held by nothing, because nothing acts on them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.gguf.header import file_type_name
from quantkit.gguf.model import GGUFModel
from quantkit.ollama.modelfile import Command, parse_modelfile
from quantkit.package.chat_script import llama_cli_options
from quantkit.package.manifest import MANIFEST, Manifest
from quantkit.package.manifest_answers import answers_entry
from quantkit.package.manifest_entries import AdapterEntry, ModelEntry, ProjectorEntry
from quantkit.package.ollama_modelfile import modelfile_commands, modelfile_name, no_modelfile
from quantkit.package.plan_entries import settings_of
from quantkit.package.spec import PackagedModel, PackageSpec
from quantkit.package.text import without_controls
from quantkit.plan.choice import Choice
from quantkit.verify.choice_fields import differences
from quantkit.verify.package_spec import context_length, package_spec, packaged, packaged_loras
from quantkit.verify.read_script import option_pairs, read_script
from quantkit.verify.recipe_fields import recipe_differences
from quantkit.verify.report import Check
from quantkit.verify.structure import unchanged_texts
from quantkit.verify.written_texts import check_written

RECORDS = ("versions", "sources", "inputs", "notes", "effects", "choice", "adapter_files.adapter", "tensors.reason")
"""Fields that only tell people where a package came from. Of ``recipe`` those that
:func:`~quantkit.verify.recipe_fields.recipe_differences` does not compare; of ``choice`` what was measured, not the
types and the size that came of it."""

_SCRIPT = "chat.sh"
_OTHER_TEXTS = (_SCRIPT, "chat.ps1", "README.md")
_ALPHA = "adapter.lora.alpha"
_LONG = 200


@dataclass(frozen=True)
class _Fault:
    """A field, what the manifest says, what else says something different, and what that is."""

    field: str
    said: Any
    witness: str
    found: Any
    sayer: str = MANIFEST

    def check(self) -> Check:
        evidence = f"{self.sayer} says {_short(self.said)}, but {self.witness} says {_short(self.found)}"
        return Check(f"manifest: {self.field}", False, "differs", f"as in {self.witness}", evidence)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def check_fields(folder: Path, manifest: Manifest, models: Mapping[str, GGUFModel]) -> list[Check]:
    """Compare the manifest's fields with the package's files; one failed check for each that differs.

    If none does, the scripts and the other commands of the Modelfiles are compared with what quantkit writes.

    Args:
        folder: the package.
        manifest: its manifest.
        models: the GGUF files whose headers could be read, by name; those of the others are not compared.
    """
    faults = [*_texts(manifest), *_headers(manifest, models)]
    first = models.get(manifest.models[0].file)
    spec = None if first is None else package_spec(manifest, first)
    if first is not None:
        faults += _context(first)
    if first is not None and spec is not None:
        sound = unchanged_texts(folder, manifest)
        faults += [*_answers(manifest, spec), *_modelfiles(folder, spec, sound), *_script(folder, spec, sound)]
        faults += [_Fault(*found) for found in recipe_differences(manifest, first)]
    once = {fault.field: fault for fault in reversed(faults)}  # the first witness of a field
    if not once:
        agrees = Check("manifest", True, "ok", "", "its fields are those of the GGUF headers, Modelfiles and chat.sh")
        if spec is None or spec.chat.name != manifest.chat.template:  # the check of the chat template says it
            return [agrees]
        return [agrees, *check_written(folder, manifest, spec)]
    return [once[field].check() for field in dict.fromkeys(fault.field for fault in faults)]


def _texts(manifest: Manifest) -> Iterator[_Fault]:
    """Text files that every package has must be listed, else nothing checks them."""
    listed, loras = {text.file for text in manifest.files}, packaged_loras(manifest)
    names = [modelfile_name(i, model) for i, model in enumerate(packaged(manifest)) if not no_modelfile(model, loras)]
    if missing := [name for name in (*names, *_OTHER_TEXTS) if name not in listed]:
        yield _Fault("files", sorted(listed), "a package", f"also {', '.join(missing)}")
    if others := sorted(listed - {*names, *_OTHER_TEXTS}):
        yield _Fault("files", others, "a package", "no such texts")


def _headers(manifest: Manifest, models: Mapping[str, GGUFModel]) -> Iterator[_Fault]:
    for number, listed in enumerate(manifest.models):
        if (model := models.get(listed.file)) is not None:
            yield from _model(f"models[{number}]", listed, model, manifest.choice)
    if manifest.mmproj is not None and (model := models.get(manifest.mmproj.file)) is not None:
        yield from _projector(manifest.mmproj, model)
    for number, adapter in enumerate(manifest.adapter_files or ()):
        if (model := models.get(adapter.file)) is not None:
            yield from _adapter(f"adapter_files[{number}]", adapter, model)


def _context(model: GGUFModel) -> Iterator[_Fault]:
    if not isinstance(found := context_length(model), int):
        yield _Fault("models[0].file", model.path.name, "its context_length", found)


def _model(field: str, listed: ModelEntry, model: GGUFModel, choice: Choice | None) -> Iterator[_Fault]:
    quant = file_type_name(model.header)
    said = listed.quant if choice is None or listed.quant != choice.label else choice.quant
    if quant is not None and quant != said:
        yield _Fault(f"{field}.quant", said, f"general.file_type of {listed.file}", quant)
    if choice is not None and listed.quant == choice.label:
        for name, claimed, found in differences(choice, model):
            yield _Fault(name, claimed, listed.file, found)
    files = tuple(file.name for file in model.files)
    if files != listed.files:
        yield _Fault(f"{field}.parts", listed.files, f"the header of {listed.file}", files)


def _projector(listed: ProjectorEntry, model: GGUFModel) -> Iterator[_Fault]:
    kinds = [entry.value for key, entry in model.header.metadata.items() if key.endswith("projector_type")]
    if listed.projector not in kinds:
        yield _Fault("mmproj.projector", listed.projector, f"projector_type of {listed.file}", kinds)


def _adapter(field: str, listed: AdapterEntry, model: GGUFModel) -> Iterator[_Fault]:
    alpha = model.value(_ALPHA, 0.0)
    if not isinstance(alpha, float) or not math.isclose(alpha, listed.alpha, rel_tol=1e-6):  # float32
        yield _Fault(f"{field}.alpha", listed.alpha, f"{_ALPHA} of {listed.file}", alpha)


def _answers(manifest: Manifest, spec: PackageSpec) -> Iterator[_Fault]:
    said, found = manifest.chat.answers, answers_entry(spec.answers)
    if said is not None and said != found:
        witness = f"the chat template of {manifest.models[0].file}"
        yield _Fault("chat.answers", said.to_json(), witness, found.to_json())


def _modelfiles(folder: Path, spec: PackageSpec, sound: Collection[str]) -> Iterator[_Fault]:
    for number, model in enumerate(spec.models):
        name = modelfile_name(number, model)
        if name not in sound:
            continue  # a split model has none; and a file that was edited is no witness
        try:
            found = parse_modelfile((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, QuantkitError):
            continue  # the check of the Modelfile says why
        yield from _modelfile(f"models[{number}]", name, spec, model, found)


def _modelfile(
    field: str, name: str, spec: PackageSpec, model: PackagedModel, found: tuple[Command, ...]
) -> Iterator[_Fault]:
    source, *others = [command.value for command in found if command.keyword == "FROM"]
    if source != f"./{model.file}":
        yield _Fault(f"{field}.file", model.file, name, source)
    if others != ([f"./{spec.mmproj}"] if spec.mmproj else []):
        yield _Fault("mmproj.file", spec.mmproj, name, others)
    adapters = [command.value for command in found if command.keyword == "ADAPTER"]
    if adapters != [f"./{lora.file}" for lora in spec.loras]:
        yield _Fault("adapter_files.scale", [lora.file for lora in spec.loras], name, adapters)
    try:
        wanted = modelfile_commands(spec, model)
        settings = _settings(wanted)
    except (QuantkitError, ValueError) as error:
        yield _Fault("chat.parameters", dict(spec.parameters), name, str(error))
        return
    theirs = _settings(found)
    for key in dict.fromkeys((*settings, *theirs)):
        if settings.get(key) == theirs.get(key):
            continue
        # Without num_ctx the context follows from the model's own.
        follows = key == "num_ctx" and key not in dict(spec.parameters)
        sayer = f"{MANIFEST}, from context_length of {model.file}," if follows else MANIFEST
        yield _Fault(f"chat.parameters.{key}", settings.get(key), name, theirs.get(key), sayer)
    messages = tuple((command.key, command.value) for command in found if command.keyword == "MESSAGE")
    if messages != spec.messages:
        yield _Fault("chat.messages", spec.messages, name, messages)
    # A system prompt that no SYSTEM line can contain is inside the TEMPLATE.
    for keyword in ("SYSTEM", "TEMPLATE"):
        ours, said = _last(wanted, keyword), _last(found, keyword)
        if ours != said and (keyword == "SYSTEM" or (spec.system_text and _last(found, "SYSTEM") is None)):
            yield _Fault("chat.system", spec.system, f"{keyword} of {name}", said)


def _settings(commands: tuple[Command, ...]) -> dict[str, Any]:
    """The parameters by name, as Ollama reads them: the last value, but all stops."""
    pairs = ((command.key, command.value) for command in commands if command.keyword == "PARAMETER")
    return settings_of(pairs)


def _last(commands: tuple[Command, ...], keyword: str) -> str | None:
    return next((command.value for command in reversed(commands) if command.keyword == keyword), None)


def _script(folder: Path, spec: PackageSpec, sound: Collection[str]) -> Iterator[_Fault]:
    if _SCRIPT not in sound:
        return
    try:
        found = read_script((folder / _SCRIPT).read_text(encoding="utf-8"))
        options = option_pairs(llama_cli_options(spec))
    except (OSError, ValueError):
        return  # another version's script, or a value that the check of the Modelfile names
    if found.options is None:
        return  # another version's script
    if found.name not in (None, without_controls(spec.name)):
        yield _Fault("name", spec.name, _SCRIPT, found.name)
    if found.mmproj != spec.mmproj:
        yield _Fault("mmproj.file", spec.mmproj, _SCRIPT, found.mmproj)
    if found.model != spec.models[0].file:
        yield _Fault("models[0].file", spec.models[0].file, _SCRIPT, found.model)
    if found.system != spec.system_text:
        yield _Fault("chat.system", spec.system, _SCRIPT, found.system)
    differ = sorted({*found.options} ^ {*options})
    if loras := [pair for pair in differ if pair[0].startswith("--lora")]:
        said, theirs = ([pair for pair in loras if pair in side] for side in (options, found.options))
        yield _Fault("adapter_files.scale", said, _SCRIPT, theirs)
        differ = [pair for pair in differ if pair not in loras]
    if differ:
        yield _Fault(
            "chat.parameters",
            [pair for pair in differ if pair in options],
            _SCRIPT,
            [pair for pair in differ if pair not in options],
        )
