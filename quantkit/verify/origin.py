"""The tokenizer and chat template of a model before it became a GGUF file, to compare prompts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.verify.encoders import tokenizer_file
from quantkit.vocab.files import read_tokenizer_config
from quantkit.vocab.templates import read_templates


@dataclass(frozen=True)
class Origin:
    """The tokenizer and the chat template that a model was trained with.

    Attributes:
        tokenizer: the tokenizer's file, see :func:`quantkit.verify.encoders.tokenizer_file`.
        template: the Jinja chat template that the files must have; None for whichever they have.
        special: replaces settings of tokenizer_config.json.
    """

    tokenizer: Path
    template: str | None
    special: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"tokenizer": str(self.tokenizer), "template": self.template, "special": dict(self.special)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Origin:
        """What :meth:`to_json` wrote."""
        return cls(Path(values["tokenizer"]), values["template"], values["special"])


def open_origin(folder: Path, *, template: bool) -> Origin:
    """Open the origin in the folder of a checkpoint, or of an adapter with its own tokenizer.

    Args:
        folder: the folder, as it was saved.
        template: whether to use its chat template; a package may have been built with a different one.

    Raises:
        VocabularyError: there is no tokenizer, or the chat template is not a text.
    """
    tokenizer = tokenizer_file(folder)
    if tokenizer is None:
        raise VocabularyError(
            f"{folder}: does not contain a tokenizer to compare with",
            hint="give the folder that the package was built from",
        )
    own = read_templates(folder, read_tokenizer_config(folder)).default if template else None
    return Origin(tokenizer, own)
