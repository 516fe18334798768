"""Chooses the tokenizer: the base's, or the one that was saved with an adapter.

Trainers save the tokenizer with the adapter. If its token ids differ from the base's, the model was trained with it, so
everything (tokens, special tokens, chat template) comes from there. If the tokens are the same, the base's files are
used; only a different chat template comes from the adapter, with the end-of-sequence token that is saved with it,
because the training conversations were written in it, whichever of the tokenizer's files lie beside it.

Of several adapters, those with the base's tokens and chat template do not matter. Two adapters with different token ids
of their own cannot be merged; of two different chat templates, the last is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.files.json_file import read_json
from quantkit.hub.source import source_name
from quantkit.hub.tokenizer_files import ADDED_TOKENS, VOCAB_JSON, has_vocabulary
from quantkit.model.beside_adapter import incomplete_notes, speaks
from quantkit.vocab.files import ParsedFiles, checked_ids, read_tokenizer_config
from quantkit.vocab.post_processor import token_text
from quantkit.vocab.slow_bpe import slow_tokens
from quantkit.vocab.templates import read_templates
from quantkit.vocab.tiktoken import byte_text, holds_ranks, read_ranks

# Special tokens that are compared, and the one that goes with the chat template.
_NAMED, _END = ("bos_token", "eos_token", "pad_token"), "eos_token"
# The number of embedding rows is often rounded up to a multiple of one of these, for speed.
_PADDINGS = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class TokenizerChoice:
    """Where the tokenizer is.

    Attributes:
        folder: the folder with its files.
        templates: the folder with its chat templates.
        special: settings of tokenizer_config.json that replace those of *folder*.
        notes: decisions the user should see.
    """

    folder: Path
    templates: Path
    notes: tuple[str, ...] = ()
    special: Mapping[str, str] = field(default_factory=dict)


def choose_tokenizer(
    base: Path,
    adapters: Sequence[Path],
    rows: int | None,
    own: int | None = None,
    resizing: Collection[Path] | None = None,
    parsed: ParsedFiles | None = None,
) -> TokenizerChoice:
    """Choose between the base's tokenizer and those in the adapters' folders.

    Args:
        base: the checkpoint's folder.
        adapters: the adapters' folders, in the order in which they are merged.
        rows: number of embedding rows, if the adapters have resized it; None if it is as in the base.
        own: number of rows of the base's embedding; None if unknown.
        resizing: the adapters with an embedding of *rows* rows; None for all.
        parsed: reads tokenizer.json, and keeps it for the vocabulary.

    Raises:
        VocabularyError: two adapters have different tokenizers; or the embedding was resized, the adapter's folder has
            no tokenizer, and the base's does not fit.
    """
    parsed = parsed or ParsedFiles()
    beside = [folder for folder in adapters if has_vocabulary(folder)]
    speaking = [folder for folder in adapters if speaks(folder)]
    fitting = [folder for folder in beside if rows is not None and (resizing is None or folder in resizing)]
    padded = () if rows is None or fitting else (_padding_note(base, adapters, rows, parsed),)
    if not speaking and not beside:
        return TokenizerChoice(base, base, padded)
    chosen, notes = _choose_tokens(base, beside, own if rows is None else None, parsed)
    if fitting:
        last = fitting[-1]
        if chosen != base and _differ(_tokens(chosen, parsed), _tokens(last, parsed)):
            raise _two_tokenizers(chosen, last)
        chosen = last
        notes = (f"the vocabulary was resized to {rows} rows: the tokenizer of {source_name(last)} is used",)
    incomplete = tuple(incomplete_notes(adapters, lambda: _tokens(chosen, parsed), own if rows is None else rows))
    templates, said = _choose_templates(base, chosen, speaking)
    special, named = _choose_special(base, templates, speaking) if chosen == base else ({}, ())
    return TokenizerChoice(chosen, templates, (*padded, *notes, *incomplete, *said, *named), special)


def _choose_tokens(
    base: Path, beside: Sequence[Path], own: int | None, parsed: ParsedFiles
) -> tuple[Path, tuple[str, ...]]:
    """The one tokenizer whose token ids differ from the base's, or the base's; and notes about it."""
    ours, chosen = _tokens(base, parsed), base
    left_out, used = [], []
    for folder in beside:
        theirs = _tokens(folder, parsed)
        # None means another kind of tokenizer: the sizes agree, so the base's files stay.
        if ours is None or theirs is None or ours == theirs:
            continue
        changed = sorted(theirs.items() - ours.items(), key=lambda token: token[1])
        if own is not None and ours.items() <= theirs.items() and all(number >= own for _, number in changed):
            left_out.append(
                f"{changed[0][0]!r} ({changed[0][1]}) in the tokenizer of {source_name(folder)} has no row in the "
                "embedding, so the base's tokenizer is used"
            )
            continue
        if chosen != base and _differ(_tokens(chosen, parsed), theirs):
            raise _two_tokenizers(chosen, folder)
        what = f"such as {changed[0][0]!r} ({changed[0][1]})" if changed else "some of the base's tokens are missing"
        used = [f"the tokenizer of {source_name(folder)} is used: its tokens differ from the base's ({what})"]
        chosen = folder
    return chosen, tuple(left_out if chosen == base else used)


def _differ(ours: Mapping[str, int] | None, theirs: Mapping[str, int] | None) -> bool:
    return ours is not None and theirs is not None and ours != theirs


def _two_tokenizers(one: Path, other: Path) -> VocabularyError:
    return VocabularyError(
        f"{one} and {other}: the adapters were trained with tokenizers that have different token ids",
        hint="build with only one of them, or train both with one tokenizer",
    )


def _choose_templates(base: Path, chosen: Path, beside: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    """The folder of the chat template: of the last adapter whose template is not the base's, or of the tokenizer."""
    ours = _templates(base)
    others = [folder for folder in beside if (found := _templates(folder))[0] is not None and found != ours]
    if not others:
        return chosen, ()
    last = others[-1]
    notes = []
    if any(_templates(folder) != _templates(last) for folder in others):
        names = ", ".join(map(source_name, others))
        notes.append(f"{names} have different chat templates: the last one is used")
    if last == chosen or _templates(last) == _templates(chosen):
        return chosen, tuple(notes)
    notes.append(f"the chat template of {source_name(last)} is used, because the adapter was trained with it")
    return last, tuple(notes)


