"""The errors that quantkit raises for its users.

::

    QuantkitError
    ├── CheckpointError      a Hugging Face folder that is broken, incomplete or unsafe
    ├── AdapterError         a PEFT folder that is broken, unsupported or trained on another base model
    ├── ArchitectureError    a model family, or one of its settings, that is not supported
    ├── VocabularyError      a tokenizer that llama.cpp would not reproduce
    ├── ChatFormatError      a chat template that is missing, broken or cannot be expressed
    ├── ContextFullError     a conversation that is longer than the context
    ├── QuantizationError    a quantization type that these tensors cannot have
    ├── OutOfRangeError      a weight that is too large for the chosen type
    ├── GGUFError            a GGUF file that is broken
    ├── HubError             a model that cannot be downloaded, or a package that cannot be uploaded
    ├── OllamaError          an Ollama server that is missing, too old, or rejects a model
    ├── OutputError          a folder or disk that cannot be written
    └── VerificationError    a package that was built but failed a check (exit code 3)

The message says what and where (file, tensor, shape, expected value); the hint is the next thing to type or do. Every
class has a default hint for errors that are raised without one. The command line prints an error as two lines,
``error:`` and ``hint:``; an interactive chat prints it and continues.
"""

from __future__ import annotations

from typing import ClassVar


class QuantkitError(Exception):
    """Base class of all errors that a user can act on.

    Attributes:
        default_hint: hint for errors that are raised without one.
        hint: the next thing to type or do; never empty.
    """

    default_hint: ClassVar[str] = "list the options of the command: quantkit COMMAND --help"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.default_hint


class CheckpointError(QuantkitError):
    """The checkpoint folder is broken, incomplete or unsafe."""

    default_hint = "download the folder again, or use it unmodified"


class AdapterError(QuantkitError):
    """The adapter folder is broken, unsupported or does not fit the base model."""

    default_hint = "use the adapter folder as PEFT's save_pretrained wrote it"


class ArchitectureError(QuantkitError):
    """The model family, or one of its settings, is not supported."""

    default_hint = "use the model's original config.json; the README lists the supported models"


class VocabularyError(QuantkitError):
    """llama.cpp would not reproduce the tokenizer."""

    default_hint = "use the tokenizer files that were saved with the model"


class ChatFormatError(QuantkitError):
    """The chat template is missing, broken or cannot be expressed."""

    default_hint = "choose a chat format with --template, or correct the chat template or message"


class ContextFullError(QuantkitError):
    """The conversation is longer than the context."""

    default_hint = "start a new conversation, or restart with a larger context: --param num_ctx=N"


class QuantizationError(QuantkitError):
    """These tensors cannot have the quantization type."""

    default_hint = "choose another --quant, such as q4_0 or q8_0"


class OutOfRangeError(QuantkitError):
    """A weight is too large for the outtype."""

    default_hint = "choose a wider type: bf16 or f32"


class GGUFError(QuantkitError):
    """The GGUF file is broken."""

    default_hint = "build or download the file again"


class HubError(QuantkitError):
    """A model or adapter cannot be downloaded from its hub, or a package cannot be uploaded to one."""

    default_hint = "check the id, or download the model another way and give its folder"


class OllamaError(QuantkitError):
    """Ollama is missing, too old, or rejects the model."""

    default_hint = "check the log of the Ollama server"


class OutputError(QuantkitError):
    """The output cannot be written."""

    default_hint = "choose another output path with -o"


class VerificationError(QuantkitError):
    """The package was built, but a check failed."""

    default_hint = "see the failed checks above, then build again"
