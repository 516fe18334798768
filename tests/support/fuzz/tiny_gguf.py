"""Whole GGUF models of one layer that llama.cpp loads, with each kind of vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, encode_header
from quantkit.gguf.kv import KV, KVType, array, boolean, f32, i32, string, u32
from quantkit.vocab.tiktoken import byte_text

_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# What a reader may find besides the keys of the small models.
KEYS = (
    *(
        b"general.sampling.top_p",
        b"general.type",
        b"general.alignment",
        b"general.quantization_version",
        b"split.count",
    ),
    *(b"tokenizer.ggml.eot_token_id", b"split.count", b"tokenizer.chat_templates", b"tokenizer.chat_template.tool_use"),
    *(b"tokenizer.ggml.merges", b"tokenizer.ggml.add_eos_token", b"tokenizer.ggml.precompiled_charsmap"),
    *(b"tokenizer.ggml.add_space_prefix", b"tokenizer.ggml.eog_token_ids", b"tokenizer.ggml.suppress_tokens"),
    *(
        b"tokenizer.ggml.token_type_count",
        b"tokenizer.ggml.scores",
        b"tokenizer.ggml.token_type",
        b"tokenizer.ggml.pre",
    ),
    *(b"llama.rope.scaling.type", b"llama.rope.scaling.factor", b"llama.rope.freq_base", b"llama.expert_count"),
    *(b"llama.expert_used_count", b"llama.attention.key_length", b"llama.attention.value_length", b"split.no"),
    *(b"tokenizer.ggml.pre", b"llama.expert_group_count"),
    *(b"llama.attention.sliding_window", b"llama.attention.sliding_window_pattern", b"llama.pooling_type"),
    *(b"llama.attention.clamp_kqv", b"llama.leading_dense_block_count", b"llama.nextn_predict_layers"),
    *(b"llama.rope.dimension_sections", b"llama.classifier.output_labels", b"split.tensors.count"),
)
TEXTS = (
    *(b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"plamo2", b"none", b"no_vocab", b"qwen2", b"gemma2", b"mamba"),
    *(b"clip", b"llama-bpe", b"deepseek-llm", b"linear", b"yarn", b"longrope", b"<s>", b"<|eot_id|>", b"a b", b"ab"),
    *(b" ", b"a b c", b"adapter", b"imatrix", b"mmproj", b"{{ messages[0].content }}"),
)
NAMES = (
    *(b"output.weight", b"rope_freqs.weight", b"blk.1.attn_q.weight", b"blk.0.attn_q.bias"),
    b"blk.0.ffn_gate_inp.weight",
)


def whole_model(architecture: str, vocabulary: Sequence[KV], rows: int, changed: Sequence[KV] = ()) -> bytes:
    """A model of one layer.

    Args:
        architecture: in llama.cpp's words; its settings are those of Llama.
        vocabulary: the metadata of its tokenizer.
        rows: of the embedding.
        changed: further entries, or others in the place of those with the same key.
    """
    sizes = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 32,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "rope.dimension_count": 16,
    }
    metadata = [
        string("general.architecture", architecture),
        string("general.name", "tiny"),
        string("general.license", "mit"),
        u32("general.file_type", 1),
        f32("general.sampling.temp", 0.5),
        i32("general.sampling.top_k", 20),
        *(u32(f"{architecture}.{key}", value) for key, value in sizes.items()),
        f32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5),
        u32(f"{architecture}.vocab_size", rows),
        *vocabulary,
        string("tokenizer.chat_template", _TEMPLATE),
    ]
    metadata = list({entry.key: entry for entry in (*metadata, *changed)}.values())
    shapes: Mapping[str, tuple[int, ...]] = {
        "token_embd.weight": (rows, 32),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32),
        "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.ffn_gate.weight": (32, 32),
        "blk.0.ffn_up.weight": (32, 32),
        "blk.0.ffn_down.weight": (32, 32),
    }
    if architecture == "qwen2":
        shapes = {**shapes, **{f"blk.0.attn_{part}.bias": (size,) for part, size in (("q", 32), ("k", 16), ("v", 16))}}
    if any(entry.key == f"{architecture}.expert_count" for entry in metadata):
        stacks = {f"blk.0.ffn_{part}_exps.weight": (4, 32, 32) for part in ("gate", "up", "down")}
        dense = [f"blk.0.ffn_{part}.weight" for part in ("gate", "up", "down")]
        kept = {name: shape for name, shape in shapes.items() if name not in dense}
        shapes = {**kept, "blk.0.ffn_gate_inp.weight": (4, 32), **stacks}
    tensors, at = [], 0
    for name, shape in shapes.items():
        kind = GGMLType.F32 if len(shape) == 1 else GGMLType.F16
        tensors.append(TensorInfo(name, shape, kind, at))
        at += kind.nbytes(shape)
    return encode_header(metadata, tensors) + bytes(at)


def _scored(kind: str, tokens: list[str], types: list[int]) -> list[KV]:
    return [
        string("tokenizer.ggml.model", kind),
        string("tokenizer.ggml.pre", "default"),
        array("tokenizer.ggml.tokens", tokens, KVType.STRING),
        array("tokenizer.ggml.scores", [-float(number) for number in range(len(tokens))], KVType.FLOAT32),
        array("tokenizer.ggml.token_type", types, KVType.INT32),
        u32("tokenizer.ggml.bos_token_id", 1),
        u32("tokenizer.ggml.eos_token_id", 2),
        u32("tokenizer.ggml.unknown_token_id", 0),
        u32("tokenizer.ggml.padding_token_id", 0),
        boolean("tokenizer.ggml.add_bos_token", True),
    ]


def sentencepiece(*changed: KV) -> bytes:
    """Llama with a vocabulary that is merged by score, with all bytes."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *pieces, "▁", "a", "b", "ab", "\n"]
    return whole_model("llama", _scored("llama", tokens, [2, 3, 3, *[6] * 256, *[1] * 5]), len(tokens), changed)


def experts() -> bytes:
    """The same with four experts, two of which are used."""
    return sentencepiece(u32("llama.expert_count", 4), u32("llama.expert_used_count", 2))


def byte_level() -> bytes:
    """Qwen 2 with byte-level BPE."""
    tokens = [byte_text(bytes([byte])) for byte in range(256)] + ["th", "the", "<|endoftext|>", "<|im_end|>"]
    vocabulary = [
        string("tokenizer.ggml.model", "gpt2"),
        string("tokenizer.ggml.pre", "qwen2"),
        array("tokenizer.ggml.tokens", tokens, KVType.STRING),
        array("tokenizer.ggml.token_type", [*[1] * 258, 3, 3], KVType.INT32),
        array("tokenizer.ggml.merges", ["t h", "th e"], KVType.STRING),
        u32("tokenizer.ggml.bos_token_id", 258),
        u32("tokenizer.ggml.eos_token_id", 259),
        boolean("tokenizer.ggml.add_bos_token", False),
    ]
    return whole_model("qwen2", vocabulary, len(tokens))


def word_pieces() -> bytes:
    """Llama with a vocabulary of whole words, as BERT's."""
    tokens = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "▁a", "b"]
    return whole_model("llama", _scored("bert", tokens, [2, 3, 3, 3, 1, 1]), len(tokens))


@cache
def models() -> tuple[bytes, ...]:
    """One of each."""
    return sentencepiece(), byte_level(), word_pieces(), experts()
