"""The vocabulary of a checkpoint as GGUF metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.checkpoint import Checkpoint
from quantkit.errors import GGUFError, VocabularyError
from quantkit.gguf_header import KV, KVType, array, boolean, string
from quantkit.vocab.bpe import bpe_metadata
from quantkit.vocab.special import special_metadata, token_text

__all__ = ["Vocabulary", "read_vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer becomes.

    Attributes:
        metadata: ``tokenizer.*`` entries without the chat template.
        chat_template: the model's Jinja chat template, None when it has none.
        named_templates: further templates (``tool_use``, ``rag``) by name.
        bos_token: text of BOS, empty when there is none.
        eos_token: text of EOS, empty when there is none.
        notes: for the plan.
    """

    metadata: tuple[KV, ...]
    chat_template: str | None
    named_templates: tuple[tuple[str, str], ...]
    bos_token: str
    eos_token: str
    notes: tuple[str, ...]

    def template_metadata(self, template: str | None) -> list[KV]:
        """The entries that carry *template* as the model's own, and the named ones beside it."""
        entries = []
        if self.named_templates:
            names = [name for name, _ in self.named_templates]
            entries.append(array("tokenizer.chat_templates", names, KVType.STRING))
            entries += [string(f"tokenizer.chat_template.{name}", text) for name, text in self.named_templates]
        if template is not None:
            entries.append(string("tokenizer.chat_template", template))
        return entries


def read_vocabulary(checkpoint: Checkpoint, rows: int) -> Vocabulary:
    """Read the tokenizer of a checkpoint folder.

    Args:
        checkpoint: the folder; nothing but its JSON and template files is read.
        rows: rows of the embedding.

    Raises:
        VocabularyError: no tokenizer, or one that llama.cpp would not reproduce.
    """
    path = checkpoint.path / "tokenizer.json"
    if not path.is_file():
        if (checkpoint.path / "tokenizer.model").is_file():
            raise VocabularyError(
                f"{checkpoint.path}: SentencePiece vocabularies (tokenizer.model) are not supported",
                hint="give a model with a byte-level BPE tokenizer.json, such as Llama 3 or Qwen2",
            )
        raise VocabularyError(
            f"{path}: file is missing", hint="copy the tokenizer's files of the model into the folder"
        )
    tokenizer, config = checkpoint.json("tokenizer.json"), checkpoint.json("tokenizer_config.json")
    try:
        return _read(checkpoint, tokenizer, config, rows)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise VocabularyError(f"{path}: broken ({type(error).__name__}: {error})") from None
    except GGUFError as error:
        raise VocabularyError(f"{checkpoint.path}: {error}") from None


def _read(checkpoint: Checkpoint, tokenizer: dict[str, Any], config: dict[str, Any], rows: int) -> Vocabulary:
    entries, notes = bpe_metadata(tokenizer, config, rows, str(checkpoint.path / "tokenizer.json"))
    generation = checkpoint.json("generation_config.json")
    texts = next(entry.value for entry in entries if entry.key == "tokenizer.ggml.tokens")
    entries += special_metadata(tokenizer, config, checkpoint.config, generation, texts)
    prefix = config.get("add_prefix_space")
    if isinstance(prefix, bool) and "LlamaForCausalLM" in (checkpoint.config.get("architectures") or ()):
        entries.insert(0, boolean("tokenizer.ggml.add_space_prefix", prefix))
    template, named = _templates(checkpoint.path, config)
    if isinstance(config.get("chat_template"), str) and _template_file(checkpoint.path) not in (None, template):
        notes.append(
            "chat_template.jinja differs from chat_template in tokenizer_config.json: the latter is used, as by "
            "llama.cpp's converter; transformers uses the former"
        )
    ids = {entry.key: entry.value for entry in entries if entry.key.endswith("_token_id")}

    def text(kind: str) -> str:
        number = ids.get(f"tokenizer.ggml.{kind}_token_id")
        return token_text(config.get(f"{kind}_token")) or ("" if number is None else texts[number])

    vocabulary = Vocabulary(
        tuple(entries),
        template,
        named,
        text("bos"),
        text("eos"),
        tuple(notes),
    )
    vocabulary.template_metadata(template)  # what a GGUF file cannot hold is known now
    return vocabulary


def _template_file(folder: Path) -> str | None:
    """The text of chat_template.jinja, None if there is none."""
    path = folder / "chat_template.jinja"
    return _read_text(path) if path.is_file() else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: cannot be read ({error})", hint="save the chat template as UTF-8") from None


def _templates(folder: Path, config: dict[str, Any]) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """The default chat template and the named ones.

    tokenizer_config.json comes before chat_template.jinja, as in llama.cpp's converter.
    """
    value: Any = config.get("chat_template")
    if value is None and (default := _template_file(folder)) is not None:
        extra = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        value = [{"name": "default", "template": default}]
        value += [{"name": file.stem, "template": _read_text(file)} for file in extra]
    if value is None or isinstance(value, str):
        return value, ()
    if not isinstance(value, list) or not all(map(_is_named_template, value)):
        kind = "list of something else" if isinstance(value, list) else type(value).__name__
        raise VocabularyError(
            f"{folder / 'tokenizer_config.json'}: chat_template is a {kind}; expected a text, or names and templates"
        )
    # llama.cpp's converter keeps letters and digits of a name, so that it is safe in a metadata key.
    named = {re.sub("[^A-Za-z0-9]", "_", entry["name"]): entry["template"] for entry in value}
    default = named.pop("default", None)
    return default, tuple(named.items())


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))
