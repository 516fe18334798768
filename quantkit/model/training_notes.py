"""Contradictions between the arguments of a training and a build, each with the option that mends it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.arch.rope_override import TYPES
from quantkit.chat_template.format import named_format
from quantkit.chat_template.render import render_jinja
from quantkit.errors import ChatFormatError
from quantkit.hub.base_name import full_precision_name
from quantkit.model.training_args import Training
from quantkit.system.shell import command

# The trainers' names of chat templates that are one of the named formats.
_FORMATS = {
    **dict.fromkeys(("llama3", "llama3_2", "llama3.1", "llama-3"), "llama-3"),
    **dict.fromkeys(("chatml", "chatml_de", "qwen", "qwen2", "qwen2_5", "qwen_25", "qwen25", "qwen3"), "chatml"),
    **dict.fromkeys(("qwen3_nothink", "qwen3_nothinking", "yi", "smollm", "hermes2"), "chatml"),
    **dict.fromkeys(("llama2", "llama2_zh", "llama"), "llama-2"),
    **dict.fromkeys(("mistral", "mistral_v1"), "mistral"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3"), "gemma"),
    **dict.fromkeys(("phi", "phi3", "phi_3"), "phi-3"),
    "alpaca": "alpaca",
}
_LONGEST = 80


@dataclass(frozen=True)
class Built:
    """What is built.

    Attributes:
        names: the names by which the base is known here: its id or folder, and the one in its config.json; none if
            the arguments are the model's own.
        template: the Jinja text of the chat template that the files get.
        bos_token: text of the model's beginning-of-sequence token, "" if it has none.
        eos_token: text of its end-of-sequence token, "" if it has none.
        system: the package's system prompt, None for none.
        context: tokens of context.
        scaling: the kind of rotary scaling in the metadata; "" for none.
        thinking: ``on`` or ``off`` if the user chose.
        lets_think: whether the template lets the model think in llama.cpp.
    """

    names: tuple[str, ...]
    template: str
    bos_token: str
    eos_token: str
    system: str | None
    context: int
    scaling: str
    thinking: str | None
    lets_think: bool


def training_notes(trainings: Sequence[Training], built: Built) -> list[str]:
    """A note for each contradiction.

    Args:
        trainings: the arguments that were found.
        built: what is built.
    """
    prompt = _prompt(built)
    notes = (note for one in trainings for note in _contradictions(one, built, prompt))
    return list(dict.fromkeys(notes))


def without_thoughts(trainings: Sequence[Training]) -> bool | None:
    """Whether the trainings had no thoughts; None if none of them says."""
    said = [one.thinks for one in trainings if one.thinks is not None]
    return not any(said) if said else None


def _contradictions(one: Training, built: Built, prompt: str) -> Iterator[str]:
    if built.names and _bare(one.base) not in map(_bare, built.names):
        yield f"{one.file}: the training was of {one.base[-_LONGEST:]}, the base here is {built.names[0]}"
    known = _FORMATS.get(one.template.lower())
    if known is not None and (mark := named_format(known).user.prefix.strip()) not in prompt:
        yield (
            f"{one.file}: trained with template {one.template}, but the chat template writes no {mark!r}: "
            f"pass --template {known}"
        )
    if one.thinks is False and built.lets_think:
        yield (
            f"{one.file}: trained without thoughts ({_why(one)}), but the chat template lets the model think in "
            "llama.cpp and Ollama: pass --thinking off"
        )
    if one.thinks and built.thinking == "off":
        yield f"{one.file}: trained with thoughts ({_why(one)}), but --thinking off is given"
    if one.system and one.system.strip() not in prompt:
        shown = command("--system", one.system) if len(one.system) <= _LONGEST else "--system with that text"
        instead = "another one is given" if built.system else "none is given"
        yield f"{one.file}: trained with the system prompt {one.system[:_LONGEST]!r}, {instead}: pass {shown}"
    factor = one.factor or math.ceil(one.length / built.context)
    if one.scaling not in ("", "default", "llama3", built.scaling) and factor > 1:  # llama3's is a tensor
        mended = f"pass --rope-scaling {one.scaling}:{factor:g}"
        yield (
            f"{one.file}: trained with rope scaling {one.scaling}, the files have {built.scaling or 'none'}: "
            + (mended if one.scaling in TYPES else f"llama.cpp has no such scaling beyond {built.context} tokens")
        )
    elif one.length > built.context:
        yield (
            f"{one.file}: trained on texts of up to {one.length} tokens, but the context is {built.context}: if it was "
            f"stretched, pass --rope-scaling linear:{factor:g} or yarn:{factor:g}"
        )


def _why(one: Training) -> str:
    return f"template {one.template}" if one.thinks is False and "think" in one.template else "enable_thinking"


def _prompt(built: Built) -> str:
    """The prompt of a question with the package's system prompt; "" if the template refuses it."""
    system = [{"role": "system", "content": built.system}] if built.system else []
    for messages in ([*system, {"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]):
        try:
            return render_jinja(built.template, messages, bos_token=built.bos_token, eos_token=built.eos_token)
        except ChatFormatError:
            continue
    return ""


def _bare(name: str) -> str:
    """A model's name without its owner, its quantization and the hub's ways to write a dot."""
    last = name.rstrip("/\\").replace("\\", "/").rpartition("/")[2].partition("@")[0]
    last = last.replace("___", ".").lower()
    return full_precision_name(last) or last


def names_of(label: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names by which a base is known: as it is given, and as its config.json says."""
    said = config.get("_name_or_path")
    return (label, said) if isinstance(said, str) and said else (label,)
