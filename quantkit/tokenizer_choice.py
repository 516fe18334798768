"""Whose tokenizer counts: the base's, or the one that was saved beside an adapter.

Trainers save the tokenizer with the adapter. Where it numbers the tokens in another way than the base's, the model was
trained on it, and everything that a tokenizer says (tokens, special tokens, chat template) is taken from there. Where
the tokens are the same, the base's files stay, and only a chat template of the adapter's own is taken: it is what the
conversations were written in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.hub.source import source_name
from quantkit.json_file import read_json
from quantkit.vocab.files import TokenizerFiles
from quantkit.vocab.templates import read_templates

# What a tokenizer is read from, any of them.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "*.tiktoken")
_TEMPLATES = ("chat_template*.jinja", "chat_template.json")
# What else belongs to a tokenizer, and goes with it where it is carried along.
_FILES = (
    *(*_VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tekken.json", *_TEMPLATES),
)
TEMPLATE_FOLDER = "additional_chat_templates"
# Rows of an embedding are rounded up to multiples of these, for speed.
_PADDINGS = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class TokenizerChoice:
    """Where the tokenizer is.

    Attributes:
        folder: with the files that count.
        templates: folder whose chat templates count.
        notes: decisions the user should see.
    """

    folder: Path
    templates: Path
    notes: tuple[str, ...] = ()


def choose_tokenizer(base: Path, adapters: Sequence[Path], rows: int | None, own: int | None = None) -> TokenizerChoice:
    """Choose between the base's tokenizer and those beside the adapters; of several adapters the last counts.

    Args:
        base: the checkpoint's folder.
        adapters: the adapters' folders, in the order in which they are merged.
        rows: of the embedding, where the adapters have resized it; None where it is as in the base.
        own: rows of the base's embedding, None where they are not known.

    Raises:
        VocabularyError: the embedding was resized, no tokenizer is beside the adapter, and the base's does not fit.
    """
    beside = [folder for folder in adapters if next(_matching(folder, _VOCABULARIES), None) is not None]
    if not beside:
        return TokenizerChoice(base, base, () if rows is None else (_padding_note(base, adapters, rows),))
    folder = beside[-1]
    if rows is not None:
        return TokenizerChoice(
            folder, folder, (f"the vocabulary is resized to {rows}: the tokenizer of {source_name(folder)} is used",)
        )
    ours, theirs = _tokens(base), _tokens(folder)
    if (
        ours is None or theirs is None
    ):  # of different kinds: the sizes agree, and so do the base's files with its config
        return _with_templates(base, folder)
    if ours != theirs:
        changed = sorted(theirs.items() - ours.items(), key=lambda token: token[1])
        if own is not None and ours.items() <= theirs.items() and all(number >= own for _, number in changed):
            left_out = (
                f"{changed[0][0]!r} ({changed[0][1]}) of the tokenizer of {source_name(folder)} has no row in the "
            )
            choice = _with_templates(base, folder)
            return replace(choice, notes=(*choice.notes, f"{left_out}embedding, so the base's tokenizer is used"))
        what = f"such as {changed[0][0]!r} ({changed[0][1]})" if changed else "some of the base's are gone"
        return TokenizerChoice(
            folder, folder, (f"{source_name(folder)} was trained with a tokenizer of its own ({what}): it is used",)
        )
    return _with_templates(base, folder)


def _with_templates(base: Path, folder: Path) -> TokenizerChoice:
    """The base's tokenizer, with the chat template beside the adapter if that is another one."""
    ours, theirs = (read_templates(TokenizerFiles(one, {}, {}, 0)) for one in (base, folder))
    if theirs.default is None or (ours.default, ours.named) == (theirs.default, theirs.named):
        return TokenizerChoice(base, base)
    note = f"the chat template is that of {source_name(folder)}, which it was trained with, not the base's"
    return TokenizerChoice(base, folder, (note,))


def _tokens(folder: Path) -> dict[str, int] | None:
    """Every token and its id; None for a tokenizer that is in neither of the two common files."""
    if (folder / "tokenizer.json").is_file():
        path = folder / "tokenizer.json"
    elif (folder / "tokenizer.model").is_file():
        path = folder / "tokenizer.model"
    else:
        return None
    try:
        return _json_tokens(read_json(path)) if path.suffix == ".json" else _sentencepiece_tokens(folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VocabularyError(f"{path}: broken ({type(error).__name__}: {error})") from None


def _json_tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    model, added = tokenizer["model"]["vocab"], tokenizer.get("added_tokens") or []
    if not isinstance(model, Mapping):  # Unigram: pairs of text and score, in the order of the ids
        model = {text: number for number, (text, _) in enumerate(model)}
    return {**model, **{token["content"]: token["id"] for token in added}}


def _sentencepiece_tokens(folder: Path) -> dict[str, int]:
    # SentencePiece takes a while to load, and most models have no use for it.
    from quantkit.vocab.model_proto import read_model

    pieces = {text: number for number, (text, _, _) in enumerate(read_model(folder / "tokenizer.model").pieces)}
    added = folder / "added_tokens.json"
    decoder = _tokenizer_config(folder).get("added_tokens_decoder") or {}
    return {
        **pieces,
        **(read_json(added) if added.is_file() else {}),
        **{token["content"]: int(number) for number, token in decoder.items()},
    }


def _padding_note(base: Path, adapters: Sequence[Path], rows: int) -> str:
    """Why no tokenizer beside the adapter is needed: the rows that differ have no tokens."""
    tokens = _tokens(base)
    names = ", ".join(map(str, adapters))
    count = None if tokens is None else max(tokens.values(), default=-1) + 1
    if count is not None and rows in (count, *(-(-count // padding) * padding for padding in _PADDINGS)):
        return f"the embedding is resized to {rows} rows; the base's tokenizer has {count} tokens, the rest is padding"
    raise VocabularyError(
        f"{names}: the embedding is resized to {rows} rows, "
        + (f"the base's tokenizer has {count} tokens" if count is not None else f"{base} has another vocabulary")
        + ", and no tokenizer is beside the adapter: what the rows stand for is not known",
        hint=f"copy the tokenizer that it was trained with (tokenizer.json, tokenizer_config.json) into {adapters[-1]}",
    )


def is_tokenizer_file(name: str) -> bool:
    """Whether a file belongs to the tokenizer, by its name."""
    return _matches(name, _FILES)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _matching(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """The files of a folder with such names, in order."""
    return (file for file in sorted(folder.iterdir()) if _matches(file.name, patterns) and file.is_file())


def write_tokenizer(choice: TokenizerChoice, folder: Path) -> None:
    """Write the tokenizer's files into *folder*, with the chat templates that count.

    Raises:
        CheckpointError: tokenizer_config.json is broken.
    """
    templates = choice.templates
    for file in _matching(choice.folder, _FILES):
        if templates == choice.folder or not _matches(file.name, _TEMPLATES):
            shutil.copyfile(file, folder / file.name)
    for file in _matching(templates, _TEMPLATES):
        shutil.copyfile(file, folder / file.name)
    if (templates / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(templates / TEMPLATE_FOLDER, folder / TEMPLATE_FOLDER, ignore=shutil.ignore_patterns(".*"))
    if templates == choice.folder:
        return
    config = _tokenizer_config(choice.folder)
    config.pop("chat_template", None)
    if (template := _tokenizer_config(templates).get("chat_template")) is not None:
        config["chat_template"] = template
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}
