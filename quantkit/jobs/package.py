"""``quantkit package``: Modelfile, chat scripts, card and manifest for existing GGUF files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from quantkit.chat_template.advice import opening_notes
from quantkit.chat_template.answers import answer_format
from quantkit.chat_template.end_of_turn import stop_notes
from quantkit.chat_template.format import FORMAT_NAMES, ChatFormat, OwnTemplate, choose_format, render_jinja
from quantkit.errors import ChatFormatError, GGUFError, OutputError
from quantkit.files.workspace import workspace
from quantkit.gguf.header import Header
from quantkit.gguf.layout import layout_faults
from quantkit.gguf.lora import ScaledLora, check_fits, read_lora
from quantkit.gguf.model import GGUFModel, read_model, read_whole_model
from quantkit.gguf.vectors import narrow_vectors
from quantkit.jobs.argument_kinds import LORAS
from quantkit.jobs.arguments import LorasInput, MessagesInput, ParametersInput, PathInput, read_path, read_paths
from quantkit.jobs.package_files import add_lora, add_model, add_projector, quant_of, split_sources
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.model.sampling import sampling_parameters
from quantkit.ollama.parameters import check_parameters, merge_parameters
from quantkit.ollama.read_modelfile import ModelfileContent, modelfile_content, source_files, source_path
from quantkit.package.file_names import named_twice
from quantkit.package.foreign_template import foreign_template_notes
from quantkit.package.go_template import go_template, opens_with
from quantkit.package.known_stops import known_stops
from quantkit.package.manifest import PACKAGE_MARK, Manifest, write_manifest
from quantkit.package.ollama_modelfile import package_notes
from quantkit.package.plan_entries import chat_entry, modelfile_entry, text_entries, versions
from quantkit.package.render import render_package, write_package
from quantkit.package.spec import PackagedLora, PackagedModel, PackageSpec
from quantkit.plan.values import count_elements
from quantkit.system.shell import command
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
    found = {path: read_whole_model(path) for path in files}
    for path, model in found.items():
        _check_vectors(path, model.header)
        _check_layout(model)
    headers = {path: model.header for path, model in found.items()}
    _check_one_model(found, headers)
    beside = [read_lora(lora) for lora in asked_loras]
    for lora in beside:
        for model in found.values():
            check_fits(lora, model)
    inputs = [*(file for model in found.values() for file in model.files), *(lora.model.path for lora in beside)]
    sees = None if projector is None else read_model(projector)
    inputs += [] if sees is None else [sees.path]
    _check_names(inputs)
    first = headers[files[0]]
    chat = _chat(files[0], first, asked["template"])
    metadata = first.metadata
    spec = PackageSpec(
        name=asked["name"] or Path(os.path.abspath(folder)).name,
        models=tuple(
            PackagedModel(path.name, quant_of(model.header), len(model.files)) for path, model in found.items()
        ),
        chat=chat,
        system=asked["system"],
        parameters=merge_parameters(sampling_parameters(metadata.values()), settings),
        context_length=_integer(files[0], first, "context_length"),
        base=str(first.value("general.name", files[0].stem)),
        adapters=(),
        licenses=tuple(text for text in (first.value("general.license"),) if text),
        architecture=str(first.value("general.architecture")),
        parameter_count=sum(count_elements(info.shape) for info in first.tensors.values()),
        messages=asked["messages"],
        adds_bos=adds_bos({key: entry.value for key, entry in metadata.items()}),
        answers=answer_format(**_template(first)),
        loras=tuple(PackagedLora(lora.model.path.name, lora.scale) for lora in beside),
        mmproj=None if sees is None else sees.path.name,
    )
    if start is not None:
        spec = _started(spec, start, token_text(first, "bos"))
    render_package(spec)
    notes = [
        *package_eos_notes(metadata.values()),
        *opening_notes(chat=chat, **_template(first), built=True),
        *stop_notes(spec.parameters, metadata.values()),
        *package_notes(spec),
        *_template_notes(spec, first),
    ]
    for note in notes:
        run.reporter.note(note)
    with workspace(folder, overwrite=run.overwrite, inputs=inputs, fsync=run.fsync, mark=PACKAGE_MARK) as work:
        whole = (*found.values(), *(lora.model for lora in beside), *([] if sees is None else [sees]))
        total = sum(model.nbytes for model in whole)
        models = []
        with run.reporter.phase("packaging", total, "bytes") as advance:
            for model in found.values():
                models.append(add_model(model, work, advance))
            adapters = tuple(add_lora(lora, work, advance) for lora in beside)
            seeing = None if sees is None else add_projector(sees, work, advance)
        texts = write_package(spec, work.path)
        manifest = Manifest(
            name=spec.name,
            versions=versions(),
            models=tuple(models),
            adapter_files=adapters or None,
            mmproj=seeing,
            files=text_entries(texts),
            chat=chat_entry(spec, _template(first)["template"]),
            modelfile=modelfile_entry(spec),
            notes=tuple(notes),
        )
        write_manifest(manifest, work.path)
        return work.publish(names=manifest.file_names)


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


def _check_one_model(models: Mapping[Path, GGUFModel], headers: Mapping[Path, Header]) -> None:
    """Check that all files are the same model: other types, but the same tensors and tokens."""

    def shapes(header: Header) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in header.tensors.items()}

    aspects: dict[str, Callable[[Header], Any]] = {
        "architecture": lambda header: header.value("general.architecture"),
        "vocabulary": lambda header: header.value("tokenizer.ggml.tokens"),
        "chat template": lambda header: header.value("tokenizer.chat_template"),
        "list of tensors": shapes,
    }
    first, *others = models
    for path in others:
        for what, aspect in aspects.items():
            if aspect(headers[path]) != aspect(headers[first]):
                raise GGUFError(
                    f"{path}: its {what} differs from that of {first}: a package contains one model in several types",
                    hint="make a separate package for each model",
                )


def _check_names(files: Sequence[Path]) -> None:
    if twice := named_twice(file.name for file in files):
        raise OutputError(f"{twice}: two of the GGUF files have the same name", hint="rename one of them")


def _check_vectors(path: Path, header: Header) -> None:
    """Refuse norms and biases with which llama.cpp aborts."""
    if narrow := narrow_vectors(header.tensors.values()):
        raise GGUFError(
            f"{path}: tensor {narrow}, and llama.cpp and Ollama abort unless they are f32",
            hint=f"write them as f32: {command('quantkit', 'quantize', path, '-o', 'OUT.gguf', '--quant', 'TYPE')}",
        )


def _check_layout(model: GGUFModel) -> None:
    """Refuse a file that hides bytes, which ``verify`` would refuse."""
    for path, header in zip(model.files, model.headers, strict=True):
        if fault := next(layout_faults(path, header), None):
            again = command("quantkit", "quantize", path, "-o", "OUT.gguf", "--quant", "TYPE")
            raise GGUFError(f"{path}: {fault}", hint=f"write the file again: {again}")


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
