"""The Modelfile of a package.

There is no TEMPLATE for a model whose chat template turns cannot describe; :mod:`quantkit.chat_template.format` says
why, and when PARSER is needed. Stops are always written, because Ollama would otherwise use those of the built-in
template that it thinks it recognises.
"""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.errors import ChatFormatError
from quantkit.ollama.modelfile import Command, can_quote, parse_modelfile, print_modelfile
from quantkit.ollama.read_modelfile import PASSTHROUGH
from quantkit.ollama.request import NO_ADAPTER
from quantkit.package.differences import ANY, RENDERS_JINJA, Difference, differences
from quantkit.package.go_template import go_template
from quantkit.package.spec import PackagedLora, PackagedModel, PackageSpec, version_numbers
from quantkit.package.text import fill

# Parameters that Ollama's OpenAI-compatible API sets if a request does not, overriding the Modelfile.
_SET_BY_OPENAI = frozenset({"temperature", "top_p"})
_OPENAI = (
    "its OpenAI-compatible API (/v1) uses 1.0 for temperature and top_p unless a request sets them, not the values here"
)
_EXAMPLES = "a conversation's own system message comes after the example messages"

_MERGE = "merge the LoRA file for it: quantkit merge BASE.gguf --lora FILE -o MERGED.gguf"
_ADAPTER_REFUSED = f"the ADAPTER line of the Modelfile is refused; {_MERGE}"
_ADAPTER_LOST = f"its own engine, which runs some families, ends with 'loras are not yet implemented'; {_MERGE}"

_ORDER = ("FROM", "ADAPTER", "REQUIRES", "TEMPLATE", "PARSER", "SYSTEM", "MESSAGE", "PARAMETER", "LICENSE")


def modelfile_name(index: int, model: PackagedModel) -> str:
    """Return the file name of the Modelfile for a package's model at that index."""
    return "Modelfile" if index == 0 else f"Modelfile.{model.quant}"


def no_modelfile(model: PackagedModel, loras: Sequence[PackagedLora]) -> str | None:
    """Return why Ollama cannot run a model of a package, so that it has no Modelfile; None if it can."""
    if model.parts > 1:
        return f"{model.parts} files; Ollama does not support split files"
    if len(loras) > 1:
        return f"{len(loras)} LoRA files; Ollama supports one"
    if loras and loras[0].scale != 1:
        return f"{loras[0].scale:g} of a LoRA file; Ollama does not support a scale"
    return None


def _no_modelfile_notes(spec: PackageSpec) -> list[str]:
    """Return a note for each model without a Modelfile."""
    whys = [(model, why) for model in spec.models if (why := no_modelfile(model, spec.loras))]
    merge = "; to have one, merge it: quantkit merge BASE.gguf --lora FILE -o MERGED.gguf"
    return [
        f"{model.quant}: {why}, so there is no Modelfile" + (merge if spec.loras and model.parts == 1 else "")
        for model, why in whys
    ]


def ollama_differences(spec: PackageSpec) -> tuple[Difference, ...]:
    """Return the differences between Ollama's prompts and those of the model's own chat template."""
    found = differences(spec.chat, forced=_forced(spec), own_template=spec.own_template is not None)
    if {name for name, _ in spec.parameters} & _SET_BY_OPENAI:
        found += (Difference(ANY, _OPENAI, usual=True),)
    if spec.messages:
        found += (Difference(ANY, _EXAMPLES, usual=True),)
    if spec.loras:
        found += (
            Difference(f"Ollama before {NO_ADAPTER}", _ADAPTER_LOST, usual=True),
            Difference(f"Ollama {NO_ADAPTER} and later", _ADAPTER_REFUSED),
        )
    return found


def package_notes(spec: PackageSpec) -> list[str]:
    """Return notes for the user: models without a Modelfile, and this model's differences."""
    mine = [f"{found.versions}: {found.text}" for found in ollama_differences(spec) if not found.usual]
    return [*_no_modelfile_notes(spec), *mine]


def modelfile(spec: PackageSpec, index: int) -> str:
    """Return the Modelfile of one model of a package.

    Raises:
        ChatFormatError: a value that a Modelfile cannot contain.
    """
    model = spec.models[index]
    commands = modelfile_commands(spec, model)
    printed = {
        keyword: print_modelfile(command for command in commands if command.keyword == keyword).removesuffix("\n")
        for keyword in _ORDER
    }
    text = fill(
        "Modelfile",
        {
            "spec": spec,
            "model": model,
            "file": modelfile_name(index, model),
            "tag": spec.ollama_name if index == 0 else f"{spec.ollama_name}:{model.quant}",
            "printed": printed,
            "system_inside": _system_inside(spec),
        },
    )
    if parse_modelfile(text) != commands:
        raise ChatFormatError(f"{modelfile_name(index, model)} would not be read back as written")
    return text


def modelfile_commands(spec: PackageSpec, model: PackagedModel) -> tuple[Command, ...]:
    """Return the commands of a model's Modelfile, in order."""
    inside = _system_inside(spec)
    system = spec.system_text
    commands = [Command("FROM", f"./{file}") for file in (model.file, spec.mmproj) if file is not None]
    commands.extend(Command("ADAPTER", f"./{lora.file}") for lora in spec.loras)
    if requires := _requires(spec):
        commands.append(Command("REQUIRES", requires))
    if (template := _template(spec, system if inside else None)) is not None:
        commands.append(Command("TEMPLATE", template))
    if _forced(spec):
        commands.append(Command("PARSER", PASSTHROUGH))
    if system is not None and not inside:
        commands.append(Command("SYSTEM", system))
    commands.extend(Command("MESSAGE", text, role) for role, text in spec.messages)
    commands.extend(Command("PARAMETER", stop, "stop") for stop in spec.stops)
    commands.append(Command("PARAMETER", str(spec.num_ctx), "num_ctx"))
    commands.extend(Command("PARAMETER", value, name) for name, value in spec.other_parameters)
    commands.extend(Command("LICENSE", text) for text in license_values(spec))
    return tuple(commands)


def license_values(spec: PackageSpec) -> list[str]:
    """Return the texts of the LICENSE commands."""
    return [readable for text in spec.licenses if (readable := _readable(text))]


def _forced(spec: PackageSpec) -> bool:
    """Whether the Modelfile forces an Ollama that would use the GGUF file's chat template to use the TEMPLATE."""
    return spec.forced or (_system_inside(spec) and spec.turns is not None and spec.turns.mentions_tools)


def _system_inside(spec: PackageSpec) -> bool:
    """Whether the system prompt goes into the TEMPLATE, because a SYSTEM line cannot contain it."""
    text = spec.system_text
    return text is not None and spec.turns is not None and spec.own_template is None and not can_quote(text)


def _template(spec: PackageSpec, system: str | None) -> str | None:
    if spec.own_template is not None or spec.turns is None:
        return spec.own_template
    return go_template(spec.turns, default_system=system, adds_bos=spec.adds_bos)


def _requires(spec: PackageSpec) -> str | None:
    """Return the later of the version that the package needs and the one that the user asks for."""
    needed = RENDERS_JINJA if spec.turns is None and spec.own_template is None else None
    asked = [version for version in (needed, spec.requires) if version is not None]
    return max(asked, key=version_numbers, default=None)


def _readable(text: str) -> str:
    """Remove what Ollama's parser drops, such as the form feeds between the pages of a license."""
    return "".join(character for character in text if character.isprintable() or character in "\t\r\n")
