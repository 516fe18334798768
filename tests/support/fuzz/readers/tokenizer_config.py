"""generation_config.json, tokenizer_config.json, special_tokens_map.json and added_tokens.json of a sound tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tests.support.fuzz import tiny
from tests.support.fuzz.mutate_json import JsonMutator
from tests.support.fuzz.parts import of_parts
from tests.support.fuzz.planned import plan
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder

_FILES = ("generation_config", "tokenizer_config", "special_tokens_map", "added_tokens", "chat_template")


def _seeds() -> Sequence[bytes]:
    sound = {
        "generation_config": tiny.GENERATION,
        "tokenizer_config": tiny.TOKENIZER_CONFIG,
        "special_tokens_map": tiny.SPECIAL_TOKENS,
    }
    named = [{"name": "default", "template": "{{ bos_token }}"}, {"name": "tool_use", "template": "{{ 1 }}"}]
    return [
        tiny.text(sound),
        tiny.text({**sound, "tokenizer_config": {**tiny.TOKENIZER_CONFIG, "chat_template": named}}),
        tiny.text({**sound, "chat_template": {"chat_template": "{{ 1 }}"}, "added_tokens": {"<|eot_id|>": 260}}),
    ]


@cache
def _model() -> dict[str, bytes]:
    return tiny.model()


def _read(parts: dict[str, Any]) -> None:
    files = dict(_model())
    for name in _FILES:
        files.pop(f"{name}.json", None)
        if name in parts:
            files[f"{name}.json"] = tiny.text(parts[name])
    plan(folder(files))


READER = Reader(
    "tokenizer-config",
    _seeds,
    of_parts(_read),
    JsonMutator(
        words=(
            *(
                "add_bos_token",
                "add_eos_token",
                "add_prefix_space",
                "additional_special_tokens",
                "extra_special_tokens",
            ),
            *("pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "tokenizer_class", "LlamaTokenizer"),
            *(
                "suppress_tokens",
                "repetition_penalty",
                "top_k",
                "min_p",
                "do_sample",
                "chat_template",
                "name",
                "template",
            ),
            *("<|begin_of_text|>", "<|eot_id|>", {"content": "<|eot_id|>"}, str(tiny.ROWS), tiny.ROWS - 1, *_FILES),
        )
    ),
)
