"""Everything quantkit refuses, by name.

::

    QuantkitError
    ├── CheckpointError      a Hugging Face folder that is broken, incomplete or unsafe
    ├── AdapterError         a PEFT folder that is broken, unsupported or trained on another base
    ├── ArchitectureError    a model family, or a setting of one, that is not supported
    ├── VocabularyError      a tokenizer that llama.cpp would not reproduce
    ├── ChatFormatError      a chat template that is missing, broken or cannot be expressed
    ├── QuantizationError    a type that cannot be had for these tensors
    ├── OverflowsF16Error    a weight too large for the type asked for
    ├── GGUFError            a GGUF file that is broken
    ├── OutputError          a folder or disk that cannot be written
    └── VerificationError    built, but a check failed (exit code 3)

The message says what and where (file, tensor, shape, expected); the hint is the next thing to type. The command line
turns any of these into two lines, ``error:`` and ``hint:``, and nothing else in quantkit prints errors.
"""

from __future__ import annotations


class QuantkitError(Exception):
    """Base of all errors a user can act on.

    Attributes:
        hint: the next thing to type or do; empty when the message says it all.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CheckpointError(QuantkitError):
    """The checkpoint folder is broken, incomplete or unsafe."""


class AdapterError(QuantkitError):
    """The adapter folder is broken, unsupported or does not fit the base."""


class ArchitectureError(QuantkitError):
    """The model family, or one of its settings, is not supported."""


class VocabularyError(QuantkitError):
    """The tokenizer is one that llama.cpp would not reproduce."""


class ChatFormatError(QuantkitError):
    """The chat template is missing, broken or cannot be expressed."""


class QuantizationError(QuantkitError):
    """The quantization type cannot be had for these tensors."""


class OverflowsF16Error(QuantkitError):
    """A weight does not fit the base type."""


class GGUFError(QuantkitError):
    """The GGUF file is broken."""


class OutputError(QuantkitError):
    """The output cannot be written."""


class VerificationError(QuantkitError):
    """The package was built, but a check failed."""
