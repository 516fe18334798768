"""A GGUF file of a few megabytes whose answers are known beforehand.

The model is a real Llama to llama.cpp, with a byte-level BPE vocabulary, the special tokens of Llama 3 and a chat
template. Its one layer adds nothing and its embeddings are one-hot, so the next token is a function of the last one
alone: the output matrix is the table. An answer may hold each token once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import pre_tokenizers

LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ENDLESS = 32768  # tokens that a tiny model takes minutes for
ANSWER = "Hi 🙂你!"

BOS, EOT = "<|begin_of_text|>", "<|eot_id|>"
SPECIAL = (BOS, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", EOT, "<|done|>", "<eos>")
THINK, END_THINK = "<think>", "</think>"
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "我", "n": 2}}\n</tool_call>'
ADDED = ("<tool>", THINK, END_THINK, CALL)  # a whole call is one token, because an answer may hold each once
MERGES = (("h", "e"), ("l", "l"), ("Ġ", "t"), ("Ċ", "Ċ"), ("o", "u"), ("ä", "½"))
_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Tiny:
    """What the file is to be like.

    Attributes:
        answer: what the model says to anything.
        stop: the token that it says afterwards; "" lets it go on for ever with the answer's last character.
        eos: the end-of-sequence token.
        template: the chat template, None for none.
        add_bos: what the file says about BOS.
        add_eos: whether the file says that EOS is appended.
        context: tokens of context that it was trained for.
        spelled: tokens that its answer has letter by letter.
        plain: special tokens that are wrongly marked as plain text.
        sharpness: how sure the model is; near 0, all tokens are as likely.
        broken: put NaN into the weights.
        last: the last token of a prompt in the format of the template.
        extra: further metadata, name -> float.
        ids: further metadata, name -> token.
    """

    answer: str = ANSWER
    stop: str = EOT
    eos: str = "<|end_of_text|>"
    template: str | None = LLAMA_3
    add_bos: bool = True
    add_eos: bool = False
    context: int = 512
    spelled: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    sharpness: float = 1.0
    broken: bool = False
    last: str = "ĊĊ"
    extra: dict[str, float] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)


def vocabulary() -> list[str]:
    """The tokens in the order of their ids: bytes, merges, special ones, added ones."""
    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES), *SPECIAL, *ADDED]


def write_tokenizer(path: Path, *, normalizer: str | None = None) -> Path:
    """The same vocabulary as a ``tokenizer.json``; *normalizer* is the type of one, such as "NFC"."""
    tokens = vocabulary()
    plain = {token: i for i, token in enumerate(tokens) if token not in SPECIAL + ADDED}
    added: list[dict[str, Any]] = [
        {
            "id": tokens.index(text),
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": text in SPECIAL,
        }
        for text in SPECIAL + ADDED
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _REGEX}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": normalizer} if normalizer else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": plain, "merges": [list(pair) for pair in MERGES], "ignore_merges": True},
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_tiny_gguf(path: Path, tiny: Tiny | None = None) -> Path:
    """Write the file; well under a second."""
    tiny = tiny or Tiny()
    tokens = vocabulary()
    size = (len(tokens) + 31) // 32 * 32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(tiny.context)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(size // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([_type(token, tiny) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(tiny.eos))
    writer.add_add_bos_token(tiny.add_bos)
    if tiny.add_eos:
        writer.add_add_eos_token(True)
    if tiny.template is not None:
        writer.add_chat_template(tiny.template)
    for key, value in tiny.extra.items():
        writer.add_float32(key, value)
    for key, token in tiny.ids.items():
        writer.add_uint32(key, tokens.index(token))
    for name, data in _tensors(tiny, tokens, size).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _type(token: str, tiny: Tiny) -> int:
    if token in SPECIAL and token not in tiny.plain:
        return int(gguf.TokenType.CONTROL)
    return int(gguf.TokenType.USER_DEFINED if token in ADDED else gguf.TokenType.NORMAL)


def _tensors(tiny: Tiny, tokens: list[str], size: int) -> dict[str, np.ndarray]:
    embedding = np.eye(len(tokens), size, dtype=np.float32)
    output = np.zeros((len(tokens), size), dtype=np.float32)
    following = _following(tiny, tokens)
    for token in range(len(tokens)):
        # What was never said leads back to the answer's beginning.
        output[following.get(token, following[tokens.index(tiny.last)]), token] = tiny.sharpness
    if tiny.broken:
        output[0] = np.nan
    zeros = {f"attn_{name}": (size, size) for name in ("q", "k", "v", "output")}
    zeros |= {"ffn_gate": (32, size), "ffn_up": (32, size), "ffn_down": (size, 32)}
    layer = {f"blk.0.{name}.weight": np.zeros(shape, dtype=np.float32) for name, shape in zeros.items()}
    norms = ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
    ones = {f"{name}.weight": np.ones(size, dtype=np.float32) for name in norms}
    return {"token_embd.weight": embedding, **layer, **ones, "output.weight": output}


def _following(tiny: Tiny, tokens: list[str]) -> dict[int, int]:
    alphabet = _byte_texts()
    whole = [token for token in SPECIAL + ADDED if token not in tiny.spelled]
    parts = re.split(f"({'|'.join(map(re.escape, whole))})", tiny.answer)
    answer = [part for text in parts for part in ([text] if text in whole else (alphabet[b] for b in text.encode()))]
    said = [tokens.index(tiny.last), *map(tokens.index, answer)]
    if tiny.stop:
        said.append(tokens.index(tiny.stop))
    assert len(set(said)) == len(said), "an answer may hold each byte once"
    chain = dict(pairwise(said))
    if not tiny.stop:
        chain[said[-1]] = said[-1]
    return chain


def _byte_texts() -> dict[int, str]:
    """Byte -> the character that stands for it in a byte-level vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}
