"""Special tokens: their ids, whether BOS and EOS are added, and every token that ends a turn.

The rules for ids and ``add_bos`` are those of ``SpecialVocab`` in llama.cpp's gguf-py, so the metadata is equal. One
thing is added: an end-of-turn token that generation_config.json (or config.json) names, and that llama.cpp would not
recognize by its text, becomes ``eot_token_id``, because a model that cannot stop is broken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.checkpoint.language_part import language_part
from quantkit.errors import VocabularyError
from quantkit.gguf.kv import KV, boolean, u32
from quantkit.vocab.post_processor import KINDS, PostProcessor, read_around, token_text

# Tokens that end an answer in llama.cpp by their text, whatever the metadata says (llama-vocab.cpp).
ENDS_BY_NAME = frozenset(
    [
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>"),
        *("<EOT>", "<turn|>", "<|tool_response>", "<|return|>", "<|call|>"),
    ]
)
# Kinds of byte-level BPE for which llama.cpp adds BOS if the metadata does not say (llama-vocab.cpp).
_BPE_WITH_BOS = frozenset(
    [
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        *("tekken", "chameleon"),
    ]
)
# Metadata keys that can take more end-of-turn tokens.
SPARE_ENDS = ("eot", "eom")
# The GGUF key of a kind where it is not "<kind>_token_id".
_KEYS = {
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}
# GGUF has no key for the id of the first kind, and has keys that say whether the others are added.
_WITHOUT_KEY = "cls"
_ADDED = ("bos", "eos", "sep")


def special_metadata(
    tokenizer: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    texts: Sequence[str],
    *,
    fallback: Mapping[str, int] | None = None,
    further: Mapping[str, int] | None = None,
    own: Mapping[str, int] | None = None,
) -> list[KV]:
    """The metadata for special tokens.

    Args:
        tokenizer: tokenizer.json.
        tokenizer_config: tokenizer_config.json.
        config: config.json.
        generation_config: generation_config.json; empty if there is none.
        texts: the texts of all tokens, by id.
        fallback: ids by kind for a tokenizer whose files name none; its ``unk`` is used whatever they name.
        further: ids of additional kinds, used if tokenizer_config.json names no token.
        own: ids by kind that count whatever the files name.

    Raises:
        VocabularyError: an id is out of range.
    """
    around = read_around(tokenizer, tokenizer_config)
    ids = _ids(tokenizer, around, config)
    if fallback:
        ids = ids or {kind: number for kind, number in fallback.items() if kind != "unk"}
        ids.setdefault("unk", fallback["unk"])
    for kind, token in ids.items():
        file = "config.json" if _in_config(config, kind) == token else "tokenizer.json"
        _check_range(file, kind, token, texts)
    ids |= _further(tokenizer, tokenizer_config, further or {}, texts)
    ids |= own or {}
    ids |= _ends(config, generation_config, ids, texts)
    add = dict(around.added)
    for kind in _ADDED:
        value = tokenizer_config.get(f"add_{kind}_token")
        if isinstance(value, bool):
            add.setdefault(kind, value)
    entries = [u32(_KEYS.get(kind, f"tokenizer.ggml.{kind}_token_id"), token) for kind, token in ids.items()]
    return entries + [boolean(f"tokenizer.ggml.add_{kind}_token", value) for kind, value in add.items()]


def _ends(
    config: Mapping[str, Any], generation_config: Mapping[str, Any], ids: Mapping[str, int], texts: Sequence[str]
) -> dict[str, int]:
    """Metadata keys for the end-of-turn tokens that llama.cpp would not recognize otherwise.

    These are the tokens in generation_config.json or, if it names none, in config.json: transformers derives the
    missing one from the other.
    """
    file, ends = "generation_config.json", end_tokens(generation_config)
    if not ends:
        file, ends = "config.json", end_tokens(config)
    for token in ends:
        _check_range(file, "eos", token, texts)
    known = {ids.get(kind) for kind in ("eos", *SPARE_ENDS)}
    unknown = [end for end in ends if end not in known and texts[end] not in ENDS_BY_NAME]
    spare = [kind for kind in SPARE_ENDS if kind not in ids]
    if len(unknown) > len(spare):
        raise VocabularyError(
            f"{file}: eos_token_id has {len(ends)} tokens; GGUF has no key left for {texts[unknown[-1]]!r}",
            hint="keep only the tokens in eos_token_id that really end an answer",
        )
    return dict(zip(spare, unknown, strict=False))


def adds_bos(metadata: Mapping[str, Any]) -> bool:
    """Whether llama.cpp adds BOS before a prompt, whatever the prompt begins with.

    Args:
        metadata: a file's ``tokenizer.*`` keys and values.
    """
    said = metadata.get("tokenizer.ggml.add_bos_token")
    if isinstance(said, bool):
        return said
    by_kind = metadata.get("tokenizer.ggml.model") in ("llama", "bert")
    return by_kind or metadata.get("tokenizer.ggml.pre") in _BPE_WITH_BOS


def _check_range(file: str, kind: str, token: int, texts: Sequence[str]) -> None:
    if token >= len(texts):
        raise VocabularyError(f"{file}: {kind}_token_id {token} is outside the vocabulary of {len(texts)} tokens")


def end_tokens(config: Mapping[str, Any]) -> list[int]:
    """The ids in ``eos_token_id`` of a config: none, one or several."""
    value = config.get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    return [token for token in dict.fromkeys(values) if isinstance(token, int) and token >= 0]


def special_texts(tokenizer_config: Mapping[str, Any]) -> set[str]:
    """The tokens that tokenizer_config.json names as special, by kind or in a list."""
    lists = (tokenizer_config.get(key) or () for key in ("additional_special_tokens", "extra_special_tokens"))
    listed = (entry for entries in lists for entry in (entries.values() if isinstance(entries, Mapping) else entries))
    named = (tokenizer_config.get(f"{kind}_token") for kind in KINDS)
    return {text for text in map(token_text, (*named, *listed)) if text is not None}


def _added_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    by_text: dict[str, int] = {}
    for token in tokenizer.get("added_tokens") or ():
        by_text.setdefault(token["content"], token["id"])
    return by_text


def _ids(tokenizer: Mapping[str, Any], around: PostProcessor, config: Mapping[str, Any]) -> dict[str, int]:
    """The ids by kind: of the token that tokenizer_config.json names, else the id in config.json."""
    by_text = _added_ids(tokenizer)
    ids: dict[str, int] = {}
    for kind in KINDS:
        text = around.named.get(kind)
        if text is not None and text in by_text:
            ids[kind] = by_text[text]
    for kind in KINDS:
        value = _in_config(config, kind)
        if value is not None:
            ids.setdefault(kind, value)
    return {kind: number for kind, number in ids.items() if kind != _WITHOUT_KEY}


def _in_config(config: Mapping[str, Any], kind: str) -> int | None:
    """The id in config.json: at its root or, for a model with several parts, in the text model's config."""
    value = config.get(f"{kind}_token_id")
    if value is None:
        value = language_part(config).get(f"{kind}_token_id")
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _further(
    tokenizer: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    further: Mapping[str, int],
    texts: Sequence[str],
) -> dict[str, int]:
    by_text = _added_ids(tokenizer)
    named = {kind: token_text(tokenizer_config.get(f"{kind}_token")) for kind in further}
    ids = {kind: by_text.get(named[kind] or "", number) for kind, number in further.items()}
    for kind, token in ids.items():
        _check_range("tokenizer.json", kind, token, texts)
    return ids
