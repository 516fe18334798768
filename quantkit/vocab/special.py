"""Special tokens: their ids, whether BOS and EOS are added, and every token that ends a turn.

The rules for ids and ``add_bos`` are those of ``SpecialVocab`` in llama.cpp's gguf-py, so that the metadata is equal.
One thing is added: an end token that generation_config.json names, and that llama.cpp would not take for one by its
name, becomes ``eot_token_id``, because a model that cannot stop is broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.errors import VocabularyError
from quantkit.gguf_header import KV, boolean, u32

# The token types SpecialVocab looks for, and the GGUF key of each where it is not "<type>_token_id".
_TYPES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Tokens that llama.cpp ends an answer at by their text, whatever the metadata says (llama-vocab.cpp).
ENDS_BY_NAME = frozenset(
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>", "<EOT>"]
)
# Where further end tokens find room in the metadata.
_SPARE_ENDS = ("eot", "eom")
_KEYS = {
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}


def special_metadata(
    tokenizer: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    texts: Sequence[str],
) -> list[KV]:
    """The entries for special tokens.

    Args:
        tokenizer: tokenizer.json.
        tokenizer_config: tokenizer_config.json.
        config: config.json.
        generation_config: generation_config.json, empty when there is none.
        texts: of all tokens, by id.

    Raises:
        VocabularyError: an id that is out of range.
    """
    ids = _ids(tokenizer, tokenizer_config, config)
    add = _added_by_template(tokenizer, tokenizer_config)
    for kind in _TYPES:
        value = tokenizer_config.get(f"add_{kind}_token")
        if isinstance(value, bool):
            add.setdefault(kind, value)
    for kind, token in ids.items():
        file = "config.json" if config.get(f"{kind}_token_id") == token else "tokenizer.json"
        _check_range(file, kind, token, texts)
    for token in end_tokens(generation_config):
        _check_range("generation_config.json", "eos", token, texts)
    ends = end_tokens(generation_config)
    unknown = [end for end in ends if end != ids.get("eos") and texts[end] not in ENDS_BY_NAME]
    if len(unknown) > len(_SPARE_ENDS):
        raise VocabularyError(
            f"generation_config.json: {len(ends)} end tokens; a GGUF file has no room for {texts[unknown[-1]]!r}",
            hint="leave the tokens that really end an answer in eos_token_id",
        )
    ids |= zip(_SPARE_ENDS, unknown, strict=False)
    entries = [u32(_KEYS.get(kind, f"tokenizer.ggml.{kind}_token_id"), token) for kind, token in ids.items()]
    return entries + [boolean(f"tokenizer.ggml.add_{kind}_token", value) for kind, value in add.items()]


def _check_range(file: str, kind: str, token: int, texts: Sequence[str]) -> None:
    if token >= len(texts):
        raise VocabularyError(f"{file}: {kind}_token_id {token} is outside the vocabulary of {len(texts)} tokens")


def end_tokens(generation_config: Mapping[str, Any]) -> list[int]:
    """The ids in ``eos_token_id`` of a generation config: one, several or none."""
    value = generation_config.get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    return [token for token in dict.fromkeys(values) if isinstance(token, int) and token >= 0]


def token_text(entry: Any) -> str | None:
    """The text of a token in tokenizer_config.json, which is a string or an object with ``content``."""
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _ids(
    tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, int]:
    """By kind: the token tokenizer_config.json names, else the id in config.json."""
    by_text: dict[str, int] = {}
    for token in tokenizer.get("added_tokens") or ():
        by_text.setdefault(token["content"], token["id"])
    ids: dict[str, int] = {}
    for kind in _TYPES:
        text = token_text(tokenizer_config.get(f"{kind}_token"))
        if text is not None and text in by_text:
            ids[kind] = by_text[text]
    for kind in _TYPES:
        value = config.get(f"{kind}_token_id")
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            ids.setdefault(kind, value)
    return ids


def _added_by_template(tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> dict[str, bool]:
    """What the post-processor puts around a text, by kind."""
    add: dict[str, bool] = {}
    post = tokenizer.get("post_processor") or {}
    steps: Sequence[Mapping[str, Any]] = post.get("processors", [post])
    for step in steps:
        if step.get("type") == "ByteLevel":
            add.setdefault("bos", False)
            add.setdefault("eos", False)
        elif step.get("type") == "TemplateProcessing":
            _read_template(step, tokenizer_config, add)
    return add


def _read_template(step: Mapping[str, Any], tokenizer_config: Mapping[str, Any], add: dict[str, bool]) -> None:
    single, pair = step.get("single") or [], step.get("pair") or []
    first, last = (_special(piece) for piece in (single[0], single[-1])) if len(single) > 1 else (None, None)
    for kind, special in (("bos", first), ("eos", last)):
        if special is None:
            continue
        named = token_text(tokenizer_config.get(f"{kind}_token"))
        if named is not None and special != named:
            raise VocabularyError(
                f"tokenizer.json adds {special!r} around texts, tokenizer_config.json names {named!r} as {kind}_token",
                hint="save the tokenizer again with transformers",
            )
        add[kind] = True
    # Between two texts: what is left of the pair's template without its ends.
    begin = 1 if first and pair and _special(pair[0]) == first else 0
    end = -1 if last and pair and _special(pair[-1]) == last else None
    inner = pair[begin:end]
    if len(inner) > 2 and [piece.get("Sequence", {}).get("id") for piece in (inner[0], inner[-1])] == ["A", "B"]:
        separators = {token_text(tokenizer_config.get(f"{kind}_token")) for kind in ("sep", "eos")} - {None}
        middle = [_special(piece) for piece in inner[1:-1]]
        add["sep"] = bool((middle[0] in separators and not last) or (len(middle) == 2 and middle[1] in separators))


def _special(piece: Mapping[str, Any]) -> str | None:
    text = piece.get("SpecialToken", {}).get("id")
    return text if isinstance(text, str) else None
