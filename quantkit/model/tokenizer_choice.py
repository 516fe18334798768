"""Whose tokenizer counts: the base's, or the one that was saved beside an adapter.

Trainers save the tokenizer with the adapter. Where it numbers the tokens in another way than the base's, the model was
trained on it, and everything that a tokenizer says (tokens, special tokens, chat template) is taken from there. Where
the tokens are the same, the base's files stay, and only a chat template of the adapter's own is taken, with the end
token that is named beside it: it is what the conversations were written in.

Of several adapters, those with the base's tokens and chat template decide nothing. Two that number the tokens in ways
of their own cannot be merged; of two chat templates the last counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.files.json_file import read_json
from quantkit.hub.source import source_name
from quantkit.hub.tokenizer_files import ADDED_TOKENS, VOCABULARIES, matching
from quantkit.vocab.files import read_tokenizer_config
from quantkit.vocab.post_processor import token_text
from quantkit.vocab.templates import read_templates

# Tokens whose names are compared, and that which goes with the chat template.
_NAMED, _END = ("bos_token", "eos_token", "pad_token"), "eos_token"
# Rows of an embedding are rounded up to multiples of these, for speed.
_PADDINGS = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class TokenizerChoice:
    """Where the tokenizer is.

    Attributes:
        folder: with the files that count.
        templates: folder whose chat templates count.
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
) -> TokenizerChoice:
    """Choose between the base's tokenizer and those beside the adapters.

    Args:
        base: the checkpoint's folder.
        adapters: the adapters' folders, in the order in which they are merged.
        rows: of the embedding, where the adapters have resized it; None where it is as in the base.
        own: rows of the base's embedding, None where they are not known.
        resizing: those of the adapters that have an embedding of *rows* rows; None for all.

    Raises:
        VocabularyError: two adapters have different tokenizers of their own; or the embedding was resized, no tokenizer
            is beside the adapter, and the base's does not fit.
    """
    beside = [folder for folder in adapters if next(matching(folder, VOCABULARIES), None) is not None]
    fitting = [folder for folder in beside if rows is not None and (resizing is None or folder in resizing)]
    padded = () if rows is None or fitting else (_padding_note(base, adapters, rows),)
    if not beside:
        return TokenizerChoice(base, base, padded)
    chosen, notes = _choose_tokens(base, beside, own if rows is None else None)
    if fitting:
        last = fitting[-1]
        if chosen != base and _differ(_tokens(chosen), _tokens(last)):
            raise _two_tokenizers(chosen, last)
        chosen = last
        notes = (f"the vocabulary is resized to {rows}: the tokenizer of {source_name(last)} is used",)
    templates, said = _choose_templates(base, chosen, beside)
    special, named = _choose_special(base, templates, beside) if chosen == base else ({}, ())
    return TokenizerChoice(chosen, templates, (*padded, *notes, *said, *named), special)


def _choose_tokens(base: Path, beside: Sequence[Path], own: int | None) -> tuple[Path, tuple[str, ...]]:
    """The one tokenizer that numbers its tokens in another way than the base's, or the base's; and why."""
    ours, chosen = _tokens(base), base
    left_out, used = [], []
    for folder in beside:
        theirs = _tokens(folder)
        # Of different kinds: the sizes agree, and so do the base's files with its config.
        if ours is None or theirs is None or ours == theirs:
            continue
        changed = sorted(theirs.items() - ours.items(), key=lambda token: token[1])
        if own is not None and ours.items() <= theirs.items() and all(number >= own for _, number in changed):
            left_out.append(
                f"{changed[0][0]!r} ({changed[0][1]}) of the tokenizer of {source_name(folder)} has no row in the "
                "embedding, so the base's tokenizer is used"
            )
            continue
        if chosen != base and _differ(_tokens(chosen), theirs):
            raise _two_tokenizers(chosen, folder)
        what = f"such as {changed[0][0]!r} ({changed[0][1]})" if changed else "some of the base's are gone"
        used = [f"{source_name(folder)} was trained with a tokenizer of its own ({what}): it is used"]
        chosen = folder
    return chosen, tuple(left_out if chosen == base else used)


def _differ(ours: Mapping[str, int] | None, theirs: Mapping[str, int] | None) -> bool:
    return ours is not None and theirs is not None and ours != theirs


def _two_tokenizers(one: Path, other: Path) -> VocabularyError:
    return VocabularyError(
        f"{one} and {other}: were trained with tokenizers that number the tokens differently: no tokenizer fits both",
        hint="build from one of them, or train them with one tokenizer",
    )


def _choose_templates(base: Path, chosen: Path, beside: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    """The folder of the chat template: of those that are not the base's the last, else beside the tokenizer."""
    ours = _templates(base)
    others = [folder for folder in beside if (found := _templates(folder))[0] is not None and found != ours]
    if not others:
        return chosen, ()
    last = others[-1]
    notes = []
    if any(_templates(folder) != _templates(last) for folder in others):
        names = ", ".join(map(source_name, others))
        notes.append(f"{names} have different chat templates: that of the last is used")
    if last == chosen or _templates(last) == _templates(chosen):
        return chosen, tuple(notes)
    notes.append(f"the chat template is that of {source_name(last)}, which it was trained with, not the base's")
    return last, tuple(notes)


def _templates(folder: Path) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    found = read_templates(folder, read_tokenizer_config(folder))
    return found.default, found.named


def _choose_special(base: Path, templates: Path, beside: Sequence[Path]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The end token beside the chat template where it is not the base's, and what else the adapters name otherwise."""
    ours, special, notes = _named(base), {}, []
    for folder in beside:
        theirs = {kind: text for kind, text in _named(folder).items() if text != ours.get(kind)}
        if folder == templates and (end := theirs.pop(_END, None)) is not None:
            special = {_END: end}
            notes.append(f"the end token is {end!r}, as beside the chat template of {source_name(folder)}")
        if theirs:
            names = ", ".join(f"{kind} {text!r}" for kind, text in theirs.items())
            notes.append(f"{source_name(folder)} names other special tokens than the base ({names}): the base's stay")
    return special, tuple(notes)


def _named(folder: Path) -> dict[str, str]:
    """The special tokens that tokenizer_config.json names, by setting."""
    config = read_tokenizer_config(folder)
    return {kind: text for kind in _NAMED if (text := token_text(config.get(kind))) is not None}


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
    added = folder / ADDED_TOKENS
    decoder = read_tokenizer_config(folder).get("added_tokens_decoder") or {}
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
