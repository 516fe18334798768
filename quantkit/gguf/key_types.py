"""The types of the metadata that llama.cpp and quantkit read, by key.

llama.cpp refuses a file in which one of its own has another type, even another width of number.
"""

from __future__ import annotations

import re

from quantkit.gguf.kv import KV, KVType
from quantkit.gguf.sampling_keys import SAMPLING_PREFIX, SAMPLING_TYPES

TOKEN_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")

# An entry's type and, of an array, that of its elements.
Type = tuple[KVType, KVType | None]

STRING: Type = (KVType.STRING, None)
_U16, _U32, _I32, _F32, _BOOL = (
    (kind, None) for kind in (KVType.UINT16, KVType.UINT32, KVType.INT32, KVType.FLOAT32, KVType.BOOL)
)
_NUMBERS = frozenset(KVType) - {KVType.BOOL, KVType.STRING, KVType.ARRAY}
_STRINGS, _I32S = (KVType.ARRAY, KVType.STRING), (KVType.ARRAY, KVType.INT32)
# The first pattern that matches the whole key decides.
_TYPES: tuple[tuple[str, Type], ...] = (
    (r"general\.(architecture|name|type|license)", STRING),
    (r"general\.(alignment|file_type|quantization_version)", _U32),
    (r"general\.(base_model|dataset)\.count", _U32),
    (r"general\.(tags|languages|datasets)", _STRINGS),
    (r"split\.(no|count)", _U16),
    (r"split\.tensors\.count", _I32),
    (TOKEN_ID.pattern, _U32),
    (r"tokenizer\.ggml\.add_\w+", _BOOL),
    (r"tokenizer\.ggml\.(model|pre)|tokenizer\.chat_template(\..+)?", STRING),
    (r"tokenizer\.ggml\.(tokens|merges)|tokenizer\.chat_templates", _STRINGS),
    (r"tokenizer\.ggml\.token_type", _I32S),
    (r"adapter\.lora\.alpha", _F32),
    (r"adapter\.type", STRING),
    (r"[^.]+\.(block_count|context_length|vocab_size|embedding_length)", _U32),
    (r"[^.]+\.rope\.scaling\.original_context_length", _U32),
    (r"[^.]+\.rope\.scaling\.type", STRING),
    (r"[^.]+\.rope\.scaling\.finetuned", _BOOL),
    (r"[^.]+\.rope\.(freq_base(_swa)?|scaling\..+)", _F32),
)


def known_type(key: str) -> Type | None:
    """The type of an entry; None if nothing reads it, or takes several types."""
    if key.startswith(SAMPLING_PREFIX) and (kind := SAMPLING_TYPES.get(key.removeprefix(SAMPLING_PREFIX))):
        return kind, None
    return next((kind for pattern, kind in _TYPES if re.fullmatch(pattern, key)), None)


def type_name(kind: Type) -> str:
    """A type in GGUF's words, such as ``uint32`` or ``array of string``."""
    outer, item = kind
    return outer.name.lower() + (f" of {item.name.lower()}" if item is not None else "")


def wrong_type(entry: KV) -> str:
    """What is wrong with the type of an entry, in words; empty for nothing."""
    known, found = known_type(entry.key), (entry.type, entry.item)
    if known is None or known == found:
        return ""
    if entry.key.startswith(SAMPLING_PREFIX) and entry.type in _NUMBERS:  # llama.cpp reads any number as text
        return ""
    return f"{entry.key} has the type {type_name(found)}; llama.cpp reads {type_name(known)}"
