"""The files of a tokenizer, by name: to download them, to choose between folders, and to copy them.

Patterns are for fnmatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

# Files that define the vocabulary; a tokenizer has at least one. transformers prefers the first.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "*.tiktoken")
# The two files of a slow byte-level BPE, which count if there is none of the others.
VOCAB_JSON, MERGES = "vocab.json", "merges.txt"
# Mistral's own format, which is not supported; if there is no other, it is refused by name.
TEKKEN = "tekken.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
CHAT_TEMPLATE, CHAT_TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
TEMPLATES = ("chat_template*.jinja", CHAT_TEMPLATE_JSON)
# A folder with more chat templates.
TEMPLATE_FOLDER = "additional_chat_templates"
# All of them, except for the folder.
TOKENIZER_FILES = (
    *(*VOCABULARIES, TEKKEN, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, VOCAB_JSON, MERGES),
    *TEMPLATES,
)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file belongs to the tokenizer, judged by its name."""
    return matches(name, TOKENIZER_FILES)


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder has the vocabulary of a tokenizer."""
    return next(matching(folder, VOCABULARIES), None) is not None or has_slow_bpe(folder)


def has_slow_bpe(folder: Path) -> bool:
    """Whether a folder's only vocabulary is a slow byte-level BPE."""
    both = all((folder / name).is_file() for name in (VOCAB_JSON, MERGES))
    return both and next(matching(folder, VOCABULARIES), None) is None


def matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """The files of a folder whose names match, in the order of the names, without hidden ones."""
    return (
        file
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".") and matches(file.name, patterns) and file.is_file()
    )


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
