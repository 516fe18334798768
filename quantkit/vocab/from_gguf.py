"""The vocabulary in a GGUF file's header, as the same value that a checkpoint gives."""

from __future__ import annotations

from quantkit.gguf.header import Header
from quantkit.vocab.vocabulary import Vocabulary

_TOKENIZER, _TEMPLATE = "tokenizer.", "tokenizer.chat_template"


def token_text(header: Header, kind: str) -> str:
    """The text of a special token (``bos``, ``eos``, ``eot``, ...); empty if there is none."""
    tokens: list[str] = header.value("tokenizer.ggml.tokens", [])
    number = header.value(f"tokenizer.ggml.{kind}_token_id")
    return tokens[number] if isinstance(number, int) and number < len(tokens) else ""


def gguf_vocabulary(header: Header) -> Vocabulary:
    """The tokenizer's entries, with the chat templates separate. A file without them gives an empty vocabulary."""
    entries = [entry for key, entry in header.metadata.items() if key.startswith(_TOKENIZER)]
    return Vocabulary(
        metadata=tuple(entry for entry in entries if not entry.key.startswith(_TEMPLATE)),
        chat_template=header.value(_TEMPLATE),
        named_templates=tuple(
            (entry.key.removeprefix(f"{_TEMPLATE}."), entry.value)
            for entry in entries
            if entry.key.startswith(f"{_TEMPLATE}.")
        ),
        bos_token=token_text(header, "bos"),
        eos_token=token_text(header, "eos"),
        notes=(),
    )
