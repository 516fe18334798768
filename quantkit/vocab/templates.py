"""Chat templates: where a model's folder has them, and which one is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.files.json_file import read_json
from quantkit.files.visible import visible
from quantkit.hub.tokenizer_files import CHAT_TEMPLATE, CHAT_TEMPLATE_JSON, TEMPLATE_FOLDER, TOKENIZER_CONFIG


@dataclass(frozen=True)
class Templates:
    """The Jinja templates of a model.

    Attributes:
        default: the model's own template; None if it has none.
        named: other templates (``tool_use``, ``rag``) by name.
        notes: notes for the plan.
    """

    default: str | None
    named: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def read_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> Templates:
    """The default chat template and the named ones.

    chat_template.jinja has priority over tokenizer_config.json, and that over chat_template.json. llama.cpp's converter
    prefers the second; transformers, which training runs on, reads the first, and writes it since 4.51: where the two
    differ, the text in tokenizer_config.json is a stale one.

    Args:
        folder: with the templates.
        tokenizer_config: its tokenizer_config.json, empty when there is none.

    Raises:
        VocabularyError: a template is not a string.
    """
    value: Any = tokenizer_config.get("chat_template")
    beside = _read_text(folder / CHAT_TEMPLATE)
    notes = []
    if beside is not None and (said := _default(value)) is not None and _rendered(said) != _rendered(beside):
        notes.append(
            "chat_template.jinja and chat_template in tokenizer_config.json differ: the first is used, as in "
            "transformers and so in training; if it is the stale one, give the second with --template FILE"
        )
        value = _with_default(value, beside)
    source = TOKENIZER_CONFIG
    if value is None and beside is not None:
        extra = visible(folder / TEMPLATE_FOLDER, "*.jinja")
        value = [{"name": "default", "template": beside}]
        value += [{"name": file.stem, "template": _read_text(file)} for file in extra]
    elif value is None:
        source = CHAT_TEMPLATE_JSON
        value = (read_json(folder / source) if (folder / source).is_file() else {}).get("chat_template")
    if value is None or isinstance(value, str):
        return Templates(value, (), tuple(notes))
    if not isinstance(value, list) or not all(map(_is_named_template, value)):
        kind = "list of something else" if isinstance(value, list) else type(value).__name__
        raise VocabularyError(
            f"{folder / source}: chat_template is a {kind}; expected a string, or a list of names and templates"
        )
    # llama.cpp's converter keeps only letters and digits of a name, so that it is safe in a metadata key.
    named = {re.sub("[^A-Za-z0-9]", "_", entry["name"]): entry["template"] for entry in value}
    default = named.pop("default", None)
    return Templates(default, tuple(named.items()), tuple(notes))


def _default(value: Any) -> str | None:
    """The default template in tokenizer_config.json."""
    if isinstance(value, list):
        named = [entry["template"] for entry in value if _is_named_template(entry) and entry["name"] == "default"]
        return named[-1] if named else None
    return value if isinstance(value, str) else None


def _with_default(value: Any, template: str) -> Any:
    """The setting with another default template."""
    if isinstance(value, str):
        return template
    return [
        {**entry, "template": template} if isinstance(entry, Mapping) and entry.get("name") == "default" else entry
        for entry in value
    ]


def _rendered(template: str) -> str:
    """What Jinja reads of a template: it drops one line end at the end."""
    return template.removesuffix("\n")


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def _read_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: cannot be read ({error})", hint="save the chat template as UTF-8") from None
