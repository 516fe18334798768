"""How to talk to a package's model, as manifest.json says it. A field is a key of the file, and is described as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.files.json_fields import Fields
from quantkit.package.manifest_answers import AnswersEntry

_STOP = "stop"


@dataclass(frozen=True)
class ChatEntry:
    """How to talk to the model: what ``quantkit chat`` and ``serve`` go by.

    Attributes:
        template: name of the chat format.
        system: the system prompt, null for none.
        parameters: Ollama parameters, name -> value text; those of generation_config.json too. ``stop`` is a list: the
            user's stop sequences.
        stops: the chat format's stop sequences.
        template_sha256: of the Jinja text in the GGUF files; packages of earlier versions have none.
        messages: an example conversation, for Ollama alone: each with ``role`` and ``content``. Packages of the first
            versions have none.
        answers: whether it thinks, and calls tools. Packages of earlier versions have none.
    """

    template: str
    system: str | None
    parameters: Mapping[str, str | tuple[str, ...]]
    stops: tuple[str, ...]
    messages: tuple[Mapping[str, str], ...] = ()
    answers: AnswersEntry | None = None
    template_sha256: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """The parameters besides ``stop``."""
        return {name: value for name, value in self.parameters.items() if isinstance(value, str)}

    @property
    def all_stops(self) -> tuple[str, ...]:
        """Every text that ends an answer: the chat format's, and the user's after them, as in the Modelfile."""
        return tuple(dict.fromkeys((*self.stops, *self.parameters.get(_STOP, ()))))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "template": self.template,
            **({"template_sha256": self.template_sha256} if self.template_sha256 else {}),
            "system": self.system,
            "parameters": {
                name: value if isinstance(value, str) else list(value) for name, value in self.parameters.items()
            },
            "stops": list(self.stops),
            "messages": [dict(message) for message in self.messages],
            **({} if self.answers is None else {"answers": self.answers.to_json()}),
        }

    @classmethod
    def from_json(cls, found: Fields) -> ChatEntry:
        """What :meth:`to_json` wrote."""
        asked = found.fields("parameters")
        messages = found.each("messages") if "messages" in found else []
        return cls(
            template=found.text("template"),
            system=found.optional_text("system"),
            parameters={name: asked.texts(name) if name == _STOP else asked.scalar(name) for name in asked},
            stops=found.texts("stops"),
            messages=tuple({"role": one.text("role"), "content": one.text("content")} for one in messages),
            answers=AnswersEntry.from_json(found.fields("answers")) if "answers" in found else None,
            template_sha256=found.optional_text("template_sha256") or "",
        )
