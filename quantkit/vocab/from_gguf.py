"""The vocabulary in a GGUF file's header, as the same value that a checkpoint gives."""

from __future__ import annotations

from quantkit.gguf.header import Header
from quantkit.vocab.vocabulary import Vocabulary

_TOKENIZER, _TEMPLATE = "tokenizer.", "tokenizer.chat_template"


def token_texts(header: Header) -> list[str]:
    """The texts of all tokens; none if the entry is missing, or is no list of texts."""
    found = header.value("tokenizer.ggml.tokens")
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found[:1]) else []


def token_text(header: Header, kind: str) -> str:
    """The text of a special token (``bos``, ``eos``, ``eot``, ...); empty if there is none."""
    tokens = token_texts(header)
    number = header.value(f"tokenizer.ggml.{kind}_token_id")
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else ""


def gguf_vocabulary(header: Header) -> Vocabulary:
    """The tokenizer's entries, with the chat templates separate. A file without them gives an empty vocabulary."""
    entries = [entry for key, entry in header.metadata.items() if key.startswith(_TOKENIZER)]
    return Vocabulary(
        metadata=tuple(entry for entry in entries if not entry.key.startswith(_TEMPLATE)),
        chat_template=template if isinstance(template := header.value(_TEMPLATE), str) else None,
        named_templates=tuple(
            (entry.key.removeprefix(f"{_TEMPLATE}."), entry.value)
            for entry in entries
            if entry.key.startswith(f"{_TEMPLATE}.")
        ),
        bos_token=token_text(header, "bos"),
        eos_token=token_text(header, "eos"),
        notes=(),
    )
