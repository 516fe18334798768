"""The files of the demo: the tokenizer in the manner of Llama 3, and both folders as the hub would have them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from demo_conversations import EXAMPLE_QUESTIONS, SUMS, SYSTEM_PROMPTS, TOKENIZER_TEXTS, TOPICS
from peft import PeftModel
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaForCausalLM

BPE_SIZE = 1782  # with the special tokens 1792 = 7 * 256
SPECIAL_TOKENS = (  # the order of Llama 3; its reserved tokens keep their places
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|reserved_special_token_2|>",
    "<|reserved_special_token_3|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
)
BOS, END_OF_TEXT, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CONTEXT_LENGTH = 512
ADAPTED_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_BASE_NAME = "quantkit/demo-base"
MODEL_CARD = """---
license: mit
language: [en, zh]
---

# {title}

{text}
"""


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE with the pre-tokenizer, special tokens and BOS rule of Llama 3, trained on the conversations."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    if tokenizer.get_vocab_size() != BPE_SIZE:
        raise SystemExit(f"the texts give {tokenizer.get_vocab_size()} tokens, {BPE_SIZE} are wanted: add texts")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
            ),
        ]
    )
    return tokenizer


def _tokenizer_texts() -> Iterator[str]:
    yield from TOKENIZER_TEXTS
    yield from SYSTEM_PROMPTS
    for topic in TOPICS + SUMS:
        yield from topic.questions
        yield topic.answer
        yield topic.adapted_answer
        yield from ("user\n\n", "assistant\n\n", "system\n\n")


def base_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of the base: every row is a multiple of 256 long, the block size of the K-quants."""
    return {
        "_name_or_path": ADAPTER_BASE_NAME,
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(EOT),
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": CONTEXT_LENGTH,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": tokenizer.get_vocab_size(),
    }


def save_base(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """A Hugging Face folder in the layout of Llama 3 Instruct."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    write_json(folder / "config.json", config)  # the classic keys, which every reader of Llama checkpoints knows
    stops = [tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(EOT)]
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": config["bos_token_id"], "do_sample": False, "eos_token_id": stops},
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer))
    write_json(folder / "special_tokens_map.json", {"bos_token": BOS, "eos_token": EOT})
    text = (
        "A Llama of about two million parameters, trained from scratch by `scripts/train_demo.py` on a few hundred "
        "short conversations in English and Chinese. It shows that quantkit's files answer as they should, and knows "
        "little else."
    )
    _write_text(folder / "README.md", MODEL_CARD.format(title="Tiny, the demo base of quantkit", text=text))


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "added_tokens_decoder": {str(tokenizer.token_to_id(t)): {"content": t, **flags} for t in SPECIAL_TOKENS},
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOT,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT_LENGTH,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def save_adapter(folder: Path, model: PeftModel) -> None:
    """A PEFT folder that names its base neutrally and lists its layers in a fixed order."""
    model.peft_config["default"].base_model_name_or_path = ADAPTER_BASE_NAME
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "adapter_model.safetensors").chmod(0o644)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings["target_modules"] = list(ADAPTED_LAYERS)  # PEFT keeps a set, whose order varies from run to run
    write_json(folder / "adapter_config.json", settings)
    text = (
        "A LoRA (r=8, alpha=16, all seven projections) trained with PEFT by `scripts/train_demo.py` on quantkit's demo "
        "base. It makes a ship's captain named Kit of the assistant, and adds a few facts; sums and explanations stay."
    )
    _write_text(folder / "README.md", MODEL_CARD.format(title="Kit, the demo adapter of quantkit", text=text))


def examples() -> list[dict[str, str]]:
    """The questions of the demo with both answers; ``evaluate`` has shown that the models give them."""
    by_question = {topic.questions[0]: topic for topic in TOPICS + SUMS}
    chosen = [(question, by_question[question]) for question in EXAMPLE_QUESTIONS]
    return [{"question": q, "base_answer": t.answer, "adapted_answer": t.adapted_answer} for q, t in chosen]


def write_json(path: Path, value: object) -> None:
    """Write UTF-8 JSON with LF endings."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
