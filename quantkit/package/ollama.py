"""The Modelfile of a package, and the Go template in it.

The TEMPLATE writes every fixed text as a Go string literal, so neither Go's white-space trimming nor the quoting of
the Modelfile can touch it. It never writes the beginning-of-sequence token, which Ollama adds by itself, and always
comes with its own stops, because Ollama otherwise keeps those of the built-in template that it believes to recognise.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.chat_format import ChatFormat
from quantkit.errors import ChatFormatError
from quantkit.package.modelfile import Command, can_quote, parse_modelfile, print_modelfile
from quantkit.package.spec import PackagedModel, PackageSpec
from quantkit.package.text import fill


def go_template(chat: ChatFormat, *, default_system: str | None = None) -> str:
    """The chat format as a template of Ollama.

    Both of Ollama's forms are in it: the list of messages, and the system, prompt and response of old versions.
    Contents are not trimmed, since Go templates cannot, whatever ``chat.trims`` says.

    Args:
        chat: the format.
        default_system: the system text of conversations without one, in place of the format's own.
    """
    text = default_system if default_system is not None else chat.default_system
    opening = chat.system.around(text) if chat.system is not None and text is not None else None
    return fill("template.gotmpl", {"chat": chat, "opening": opening}).removesuffix("\n")


def modelfile_name(index: int, model: PackagedModel) -> str:
    """The Modelfile's name for the model at that place of a package."""
    return "Modelfile" if index == 0 else f"Modelfile.{model.quant}"


def no_modelfile_notes(models: Sequence[PackagedModel]) -> list[str]:
    """A note for each model that has no Modelfile because it is split."""
    return [
        f"{model.quant}: {model.parts} files, for llama.cpp; Ollama takes no split files, so it has no Modelfile"
        for model in models
        if model.parts > 1
    ]


def modelfile(spec: PackageSpec, index: int) -> str:
    """The Modelfile of one model of a package.

    Raises:
        ChatFormatError: a value that no Modelfile can carry.
    """
    model = spec.models[index]
    commands = modelfile_commands(spec, model)
    printed = {
        keyword: print_modelfile(command for command in commands if command.keyword == keyword).removesuffix("\n")
        for keyword in ("FROM", "TEMPLATE", "PARSER", "SYSTEM", "PARAMETER", "LICENSE")
    }
    text = fill(
        "Modelfile",
        {
            "spec": spec,
            "model": model,
            "file": modelfile_name(index, model),
            "tag": spec.ollama_name if index == 0 else f"{spec.ollama_name}:{model.quant}",
            "printed": printed,
            "system_inside": spec.system_text is not None and not printed["SYSTEM"],
        },
    )
    if parse_modelfile(text) != commands:
        raise ChatFormatError(f"{modelfile_name(index, model)} would not be read as it is meant")
    return text


def modelfile_commands(spec: PackageSpec, model: PackagedModel) -> tuple[Command, ...]:
    """The commands of a model's Modelfile, in order."""
    system = spec.system_text
    system_fits = system is None or can_quote(system)
    commands = [
        Command("FROM", f"./{model.file}"),
        Command("TEMPLATE", go_template(spec.chat, default_system=None if system_fits else system)),
    ]
    if spec.chat.mentions_tools:
        commands.append(Command("PARSER", "passthrough"))
    if system is not None and system_fits:
        commands.append(Command("SYSTEM", system))
    commands.extend(Command("PARAMETER", stop, "stop") for stop in spec.stops)
    commands.append(Command("PARAMETER", str(spec.num_ctx), "num_ctx"))
    commands.extend(Command("PARAMETER", value, name) for name, value in spec.other_parameters)
    if spec.license:
        commands.append(Command("LICENSE", _readable(spec.license)))
    return tuple(commands)


def _readable(text: str) -> str:
    """Without what Ollama's parser drops, such as the form feeds between the pages of a license."""
    return "".join(character for character in text if character.isprintable() or character in "\t\r\n")
