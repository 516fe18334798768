"""The specification of a package: a value that the build fills in and the renderers read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.chat_template.format import ChatFormat, OwnTemplate
from quantkit.errors import ChatFormatError, OutputError
from quantkit.ollama.messages import check_messages
from quantkit.ollama.parameters import check_parameters
from quantkit.package.file_names import FORBIDDEN_IN_NAMES, name_fault
from quantkit.package.quality import Quality

DEFAULT_CONTEXT = 8192
"""Default context in tokens, if the model supports as many: a laptop does not have the memory for 128k."""

_VERSION = re.compile(r"v?[0-9]{1,9}(\.[0-9]{1,9}){0,2}([-+][0-9A-Za-z.+-]+)?")
_LONGEST_NAME = 80  # per part of a name in Ollama


@dataclass(frozen=True)
class PackagedModel:
    """One GGUF file of a package.

    Attributes:
        file: its name inside the package's folder; of a split model the first part's, which loads the others.
        quant: its quantization type in lower case, such as "q4_0".
        parts: files it is split into.
    """

    file: str
    quant: str
    parts: int = 1


@dataclass(frozen=True)
class PackagedAdapter:
    """An adapter as a separate file in a package.

    Attributes:
        file: its name inside the package's folder.
        adapter: where it came from.
    """

    file: str
    adapter: str


@dataclass(frozen=True)
class PackagedLora:
    """A LoRA file that the models of a package are run with.

    Attributes:
        file: its name inside the package's folder.
        scale: how much of it; 1 for what was trained.
    """

    file: str
    scale: float = 1.0


@dataclass(frozen=True)
class PackageSpec:
    """Everything that the text files of a package say.

    Attributes:
        name: the package's name.
        models: its GGUF files; the first one is the default.
        chat: the model's chat format, or the fact that only its own template can express it.
        system: the system prompt; None or "" for the chat format's own.
        parameters: Ollama parameters in the order given, as (name, value text); the model's own before the user's.
        context_length: tokens of context the model was trained for.
        base: where the base model came from.
        adapters: where the adapters came from, in the order they were applied.
        licenses: license texts, or the name of one; empty if unknown.
        architecture: such as "llama".
        parameter_count: number of weights.
        adapter_files: the adapters as separate LoRA files for llama.cpp, which the models contain already.
        loras: the LoRA files that the models are run with, because they do not contain them.
        mmproj: name of the file with which the models see pictures; None if they do not.
        messages: an example conversation for Ollama, as (role, text).
        adds_bos: whether llama.cpp puts the beginning-of-sequence token before every prompt.
        own_template: a TEMPLATE of the user, instead of the one for the chat format.
        forced: whether that TEMPLATE must override the chat template in the GGUF file.
        requires: the minimum version of Ollama that the user asks for.
        quality: how good the files are, None where that was not measured.
        answers: how the chat template lets the model answer: thoughts, calls of tools.
    """

    name: str
    models: tuple[PackagedModel, ...]
    chat: ChatFormat | OwnTemplate
    system: str | None
    parameters: tuple[tuple[str, str], ...]
    context_length: int
    base: str
    adapters: tuple[str, ...]
    licenses: tuple[str, ...]
    architecture: str
    parameter_count: int
    adapter_files: tuple[PackagedAdapter, ...] = ()
    loras: tuple[PackagedLora, ...] = ()
    mmproj: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    adds_bos: bool = True
    own_template: str | None = None
    forced: bool = False
    requires: str | None = None
    quality: Quality | None = None
    answers: AnswerFormat = field(default_factory=AnswerFormat)

    @property
    def turns(self) -> ChatFormat | None:
        """The chat format if turns describe it, else None."""
        return self.chat if isinstance(self.chat, ChatFormat) else None

    @property
    def num_ctx(self) -> int:
        """The package's context in tokens: the last num_ctx given, else min(context_length, 8192)."""
        given = [int(value) for name, value in self.parameters if name == "num_ctx"]
        return given[-1] if given else min(self.context_length, DEFAULT_CONTEXT)

    @property
    def stops(self) -> tuple[str, ...]:
        """The chat format's stop sequences and then the user's, without duplicates."""
        return tuple(dict.fromkeys((*self.chat.stops, *(value for name, value in self.parameters if name == "stop"))))

    @property
    def other_parameters(self) -> tuple[tuple[str, str], ...]:
        """The user's parameters besides stop and num_ctx."""
        return tuple(item for item in self.parameters if item[0] not in ("stop", "num_ctx"))

    @property
    def system_text(self) -> str | None:
        """The system prompt as the model's template would write it, None if there is none."""
        strips = self.turns is not None and "system" in self.turns.trims
        text = self.system.strip() if self.system and strips else self.system
        return text or None

    @property
    def ollama_name(self) -> str:
        """A name that Ollama accepts for the model."""
        return ollama_name(self.name)


def ollama_name(name: str) -> str:
    """Return a name that Ollama accepts, as close to *name* as possible."""
    return re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-._")[:_LONGEST_NAME].rstrip("-._") or "model"


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a valid version of Ollama; what follows a ``-`` or ``+`` is ignored."""
    return tuple(map(int, version.removeprefix("v").partition("-")[0].partition("+")[0].split(".")))


def _check_file(name: str, what: str, hint: str, further: str = "") -> None:
    """Refuse the name of a file that some system, or Ollama's parser, cannot have."""
    if bad := sorted({c for c in name if c in FORBIDDEN_IN_NAMES or c in further or not c.isprintable()}):
        raise OutputError(f"{name!r} cannot be {what} in a package: it contains {', '.join(map(repr, bad))}", hint=hint)
    if wanted := name_fault(name):
        raise OutputError(f"{name!r} cannot be {what} in a package: it must be {wanted}", hint=hint)


def check_spec(spec: PackageSpec) -> None:
    """Refuse what the package's files could not express.

    Raises:
        OutputError: a file name that some system does not allow.
        ChatFormatError: a parameter, system prompt or other text that cannot be written.
    """
    if not spec.models:
        raise OutputError(f"package {spec.name!r} contains no model")
    for model in spec.models:
        _check_file(model.file, "a file name", "choose another one with --name")
    for lora in spec.loras:
        _check_file(lora.file, "a LoRA file", "rename it; llama.cpp reads a comma as the end of a name", ",")
    check_parameters(spec.parameters)
    check_messages(spec.messages)
    if spec.requires is not None and not _VERSION.fullmatch(spec.requires):
        raise ChatFormatError(f"REQUIRES {spec.requires!r} is not a version of Ollama", hint="write it like 0.33.0")
    if spec.num_ctx < 1:
        raise ChatFormatError(
            f"num_ctx must be at least 1, not {spec.num_ctx}", hint="set it with --param num_ctx=4096"
        )
    if spec.system_text is not None and not spec.chat.takes_system:
        raise ChatFormatError(
            f"the model's chat template ({spec.chat.name}) does not support a system message",
            hint="build without --system",
        )
    stops = [(f"stop {stop!r}", stop) for stop in spec.stops]
    licenses = [("the license", text) for text in spec.licenses]
    messages = [(f"message {number}", text) for number, (_, text) in enumerate(spec.messages, 1)]
    for what, text in (("the system prompt", spec.system or ""), *licenses, *messages, *stops):
        if "\0" in text:
            raise ChatFormatError(
                f"{what} contains a NUL character, which a command line cannot", hint=f"remove it from {what}"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ChatFormatError(
                f"{what} is not valid Unicode: it contains half of a surrogate pair", hint=f"write {what} as UTF-8"
            )
