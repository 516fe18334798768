"""Everything quantkit refuses, by name.

::

    QuantkitError
    ├── CheckpointError      a Hugging Face folder that is broken, incomplete or unsafe
    ├── AdapterError         a PEFT folder that is broken, unsupported or trained on another base
    ├── ArchitectureError    a model family, or a setting of one, that is not supported
    ├── VocabularyError      a tokenizer that llama.cpp would not reproduce
    ├── ChatFormatError      a chat template that is missing, broken or cannot be expressed
    ├── ContextFullError     a conversation that is longer than the context
    ├── QuantizationError    a type that cannot be had for these tensors
    ├── OutOfRangeError    a weight too large for the type asked for
    ├── GGUFError            a GGUF file that is broken
    ├── HubError             a model that its hub does not give
    ├── OllamaError          an Ollama that is not there, too old, or refuses a model
    ├── OutputError          a folder or disk that cannot be written
    └── VerificationError    built, but a check failed (exit code 3)

The message says what and where (file, tensor, shape, expected); the hint is the next thing to type or do. Where a place
has no hint of its own, its class has one for the usual way out. The command line turns any of these into two lines,
``error:`` and ``hint:``, and nothing else in quantkit prints errors.
"""

from __future__ import annotations

from typing import ClassVar


class QuantkitError(Exception):
    """Base of all errors a user can act on.

    Attributes:
        default_hint: the hint of a class, for errors that are raised without one.
        hint: the next thing to type or do; never empty.
    """

    default_hint: ClassVar[str] = "see what the command takes: quantkit COMMAND --help"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.default_hint


class CheckpointError(QuantkitError):
    """The checkpoint folder is broken, incomplete or unsafe."""

    default_hint = "download the folder again, or use it as it was saved"


class AdapterError(QuantkitError):
    """The adapter folder is broken, unsupported or does not fit the base."""

    default_hint = "use the adapter's folder as PEFT's save_pretrained wrote it"


class ArchitectureError(QuantkitError):
    """The model family, or one of its settings, is not supported."""

    default_hint = "use config.json as it was saved with the model; see the supported models in the README"


class VocabularyError(QuantkitError):
    """The tokenizer is one that llama.cpp would not reproduce."""

    default_hint = "use the tokenizer's files that were saved with the model"


class ChatFormatError(QuantkitError):
    """The chat template is missing, broken or cannot be expressed."""

    default_hint = "name a chat format with --template, or correct the text"


class ContextFullError(QuantkitError):
    """The conversation is longer than the context."""

    default_hint = "begin a new conversation, or build with a larger context: --param num_ctx=N"


class QuantizationError(QuantkitError):
    """The quantization type cannot be had for these tensors."""

    default_hint = "choose another --quant, such as q4_0 or q8_0"


class OutOfRangeError(QuantkitError):
    """A weight does not fit the base type."""

    default_hint = "choose a wider type: bf16 or f32"


class GGUFError(QuantkitError):
    """The GGUF file is broken."""

    default_hint = "build or download the file again"


class HubError(QuantkitError):
    """A model or an adapter cannot be had from its hub."""

    default_hint = "check the id, or download the model elsewhere and give its folder"


class OllamaError(QuantkitError):
    """Ollama is not there, too old, or does not take the model."""

    default_hint = "look into the log of the Ollama server"


class OutputError(QuantkitError):
    """The output cannot be written."""

    default_hint = "choose another place with -o"


class VerificationError(QuantkitError):
    """The package was built, but a check failed."""

    default_hint = "see what failed above, and build again"
