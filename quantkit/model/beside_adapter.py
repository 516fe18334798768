"""The parts of a tokenizer beside an adapter whose folder has no vocabulary that quantkit reads.

Trainers leave the large files out (a ``chat_template.jinja`` or a ``tokenizer_config.json`` alone). The chat template
counts in every case, because the training conversations were written in it. The tokens must then be those of the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from quantkit.errors import VocabularyError
from quantkit.files.json_file import read_json
from quantkit.hub.source import source_name
from quantkit.hub.tokenizer_files import (
    ADDED_TOKENS,
    TEMPLATES,
    TOKENIZER_CONFIG,
    VOCABULARIES,
    has_vocabulary,
    matching,
)
from quantkit.vocab.files import checked_ids, read_tokenizer_config

# A folder with one of these says something about templates or special tokens.
_SPEAKING = (*VOCABULARIES, *TEMPLATES, TOKENIZER_CONFIG)


def speaks(folder: Path) -> bool:
    """Whether a folder may have a chat template or special tokens of its own."""
    return next(matching(folder, _SPEAKING), None) is not None


def incomplete_notes(
    folders: Sequence[Path], ours: Callable[[], Mapping[str, int] | None], rows: int | None
) -> Iterator[str]:
    """Compare the tokens that incomplete tokenizers name with those of the tokenizer that is used.

    Args:
        folders: the adapters' folders.
        ours: reads the ids of all tokens of the tokenizer that is used; None if unknown.
        rows: number of rows of the embedding: a token without a row cannot be used; None if unknown.

    Yields:
        A note for each folder that names further tokens, but has no vocabulary that is read.

    Raises:
        VocabularyError: one of their files is broken.
    """
    for folder in folders:
        if has_vocabulary(folder):
            continue
        theirs = _named_tokens(folder)
        known = ours() if theirs else None
        if known is None:
            continue
        changed = sorted(theirs.items() - known.items(), key=lambda token: token[1])
        changed = [(text, number) for text, number in changed if rows is None or number < rows]
        if not changed:
            continue
        other = [token for token in changed if token[0] in known or token[1] in known.values()]
        text, number = (other or changed)[0]
        yield (
            f"{source_name(folder)} names a token that the base's tokenizer does not have ({text!r} ({number})), but "
            "has no tokenizer.json: the base's is used; if training added the token, copy tokenizer.json there"
        )


def _named_tokens(folder: Path) -> dict[str, int]:
    """The ids of the tokens that the files name."""
    path = folder / ADDED_TOKENS
    try:
        found = checked_ids(read_json(path)) if path.is_file() else {}
        path = folder / TOKENIZER_CONFIG
        decoder = read_tokenizer_config(folder).get("added_tokens_decoder") or {}
        return found | {str(token["content"]): int(number) for number, token in decoder.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VocabularyError(f"{path}: broken ({type(error).__name__}: {error})") from None
