"""Vocabularies of SentencePiece: tokenizer.model, and the tokenizer.json that the models have beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quantkit.files.json_file import read_json
from tests.support.chat_templates import MISTRAL, template_file
from tests.support.gguf_read import read_gguf
from tests.support.reference import reference_folder
from tests.support.sentencepiece_model import (
    ALL_GEMMA_SYMBOLS,
    CONTROL,
    GEMMA_TURNS,
    NORMAL,
    RowRange,
    gemma_model,
    merges,
    model_file,
    read_pieces,
    whole_gemma_model,
)
from tests.support.tokenizer_parts import added_token, begin_of_text, decoder_entries, write_json

JSON_ALONE = {"llama-hf": "llama-spm", "phi-3-hf": "phi-3", "gemma-hf": "gemma-spm"}
"""Vocabularies without their tokenizer.model, as transformers 5 saves them."""
_GEMMA = {"gemma-spm": gemma_model, "gemma-whole": whole_gemma_model}
NAMES = ("llama-spm", "phi-3", *_GEMMA, *JSON_ALONE)
"""Llama-2's files, Phi-3's, Gemma's with a trained vocabulary, or with Gemma's ids of special tokens too, and the
tokenizer.json of each alone."""

SMALL_MERGED, SMALL_CHARACTERS = 1500, 500
_FRAME: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None}
_FIRST_OF_LLAMA = ("<unk>", "<s>", "</s>")


def write_sentencepiece(
    folder: Path, name: str, *, small: bool, extra: Sequence[str], ordinary: Sequence[tuple[str, str]]
) -> None:
    """Write the files of vocabulary *name*; see :func:`tests.support.vocabularies.write_vocabulary`."""
    if name in JSON_ALONE:
        write_sentencepiece(folder, JSON_ALONE[name], small=small, extra=extra, ordinary=ordinary)
        return _leave_json_alone(folder)
    if name in _GEMMA:
        if ordinary:
            raise ValueError("Gemma's model is trained; it takes no further pieces")
        return _write_gemma(folder, extra, _GEMMA[name]())
    pieces = [*_llama_pieces(small), *((left + right, 0.0, NORMAL) for left, right in ordinary)]
    tokens = [(text, True) for text in _FIRST_OF_LLAMA]
    if name == "phi-3":
        tokens[2] = ("</s>", False)
        tokens += [(text, True) for text in _phi_added()]
    tokens += [(text, False) for text in extra]
    added = []
    for number, (text, special) in enumerate(tokens):
        place = number if number < len(_FIRST_OF_LLAMA) else len(pieces) + number - len(_FIRST_OF_LLAMA)
        strip = "r" if name == "phi-3" and number >= len(_FIRST_OF_LLAMA) + 1 else ""
        token = added_token(text, special, strip=strip, normalized=False)
        if (name, text) == ("phi-3", "</s>"):
            token["rstrip"] = True
        added.append({**token, "id": place})
    (folder / "tokenizer.model").write_bytes(model_file(pieces))
    write_json(folder / "tokenizer.json", _llama_json(pieces, added), indent=1 if small else None)
    config = _phi_config() if name == "phi-3" else _llama_config()
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder_entries(added), **config})
    if extra:
        write_json(folder / "added_tokens.json", {token["content"]: token["id"] for token in added[-len(extra) :]})
    return None


def _leave_json_alone(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()
    (folder / "added_tokens.json").unlink(missing_ok=True)
    config = read_json(folder / "tokenizer_config.json")
    listed = config.pop("additional_special_tokens", None)
    del config["added_tokens_decoder"]
    write_json(folder / "tokenizer_config.json", config | ({"extra_special_tokens": listed} if listed else {}))


@cache
def _llama_pieces(small: bool) -> tuple[RowRange, ...]:
    metadata = read_gguf(reference_folder() / "models" / "ggml-vocab-llama-spm.gguf").metadata
    columns = (metadata[f"tokenizer.ggml.{key}"].value for key in ("tokens", "scores", "token_type"))
    pieces: list[RowRange] = list(zip(*columns, strict=True))
    if not small:
        return tuple(pieces)
    # Llama's pieces: special ones and bytes, merged ones by score, single characters.
    first = next(i for i, piece in enumerate(pieces) if piece[2] == NORMAL)
    characters = next(i for i in range(first + 1, len(pieces)) if len(pieces[i][0]) == 1)
    kept = [*pieces[: first + SMALL_MERGED], *pieces[characters : characters + SMALL_CHARACTERS]]
    return tuple((text, score, kind) for text, score, kind in kept)


def _phi_added() -> tuple[str, ...]:
    metadata = read_gguf(reference_folder() / "models" / "ggml-vocab-phi-3.gguf").metadata
    pairs = zip(metadata["tokenizer.ggml.tokens"].value, metadata["tokenizer.ggml.token_type"].value, strict=True)
    return tuple(text for text, kind in pairs if kind == CONTROL and text not in _FIRST_OF_LLAMA)


def _llama_json(pieces: Sequence[RowRange], added: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """tokenizer.json as of Llama-2: a blank before every text, blanks as U+2581, bytes where there is no piece."""
    blank = {"String": " "}
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": blank, "content": "▁"}]
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {
        **_FRAME,
        "added_tokens": list(added),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": begin_of_text("<s>", 1),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(pieces, "<unk>"),
    }


def _model(pieces: Sequence[RowRange], unknown: str) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {text: number for number, (text, _, _) in enumerate(pieces)},
        "merges": merges(pieces),
    }


def _llama_config() -> dict[str, Any]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "chat_template": MISTRAL,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": True,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": None,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


def _phi_config() -> dict[str, Any]:
    return {
        **_llama_config(),
        "chat_template": template_file("microsoft-Phi-3.5-mini-instruct"),
        "eos_token": "<|endoftext|>",
        "legacy": False,
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
    }


def _write_gemma(folder: Path, extra: Sequence[str], model: bytes) -> None:
    pieces = read_pieces(model)
    special = ("<pad>", "<eos>", "<bos>", "<unk>", *GEMMA_TURNS)
    names = [text for text, _, _ in pieces if text in (*special, *ALL_GEMMA_SYMBOLS)]
    known = {text: number for number, (text, _, _) in enumerate(pieces)}
    added = [{**added_token(text, text in special, normalized=False), "id": known[text]} for text in names]
    added += [{**added_token(text, False, normalized=False), "id": len(pieces) + i} for i, text in enumerate(extra)]
    (folder / "tokenizer.model").write_bytes(model)
    write_json(folder / "tokenizer.json", _gemma_json(pieces, added))
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder_entries(added),
        "additional_special_tokens": list(GEMMA_TURNS),
        "bos_token": "<bos>",
        "chat_template": template_file("google-gemma-2-2b-it"),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    write_json(folder / "tokenizer_config.json", config)


def _gemma_json(pieces: Sequence[RowRange], added: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """tokenizer.json as of Gemma-2: no blank before the text; words begin with their blank."""
    blank = {"String": " "}
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return {
        **_FRAME,
        "added_tokens": list(added),
        "normalizer": {"type": "Replace", "pattern": blank, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": blank, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": begin_of_text("<bos>", 2),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(pieces, "<unk>"),
    }