def _templates(folder: Path) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    found = read_templates(folder, read_tokenizer_config(folder))
    return found.default, found.named


def _choose_special(base: Path, templates: Path, beside: Sequence[Path]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The end-of-sequence token of the chat template, if it differs from the base's; and notes about other tokens."""
    ours, special, notes = _named(base), {}, []
    for folder in beside:
        theirs = {kind: text for kind, text in _named(folder).items() if text != ours.get(kind)}
        if folder == templates and (end := theirs.pop(_END, None)) is not None:
            special = {_END: end}
            notes.append(
                f"the end-of-sequence token is {end!r}, which belongs to the chat template of {source_name(folder)}"
            )
        if theirs:
            names = ", ".join(f"{kind} {text!r}" for kind, text in theirs.items())
            notes.append(
                f"{source_name(folder)} has special tokens that differ from the base's ({names}): the base's are used"
            )
    return special, tuple(notes)


def _named(folder: Path) -> dict[str, str]:
    """The special tokens in tokenizer_config.json, by setting."""
    config = read_tokenizer_config(folder)
    return {kind: text for kind in _NAMED if (text := token_text(config.get(kind))) is not None}


def _tokens(folder: Path, parsed: ParsedFiles) -> dict[str, int] | None:
    """The id of every token; None for a tokenizer that is in none of the common files."""
    if (folder / "tokenizer.json").is_file():
        path = folder / "tokenizer.json"
    elif (folder / "tokenizer.model").is_file():
        path = folder / "tokenizer.model"
    else:
        path = folder / VOCAB_JSON
    try:
        if path.name == VOCAB_JSON:
            slow = slow_tokens(folder)
            return None if slow is None else checked_ids(slow)
        read = _json_tokens(parsed.read(path)) if path.suffix == ".json" else _sentencepiece_tokens(folder)
        return checked_ids(read)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VocabularyError(f"{path}: broken ({type(error).__name__}: {error})") from None


def _json_tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    model, added = tokenizer["model"]["vocab"], tokenizer.get("added_tokens") or []
    if not isinstance(model, Mapping):  # Unigram: pairs of text and score, in the order of the ids
        model = {text: number for number, (text, _) in enumerate(model)}
    return {**model, **{token["content"]: token["id"] for token in added}}


def _sentencepiece_tokens(folder: Path) -> dict[str, int]:
    # SentencePiece takes a while to load, and most models do not need it.
    from quantkit.vocab.model_proto import read_model

    path = folder / "tokenizer.model"
    if holds_ranks(path):  # of GLM-4
        pieces = {byte_text(token): rank for token, rank in read_ranks(path).items()}
    else:
        pieces = {text: number for number, (text, _, _) in enumerate(read_model(path).pieces)}
    added = folder / ADDED_TOKENS
    decoder = read_tokenizer_config(folder).get("added_tokens_decoder") or {}
    return {
        **pieces,
        **(read_json(added) if added.is_file() else {}),
        **{token["content"]: int(number) for number, token in decoder.items()},
    }


def _padding_note(base: Path, adapters: Sequence[Path], rows: int, parsed: ParsedFiles) -> str:
    """The note that the adapter needs no tokenizer, because the added rows are padding.

    Raises:
        VocabularyError: the added rows may have tokens.
    """
    tokens = _tokens(base, parsed)
    names = ", ".join(map(str, adapters))
    count = None if tokens is None else max(tokens.values(), default=-1) + 1
    if count is not None and rows in (count, *(-(-count // padding) * padding for padding in _PADDINGS)):
        return f"the embedding was resized to {rows} rows; the base's tokenizer has {count} tokens, the rest is padding"
    raise VocabularyError(
        f"{names}: the embedding was resized to {rows} rows, "
        + (f"the base's tokenizer has {count} tokens" if count is not None else f"{base} has another vocabulary")
        + ", and the adapter's folder has no tokenizer, so the tokens of the other rows are unknown",
        hint=f"copy the tokenizer from the training (tokenizer.json, tokenizer_config.json) into {adapters[-1]}",
    )
