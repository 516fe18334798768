"""llama.cpp beside quantkit's reader of GGUF: a file that ends llama.cpp's process is refused before it gets there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the limits are Linux's", allow_module_level=True)

from quantkit.gguf.kv import KV, KVType, array, string, u32
from tests.support.fuzz.differential import Answer, cases, in_parts, llama, refusal
from tests.support.fuzz.mutate_gguf import put_together, take_apart
from tests.support.fuzz.tiny_gguf import models, sentencepiece

# What ends the process, and the words of the refusal.
CRASHES: dict[str, tuple[tuple[KV, ...], str]] = {
    "no-layers": ((u32("llama.block_count", 0),), "llama.block_count is 0"),
    "many-layers": ((u32("llama.block_count", 100_000),), "supports 1 to 512 layers"),
    "more-layers-for-later-tokens": ((u32("llama.nextn_predict_layers", 2),), "llama.nextn_predict_layers is 2"),
    "experts-of-none": ((u32("llama.expert_used_count", 2),), "llama.expert_used_count is 2 of 0 experts"),
    "no-experts-used": ((u32("llama.expert_count", 4),), "llama.expert_used_count is 0 of 4 experts"),
    "more-experts-used": (
        (u32("llama.expert_count", 4), u32("llama.expert_used_count", 5)),
        "llama.expert_used_count is 5 of 4 experts",
    ),
    "many-experts": ((u32("llama.expert_count", 1025), u32("llama.expert_used_count", 2)), "up to 1024 experts"),
    "groups-of-no-experts": ((u32("llama.expert_group_count", 2),), "llama.expert_group_count is 2"),
    "uneven-groups": (
        (
            *(u32("llama.expert_count", 4), u32("llama.expert_used_count", 2)),
            *(u32("llama.expert_group_count", 3), u32("llama.expert_group_used_count", 1)),
        ),
        "llama.expert_group_count is 3, of which 1 are used, for 4 experts",
    ),
    "unknown-rope-scaling": ((string("llama.rope.scaling.type", "ntk"),), "llama.rope.scaling.type is 'ntk'"),
    "bytes-among-words": ((string("tokenizer.ggml.model", "bert"),), "whole words (bert), but has tokens of single"),
    "a-token-twice": (
        (array("tokenizer.ggml.tokens", ["<unk>", "<s>", "</s>", *(["a"] * 261)], KVType.STRING),),
        "tokens 3 and 4 are both 'a'",
    ),
    "a-token-twice-to-c": (
        (array("tokenizer.ggml.tokens", [*map(str, range(263)), "7\0x"], KVType.STRING),),
        "tokens 7 and 263 are both",
    ),
}


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[[bytes], Answer]]:
    with llama() as asked:
        yield asked


@pytest.mark.parametrize("name", CRASHES)
def test_what_ends_llama_cpp_is_refused_by_name(name: str, ask: Callable[[bytes], Answer], tmp_path: Path) -> None:
    changed, words = CRASHES[name]
    data = sentencepiece(*changed)
    assert ask(data).crash, "llama.cpp has changed: the refusal is no longer needed"
    assert words in str(refusal(data, tmp_path))


def test_weights_at_an_odd_address(ask: Callable[[bytes], Answer], tmp_path: Path) -> None:
    crashed = set()
    for length in range(0, 32, 8):  # of the name, which decides where the weights begin
        changed = (u32("general.alignment", 8), string("general.name", "x" * length))
        data = put_together(replace(take_apart(sentencepiece(*changed)), padding=8))
        refused = refusal(data, tmp_path)
        crashed.add(bool(ask(data).crash))
        assert ("llama.cpp needs a multiple of 32" in (refused or "")) == bool(ask(data).crash)
    assert crashed == {False, True}


def test_sound_files_are_taken_by_both(ask: Callable[[bytes], Answer], tmp_path: Path) -> None:
    experts = (u32("llama.expert_count", 4), u32("llama.expert_used_count", 2), u32("llama.expert_group_count", 1))
    for data in (*models(), *map(in_parts, models())):
        assert ask(data).ended == 0
        assert refusal(data, tmp_path) is None
    assert refusal(sentencepiece(*experts), tmp_path) is None


def test_a_sample_of_changed_files() -> None:
    """scripts/fuzz --differential asks about thousands."""
    asked = list(cases(7, range(24)))
    assert [case.number for case in asked if case.finding] == []
    assert {case.answer.ended for case in asked} >= {0, 1}
