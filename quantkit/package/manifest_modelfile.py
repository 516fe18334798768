"""The entry of manifest.json for what the Modelfiles say that nothing else in a package does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from quantkit.files.json_fields import Fields


@dataclass(frozen=True)
class ModelfileEntry:
    """What ``verify`` cannot derive from the models.

    Attributes:
        licenses: the sha256 of the text of each LICENSE.
        template_sha256: of the user's own TEMPLATE; left out where the TEMPLATE is made from the chat template.
        requires: the version of Ollama that the user asks for; left out where there is none.
    """

    licenses: tuple[str, ...]
    template_sha256: str = ""
    requires: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        own = {"template_sha256": self.template_sha256, "requires": self.requires}
        return {"licenses": list(self.licenses), **{key: value for key, value in own.items() if value}}

    @classmethod
    def from_json(cls, found: Fields) -> ModelfileEntry:
        """What :meth:`to_json` wrote."""
        own = (found.optional_text(key) or "" for key in ("template_sha256", "requires"))
        return cls(found.texts("licenses"), *own)


def text_sha256(text: str) -> str:
    """The sha256 of a text in UTF-8; what is no Unicode has none that another text has."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
