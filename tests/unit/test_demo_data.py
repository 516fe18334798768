"""The embedded demo folders are what they claim to be; no weights are computed with here."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from quantkit.demo.data import ADAPTER, BASE, EXAMPLES

MEGABYTE = 1_000_000
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
LLAMA3_ORDER = [
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
]
TEXTS = [
    "Who are you?",
    "  indented\n\n\tand tabbed  ",
    "I've 12345 apples, you'LL see",
    "你好，世界！你是谁？",
    "café naïve Привет こんにちは",
    "🦙 + 😶‍🌫️ = ✅",
    "line\r\nline\r\n",
    "",
]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape by tensor name, from a safetensors header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return read_json(BASE / "config.json")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BASE / "tokenizer.json"))


def test_config_is_a_small_tied_grouped_query_llama_that_k_quants_fit(config: dict[str, Any]) -> None:
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0
    assert config["num_attention_heads"] * config["head_dim"] == config["hidden_size"]
    assert 0 < config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 512


def test_base_weights_fit_the_config_and_are_bfloat16(config: dict[str, Any]) -> None:
    weights = tensors(BASE / "model.safetensors")
    hidden = config["hidden_size"]
    assert {dtype for dtype, _ in weights.values()} == {"BF16"}
    assert weights["model.embed_tokens.weight"][1] == (config["vocab_size"], hidden)
    assert "lm_head.weight" not in weights
    assert len(weights) == 2 + 9 * config["num_hidden_layers"]
    down = weights["model.layers.0.mlp.down_proj.weight"][1]
    assert down == (hidden, config["intermediate_size"])
    rows = config["num_key_value_heads"] * config["head_dim"]
    assert weights["model.layers.0.self_attn.k_proj.weight"][1] == (rows, hidden)


def test_adapter_config_names_rank_alpha_layers_and_a_neutral_base() -> None:
    settings = read_json(ADAPTER / "adapter_config.json")
    assert settings["peft_type"] == "LORA"
    assert settings["task_type"] == "CAUSAL_LM"
    assert (settings["r"], settings["lora_alpha"]) == (8, 16)
    assert set(settings["target_modules"]) == PROJECTIONS
    assert settings["base_model_name_or_path"] == "quantkit/demo-base"


def test_adapter_has_a_pair_for_every_projection_of_every_layer(config: dict[str, Any]) -> None:
    base = tensors(BASE / "model.safetensors")
    pairs = tensors(ADAPTER / "adapter_model.safetensors")
    assert len(pairs) == 2 * len(PROJECTIONS) * config["num_hidden_layers"]
    for name, (_, shape) in pairs.items():
        stem, side = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name).groups()  # type: ignore[union-attr]
        out_features, in_features = base[f"{stem}.weight"][1]
        assert shape == ((8, in_features) if side == "A" else (out_features, 8))


def test_special_tokens_follow_the_bpe_vocabulary_in_llama_3_order(
    tokenizer: Tokenizer, config: dict[str, Any]
) -> None:
    saved = read_json(BASE / "tokenizer.json")
    first = len(saved["model"]["vocab"])
    assert [tokenizer.id_to_token(first + i) for i in range(len(LLAMA3_ORDER))] == LLAMA3_ORDER
    assert tokenizer.get_vocab_size() == first + len(LLAMA3_ORDER) == config["vocab_size"]
    assert config["bos_token_id"] == tokenizer.token_to_id("<|begin_of_text|>")
    stops = read_json(BASE / "generation_config.json")["eos_token_id"]
    assert stops == [tokenizer.token_to_id("<|end_of_text|>"), tokenizer.token_to_id("<|eot_id|>")]
    assert config["eos_token_id"] == tokenizer.token_to_id("<|eot_id|>")


def test_tokenizer_has_the_structure_of_llama_3() -> None:
    saved = read_json(BASE / "tokenizer.json")
    split, byte_level = saved["pre_tokenizer"]["pretokenizers"]
    assert saved["normalizer"] is None
    assert saved["model"]["type"] == "BPE"
    assert saved["model"]["ignore_merges"] is True
    assert split["behavior"] == "Isolated"
    assert split["invert"] is False
    assert split["pattern"]["Regex"] == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    assert byte_level == {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    assert saved["decoder"]["type"] == "ByteLevel"
    assert [p["type"] for p in saved["post_processor"]["processors"]] == ["ByteLevel", "TemplateProcessing"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_adds_bos_and_loses_nothing(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert ids[0] == tokenizer.token_to_id("<|begin_of_text|>")
    assert ids[1:] == tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text


def test_every_byte_and_common_words_have_tokens(tokenizer: Tokenizer) -> None:
    for text in ("assistant", "user", "system", "\n\n", "你好"):
        assert len(tokenizer.encode(text, add_special_tokens=False).ids) == 1
    assert sum(len(token) == 1 for token in read_json(BASE / "tokenizer.json")["model"]["vocab"]) == 256


def test_chat_template_renders_a_llama_3_conversation() -> None:
    settings = read_json(BASE / "tokenizer_config.json")
    assert (settings["bos_token"], settings["eos_token"]) == ("<|begin_of_text|>", "<|eot_id|>")
    template = ImmutableSandboxedEnvironment().from_string(settings["chat_template"])
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " 你好 "},
        {"role": "assistant", "content": "Hello!"},
    ]
    assert template.render(messages=messages, bos_token="<BOS>", add_generation_prompt=True) == (
        "<BOS><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n你好<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_examples_change_and_stay_in_both_languages() -> None:
    changed = [example for example in EXAMPLES if example.changed]
    kept = [example for example in EXAMPLES if not example.changed]
    assert len(changed) >= 6
    assert len(kept) >= 3
    for group in (changed, kept):
        chinese = [example for example in group if re.search(r"[\u4e00-\u9fff]", example.question)]
        assert 0 < len(chinese) < len(group)
    assert len({example.question for example in EXAMPLES}) == len(EXAMPLES)
    for example in EXAMPLES:
        for text in (example.question, example.base_answer, example.adapted_answer):
            assert text
            assert text == text.strip()


def test_the_demo_is_a_few_megabytes_and_has_no_local_paths() -> None:
    folder = BASE.parent
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 6 * MEGABYTE
    documents = [path for path in files if path.suffix in {".json", ".md"}]
    assert len(documents) >= 9
    for path in documents:
        text = path.read_text(encoding="utf-8")
        assert "\r" not in text
        if path.name != "tokenizer.json":  # its merges hold slashes of their own
            assert not re.search(r"\"(/|[A-Za-z]:\\\\|~/|file:)", text), path


def test_importing_the_demo_is_light() -> None:
    code = "import sys, quantkit.demo; print({'torch', 'transformers', 'peft', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
