"""``quantkit package``: Modelfile, chat scripts, card and manifest for existing GGUF files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from quantkit.chat_template.advice import opening_notes
from quantkit.chat_template.answers import answer_format
from quantkit.chat_template.end_of_turn import stop_notes
from quantkit.chat_template.format import FORMAT_NAMES, ChatFormat, OwnTemplate, choose_format, render_jinja
from quantkit.errors import ChatFormatError, GGUFError, OutputError
from quantkit.files.workspace import Workspace, workspace
from quantkit.gguf.header import Header
from quantkit.gguf.lora import ScaledLora
from quantkit.jobs.argument_kinds import LORAS
from quantkit.jobs.arguments import LorasInput, MessagesInput, ParametersInput, PathInput, read_path, read_paths
from quantkit.jobs.package_files import add_lora, add_model, add_projector, quant_of, split_sources
from quantkit.jobs.package_parts import PackageParts, read_parts
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.model.sampling import sampling_parameters
from quantkit.ollama.parameters import check_parameters, merge_parameters
from quantkit.ollama.read_modelfile import ModelfileContent, modelfile_content, source_files, source_path
from quantkit.package.foreign_template import foreign_template_notes
from quantkit.package.go_template import go_template, opens_with
from quantkit.package.known_stops import known_stops
from quantkit.package.manifest import PACKAGE_MARK, Manifest, write_manifest
from quantkit.package.ollama_modelfile import package_notes
from quantkit.package.plan_entries import chat_entry, modelfile_entry, text_entries, versions
from quantkit.package.render import render_package, write_package
from quantkit.package.spec import PackagedLora, PackagedModel, PackageSpec
from quantkit.plan.values import count_elements
from quantkit.system.progress import Reporter
from quantkit.vocab.added_eos import package_eos_notes
from quantkit.vocab.from_gguf import gguf_vocabulary, token_text
from quantkit.vocab.special import adds_bos


def package(
    ggufs: PathInput | Sequence[PathInput],
    out: PathInput,
    *,
    name: str | None = None,
    template: PathInput = "auto",
    system: str | None = None,
    parameters: ParametersInput = (),
    messages: MessagesInput = (),
    modelfile: PathInput | None = None,
    loras: LorasInput = (),
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Path:
    """Make a package of GGUF files; the first is the default. They are hard-linked if the disk allows it, else copied.

    Args:
        ggufs: one or several files of one model in several types; of a split one the first part. An empty list for the
            file that *modelfile* names; a second FROM of it is what the model sees with.
        out: the folder to create.
        name: the package's name; by default the folder's.
        template: ``auto`` for the file's own chat template, the name of a format, or a Jinja file.
        system: default system prompt.
        parameters: for the Modelfile and the chat scripts.
        messages: an example conversation for the Modelfile, as (role, text).
        modelfile: a Modelfile to start from; the other arguments override it.
        loras: LoRA files of llama.cpp that the models are run with, unmerged; with a scale as (path, scale). Ollama
            takes one, without a scale: for others there is no Modelfile.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; *device* and *threads* have no effect.

    Raises:
        QuantkitError: a file or a value is wrong; the message names it.
    """
    run, folder = run_options(run, **keywords), read_path("out", out)
    asked_loras: tuple[ScaledLora, ...] = LORAS.read("loras", loras)
    given = {"name": name or "", "template": template, "system": system, "parameters": parameters, "messages": messages}
    asked = {key: RECIPE_FIELDS[key].read(value) for key, value in given.items()}
    settings: tuple[tuple[str, str], ...] = asked["parameters"]
    check_parameters(settings)
    files: Sequence[Path] = read_paths("ggufs", ggufs)
    start, projector = None, None
    if modelfile is not None:
        path = read_path("modelfile", modelfile)
        start = modelfile_content(path)
        if not files:
            named, projector = split_sources(path, source_files(path, start.sources))
            files = (named,)
        settings = merge_parameters(start.parameters, settings)
        asked_loras = asked_loras or tuple(ScaledLora(source_path(path, name)) for name in start.adapters)
    if not files:
        raise OutputError("there is no GGUF file to package", hint="give one, or a Modelfile whose FROM names one")
    parts = read_parts(files, asked_loras, projector)
    spec = _spec(parts, asked["name"] or Path(os.path.abspath(folder)).name, asked, settings)
    _, first = parts.first
    if start is not None:
        spec = _started(spec, start, token_text(first, "bos"))
    render_package(spec)
    notes = [
        *package_eos_notes(first.metadata.values()),
        *opening_notes(chat=spec.chat, **_template(first), built=True),
        *stop_notes(spec.parameters, first.metadata.values()),
        *package_notes(spec),
        *_template_notes(spec, first),
    ]
    for note in notes:
        run.reporter.note(note)
    with workspace(folder, overwrite=run.overwrite, inputs=parts.inputs, fsync=run.fsync, mark=PACKAGE_MARK) as work:
        manifest = _write(spec, parts, notes, work, run.reporter)
        return work.publish(names=manifest.file_names)


def _spec(parts: PackageParts, name: str, asked: Mapping[str, Any], settings: Sequence[tuple[str, str]]) -> PackageSpec:
    """What the texts of the package say, from the default model and what was asked for.

    Raises:
        ChatFormatError: the chat format that was asked for is not that of the file.
        GGUFError: the file is not that of a language model.
    """
    path, header = parts.first
    metadata = header.metadata
    return PackageSpec(
        name=name,
        models=tuple(
            PackagedModel(file.name, quant_of(model.header), len(model.files)) for file, model in parts.models.items()
        ),
        chat=_chat(path, header, asked["template"]),
        system=asked["system"],
        parameters=merge_parameters(sampling_parameters(metadata.values()), settings),
        context_length=_integer(path, header, "context_length"),
        base=str(header.value("general.name", path.stem)),
        adapters=(),
        licenses=tuple(text for text in (header.value("general.license"),) if text),
        architecture=str(header.value("general.architecture")),
        parameter_count=sum(count_elements(info.shape) for info in header.tensors.values()),
        messages=asked["messages"],
        adds_bos=adds_bos({key: entry.value for key, entry in metadata.items()}),
        answers=answer_format(**_template(header)),
        loras=tuple(PackagedLora(lora.model.path.name, lora.scale) for lora in parts.loras),
        mmproj=None if parts.projector is None else parts.projector.path.name,
    )


def _write(
    spec: PackageSpec, parts: PackageParts, notes: Sequence[str], work: Workspace, reporter: Reporter
) -> Manifest:
    """Put the files and the texts into the package, and write its manifest."""
    with reporter.phase("packaging", parts.nbytes, "bytes") as advance:
        models = tuple(add_model(model, work, advance) for model in parts.models.values())
        adapters = tuple(add_lora(lora, work, advance) for lora in parts.loras)
        seeing = None if parts.projector is None else add_projector(parts.projector, work, advance)
    texts = write_package(spec, work.path)
    manifest = Manifest(
        name=spec.name,
        versions=versions(),
        models=models,
        adapter_files=adapters or None,
        mmproj=seeing,
        files=text_entries(texts),
        chat=chat_entry(spec, _template(parts.first[1])["template"]),
        modelfile=modelfile_entry(spec),
        notes=tuple(notes),
    )
    write_manifest(manifest, work.path)
    return manifest


def _started(spec: PackageSpec, start: ModelfileContent, bos_token: str) -> PackageSpec:
    """Return the package, with the Modelfile's values for what the user left out.

    Raises:
        ChatFormatError: its TEMPLATE would double the beginning-of-sequence token.
    """
    template = start.template
    if template is not None and spec.turns is not None and template == go_template(spec.turns, adds_bos=spec.adds_bos):
        template = None
    if template is not None and spec.adds_bos and bos_token and opens_with(template, bos_token):
        raise ChatFormatError(
            f"the TEMPLATE begins with {bos_token!r}, which Ollama adds by itself: the token would be doubled",
            hint=f"remove {bos_token} from the TEMPLATE",
        )
    return replace(
        spec,
        system=start.system if spec.system is None else spec.system,
        licenses=start.licenses or spec.licenses,
        messages=spec.messages or start.messages,
        own_template=template,
        forced=start.forced and template is not None,
        requires=start.requires,
    )


def _template_notes(spec: PackageSpec, header: Header) -> list[str]:
    """A note if the user's TEMPLATE does not write the prompts of the file's chat template."""
    vocabulary = gguf_vocabulary(header)
    if spec.own_template is None or not vocabulary.chat_template:
        return []
    bos, eos = vocabulary.bos_token, vocabulary.eos_token
    prompt = render_jinja(vocabulary.chat_template, [{"role": "user", "content": "Hi"}], bos_token=bos, eos_token=eos)
    return foreign_template_notes(spec.own_template, prompt, added=(bos,))


def _template(header: Header) -> dict[str, str]:
    """The chat template of a file, with the tokens that it writes."""
    found = gguf_vocabulary(header)
    return {"template": found.chat_template or "", "bos_token": found.bos_token, "eos_token": found.eos_token}


def _integer(path: Path, header: Header, key: str) -> int:
    value = header.value(f"{header.value('general.architecture')}.{key}")
    if not isinstance(value, int):
        raise GGUFError(f"{path}: does not contain {key}", hint="give a GGUF file of a language model")
    return value


def _chat(path: Path, header: Header, template: str) -> ChatFormat | OwnTemplate:
    """Return the chat format, checked against the file's own vocabulary."""
    vocabulary = gguf_vocabulary(header)
    own = vocabulary.chat_template
    rebuild = (
        "build the file again from its checkpoint with the format that the model was trained on: "
        f"quantkit build MODEL --template NAME, one of {', '.join(FORMAT_NAMES)}"
    )
    if not own and template == "auto":
        raise ChatFormatError(f"{path}: the file has no chat template", hint=rebuild)
    tokens: list[str] = header.value("tokenizer.ggml.tokens", [])
    try:
        chat, jinja = choose_format(
            own, option=template, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token, tokens=tokens
        )
    except ChatFormatError as error:
        if template != "auto":
            raise
        raise ChatFormatError(f"{path}: {error}", hint=rebuild) from error  # --template cannot change what is in it
    if jinja != own:
        raise ChatFormatError(
            f"{path}: contains a different chat template than {template}, and llama.cpp would use it",
            hint=rebuild,
        )
    stop = chat.stops[0]
    if stop not in tokens or stop not in known_stops(chat, header):
        raise ChatFormatError(
            f"{path}: {stop!r} ends a turn, but llama.cpp would not stop at it",
            hint="build the file again with quantkit build, which marks it as an end token",
        )
    return replace(chat, stops=known_stops(chat, header))
