"""The Modelfile of a package, and the Go template in it.

The TEMPLATE writes every fixed text as a Go string literal, so neither Go's white-space trimming nor the quoting of
the Modelfile can touch it. It never opens with the beginning-of-sequence token, which Ollama adds by itself. A model
whose template turns cannot describe has no TEMPLATE; :mod:`quantkit.chat_format` says why, and when PARSER is needed.
Stops are always written, because Ollama otherwise keeps those of the built-in template that it believes to recognise.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.chat_format import ChatFormat, OwnTemplate, SystemPlace
from quantkit.errors import ChatFormatError
from quantkit.package.modelfile import Command, can_quote, parse_modelfile, print_modelfile
from quantkit.package.spec import PackagedModel, PackageSpec
from quantkit.package.text import fill, go_quote

RENDERS_JINJA = "0.33.0"
"""A version of Ollama known to render the chat template of a GGUF file itself; older ones were not tried."""


def go_template(chat: ChatFormat, *, default_system: str | None = None) -> str:
    """The chat format as a template of Ollama.

    Both of Ollama's forms are in it: the list of messages, and the system, prompt and response of old versions. Where
    an answer that was given begins otherwise than one that is asked for, or the system message belongs into the last
    question, the old form has no way to say it and writes what is right for a first question.
    Contents are not trimmed, since Go templates cannot, whatever ``chat.trims`` says.

    Args:
        chat: the format.
        default_system: the system text of conversations without one, in place of the format's own.
    """
    text = default_system if default_system is not None else chat.default_system
    opening = chat.system.around(text) if chat.system is not None and text is not None else None
    place = SystemPlace.TURN if chat.system is None else chat.system_place
    values = {"chat": chat, "opening": opening, "place": place.name, "question": _question(chat, place, opening)}
    return fill("template.gotmpl", {**values, "literal": _literal}).removesuffix("\n")


def _question(chat: ChatFormat, place: SystemPlace, opening: str | None) -> str:
    """Go for what opens a question of the list: its prefix, or in its place the system message that stands in it."""
    prefix = _literal(chat.user.prefix)
    if chat.system is None or place is SystemPlace.TURN:
        return prefix
    if place is SystemPlace.FIRST:  # the system message before it has opened it already
        after_system, alone, system = "eq $i 1", "eq $i 0", ""
    else:
        after_system = alone = "eq (len (slice $.Messages $i)) 1"
        system = _literal(chat.system.prefix) + "{{ $.System }}" + _literal(chat.system.suffix)
    default = "" if opening is None else f" if {alone} }}}}{_literal(opening)}{{{{ else"
    return f"{{{{ if and ({after_system}) $.System }}}}{system}{{{{ else{default} }}}}{prefix}{{{{ end }}}}"


def _literal(text: str) -> str:
    """Go that writes a text as it is."""
    return f"{{{{ {go_quote(text)} }}}}" if text else ""


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


def template_notes(chat: ChatFormat | OwnTemplate) -> list[str]:
    """Where what Ollama makes of a conversation may differ from the model's own chat template, or from itself."""
    if isinstance(chat, OwnTemplate):
        return [
            f"turns cannot describe the chat template: {chat.why}; so the Modelfile has no TEMPLATE, and Ollama "
            f"(from {RENDERS_JINJA}) renders the one in the GGUF file, as llama.cpp does"
        ]
    said = {
        "the chat template strips white space around messages; the TEMPLATE for Ollama cannot": chat.trims
        or chat.uneven,
        "the chat template writes today's date; the TEMPLATE for Ollama has its fixed one": chat.dated,
        "the chat template has words for tools or thinking: Ollama takes it from the GGUF file where it can, and where "
        "it cannot the TEMPLATE, which has none": chat.mentions_tools,
    }
    return [note for note, holds in said.items() if holds]


def modelfile(spec: PackageSpec, index: int) -> str:
    """The Modelfile of one model of a package.

    Raises:
        ChatFormatError: a value that no Modelfile can carry.
    """
    model = spec.models[index]
    commands = modelfile_commands(spec, model)
    printed = {
        keyword: print_modelfile(command for command in commands if command.keyword == keyword).removesuffix("\n")
        for keyword in ("FROM", "REQUIRES", "TEMPLATE", "PARSER", "SYSTEM", "PARAMETER", "LICENSE")
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
    inside = system is not None and spec.turns is not None and not can_quote(system)
    commands = [Command("FROM", f"./{model.file}")]
    if spec.turns is None:
        commands.append(Command("REQUIRES", RENDERS_JINJA))
    else:
        commands.append(Command("TEMPLATE", go_template(spec.turns, default_system=system if inside else None)))
        if inside and spec.turns.mentions_tools:
            commands.append(Command("PARSER", "passthrough"))
    if system is not None and not inside:
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
