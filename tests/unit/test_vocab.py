"""The vocabulary: recognised by structure, exact metadata, and everything llama.cpp would not reproduce refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from quantkit.arch.families import find_architecture
from quantkit.checkpoint.folder import Checkpoint
from quantkit.errors import VocabularyError
from quantkit.vocab.bpe import bpe_content, check_added_ids
from quantkit.vocab.families import NO_RULES, VocabularyRules
from quantkit.vocab.special import special_metadata
from quantkit.vocab.vocabulary import Vocabulary, read_vocabulary

Maker = Callable[..., Path]
Json = dict[str, Any]

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
# As the published tokenizer.json of Llama 3 and Qwen2 have them.
LLAMA_3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2_REGEX = LLAMA_3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")


def split(regex: str, **options: Any) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False, **options}


def byte_level(**options: Any) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **options}


def sequence(*steps: Json) -> Json:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(number: int, text: str, special: bool = True) -> Json:
    return {"id": number, "content": text, "special": special, "normalized": not special}


def tokenizer(**changes: Any) -> Json:
    """A byte-level BPE of six tokens in the form of Llama 3's, and three added ones behind them."""
    return {
        "added_tokens": [added(6, "<|begin_of_text|>"), added(7, "<|eot_id|>"), added(8, "<tool>", special=False)],
        "normalizer": None,
        "pre_tokenizer": sequence(split(LLAMA_3_REGEX), byte_level()),
        "post_processor": None,
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "Ġ": 4, "Ġab": 5},
            "merges": [["a", "b"], ["Ġ", "ab"]],
            "ignore_merges": True,
        },
        **changes,
    }


def with_model(**changes: Any) -> Json:
    plain = tokenizer()
    return {**plain, "model": {**plain["model"], **changes}}


def bpe(source: Json, config: Json | None = None, rows: int = 9) -> tuple[Json, list[str]]:
    content = bpe_content(source, config or {}, rows, "tokenizer.json")
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in content.entries}, list(content.notes)


def read(folder: Path, source: Json, rows: int = 9, *, config: Json | None = None, **files: Json) -> Vocabulary:
    """Through the folder, as a checkpoint's."""
    folder.mkdir(exist_ok=True)
    for name, value in {"tokenizer": source, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    rules = find_architecture(config, "config.json").vocabulary if config else NO_RULES
    return read_vocabulary(Checkpoint(folder, config or {}, {}, {}), rows, rules=rules)


def plain(vocabulary: Vocabulary) -> Json:
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in vocabulary.metadata}


QWEN = {"normalizer": {"type": "NFC"}, "pre_tokenizer": sequence(split(QWEN_2_REGEX), byte_level(trim_offsets=False))}


def test_metadata_of_a_small_vocabulary() -> None:
    found, notes = bpe(tokenizer())
    assert found == {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": ["a", "b", "c", "ab", "Ġ", "Ġab", "<|begin_of_text|>", "<|eot_id|>", "<tool>"],
        "token_type": [NORMAL] * 6 + [CONTROL, CONTROL, USER_DEFINED],
        "merges": ["a b", "Ġ ab"],
    }
    assert notes == []


def test_an_extended_vocabulary() -> None:
    source = tokenizer()
    source["added_tokens"] += [
        added(9, "乐于助人", special=False),
        added(10, "<|plain|>", special=False),
        added(11, "▁x", special=False),
    ]
    found, _ = bpe(source, rows=12)
    # Named like a control token, so it is one; ▁ is the converter's way to write a space.
    assert found["tokens"][9:] == ["乐于助人", "<|plain|>", " x"]
    assert found["token_type"][9:] == [USER_DEFINED, CONTROL, USER_DEFINED]
    assert found["pre"] == "llama-bpe"


def test_tokenizer_config_can_make_a_token_special() -> None:
    config = {"added_tokens_decoder": {"8": {"content": "<tool>", "special": True}}}
    assert bpe(tokenizer(), config)[0]["token_type"][8] == CONTROL


def test_padding_rows_become_unused_tokens() -> None:
    found, notes = bpe(tokenizer(), rows=12)
    assert found["tokens"][9:] == ["[PAD9]", "[PAD10]", "[PAD11]"]
    assert found["token_type"][9:] == [UNUSED] * 3
    assert notes == ["the embedding has 12 rows, but the tokenizer only 9 tokens: unused tokens fill the rest"]


@pytest.mark.parametrize(
    ("merges", "expected"),
    [
        ([["a", "b"], ["Ġ", "ab"]], ["a b", "Ġ ab"]),
        (["a b", "Ġ ab"], ["a b", "Ġ ab"]),
        ([["a ", "b"], [" ", " "]], ["aĠ b", "Ġ Ġ"]),
        ([["你", "好"]], ["你 好"]),
    ],
    ids=["pairs", "texts", "spaces", "other-scripts"],
)
def test_forms_of_merges(merges: list[Any], expected: list[str]) -> None:
    assert bpe(with_model(merges=merges))[0]["merges"] == expected


@pytest.mark.parametrize("merges", [[], None])
def test_no_merges(merges: object) -> None:
    assert "merges" not in bpe(with_model(merges=merges))[0]


@pytest.mark.parametrize("merges", [[["a", "b", "c"]], [["a"]], [[1, 2]], [7]], ids=repr)
def test_broken_merges(merges: list[Any]) -> None:
    with pytest.raises(VocabularyError, match="merges have an unknown format"):
        bpe(with_model(merges=merges))


@pytest.mark.parametrize(("ignore", "noted"), [(True, False), (False, True), (None, True)])
def test_ignore_merges_is_noted_where_llama_cpp_differs(ignore: bool | None, noted: bool) -> None:
    assert bool(bpe(with_model(ignore_merges=ignore))[1]) is noted
    qwen = {**with_model(ignore_merges=ignore), **QWEN}
    assert bool(bpe(qwen)[1]) is bool(ignore)


REFUSED: dict[str, tuple[Json, Json, str]] = {
    "unigram": (with_model(type="Unigram"), {}, "Unigram tokenizers are not supported: llama.cpp has them only for T5"),
    "no-model": (tokenizer(model=None), {}, "model type None is not supported"),
    "decoder": (tokenizer(decoder={"type": "Metaspace"}), {}, "decoder is not ByteLevel"),
    "dropout": (with_model(dropout=0.1), {}, "BPE option dropout=0.1 is not supported by llama.cpp"),
    "prefix": (with_model(continuing_subword_prefix="##"), {}, "continuing_subword_prefix='##' is not supported"),
    "suffix": (with_model(end_of_word_suffix="</w>"), {}, "end_of_word_suffix='</w>' is not supported"),
    "byte-fallback": (with_model(byte_fallback=True), {}, "byte_fallback=True is not supported"),
    "no-vocabulary": (with_model(vocab={}), {}, "the vocabulary is missing"),
    "same-id": (with_model(vocab={"a": 0, "b": 1, "c": 1}), {}, "id 1 is both 'b' and 'c'"),
    "too-large": (tokenizer(added_tokens=[added(9, "<x>")]), {}, "token id 9 has no row in the embedding, which has 9"),
    "other-text": (
        tokenizer(),
        {"added_tokens_decoder": {"7": {"content": "<|end|>", "special": True}}},
        r"id 7 is '<\|eot_id\|>', but in tokenizer_config.json it is '<\|end\|>'",
    ),
    "no-such-id": (
        tokenizer(),
        {"added_tokens_decoder": {"99": {"content": "<|end|>", "special": True}}},
        r"id 99 is None, but in tokenizer_config.json it is '<\|end\|>'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    source, config, message = REFUSED[name]
    with pytest.raises(VocabularyError, match=message):
        bpe(source, config)


def special(
    config: Json | None = None, model: Json | None = None, generation: Json | None = None, **changes: Any
) -> Json:
    source = tokenizer(**changes)
    texts = [*source["model"]["vocab"], *(token["content"] for token in source["added_tokens"])]
    entries = special_metadata(source, config or {}, model or {}, generation or {}, texts)
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in entries}


def test_special_ids_come_from_the_texts_first() -> None:
    config = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": {"content": "<|eot_id|>", "lstrip": False},
        "pad_token": "a",
    }
    model = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "sep_token_id": 3, "unk_token_id": -1}
    assert special(config, model) == {
        "bos_token_id": 6,
        "eos_token_id": 7,
        "padding_token_id": 2,  # "a" is no added token
        "seperator_token_id": 3,  # GGUF's own spelling
        "eot_token_id": 1,  # where transformers stops, as there is no generation_config.json
    }


def test_ids_that_are_no_ids() -> None:
    assert special({}, {"bos_token_id": None, "eos_token_id": "6", "pad_token_id": True}) == {}


def test_an_id_outside_the_vocabulary() -> None:
    with pytest.raises(VocabularyError, match="bos_token_id 9 is outside the vocabulary of 9 tokens"):
        special({}, {"bos_token_id": 9})
    with pytest.raises(VocabularyError, match="eos_token_id 12 is outside the vocabulary of 9 tokens"):
        special({}, {}, {"eos_token_id": [7, 12]})


def test_a_familys_own_tokens_count_whatever_the_files_say() -> None:
    source = tokenizer()
    texts = [*source["model"]["vocab"], *(token["content"] for token in source["added_tokens"])]

    def own(rules: VocabularyRules, **config: int) -> Json:
        ids = rules.own(texts, config)
        entries = special_metadata(source, {"bos_token": "<|eot_id|>"}, {}, {"eos_token_id": [6]}, texts, own=ids)
        return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in entries}

    both = VocabularyRules(named={"bos": "<|begin_of_text|>", "eot": "<|eot_id|>"})
    assert own(VocabularyRules()) == {"bos_token_id": 7, "eot_token_id": 6}
    assert own(both) == {"bos_token_id": 6, "eot_token_id": 7, "eom_token_id": 6}
    some = VocabularyRules(named_if_present={"eos": "<|eot_id|>", "unk": "<|user|>"})
    assert own(some) == {"bos_token_id": 7, "eos_token_id": 7, "eot_token_id": 6}
    assert own(VocabularyRules(eos_setting="eod"), eod=5)["eos_token_id"] == 5
    for missing in ({}, {"eod": 9}):
        assert "eos_token_id" not in own(VocabularyRules(eos_setting="eod"), **missing)
    with pytest.raises(VocabularyError, match=r"the token '<\|user\|>', which is EOT for this family, is missing"):
        own(VocabularyRules(named={"eot": "<|user|>"}))


def test_the_id_of_an_end_of_turn_counts_only_with_its_text() -> None:
    texts = ["a", "<end_of_turn>"]
    found = [VocabularyRules(eot=number).special_ids(256000, texts) for number in (0, 1, 2)]
    assert found == [{}, {"eot": 1}, {}]


def processing(*single: Json, pair: list[Json] | None = None) -> Json:
    return {"type": "TemplateProcessing", "single": list(single), "pair": pair or []}


BOS, EOT = {"SpecialToken": {"id": "<|begin_of_text|>"}}, {"SpecialToken": {"id": "<|eot_id|>"}}
FIRST, SECOND = {"Sequence": {"id": "A"}}, {"Sequence": {"id": "B"}}
NAMED = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


@pytest.mark.parametrize(
    ("post", "config", "expected"),
    [
        (None, {}, {}),
        (None, {"add_bos_token": True, "add_eos_token": False}, {"bos": True, "eos": False}),
        (byte_level(), {"add_bos_token": True}, {"bos": False, "eos": False}),
        (processing(BOS, FIRST), {}, {"bos": True}),
        (processing(BOS, FIRST), {"add_bos_token": False}, {"bos": True}),
        (processing(FIRST, EOT), {}, {"eos": True}),
        (processing(BOS, FIRST, EOT), {}, {"bos": True, "eos": True}),
        (processing(FIRST), {}, {}),
        ({"type": "Sequence", "processors": [byte_level(), processing(BOS, FIRST)]}, {}, {"bos": True, "eos": False}),
        (processing(BOS, FIRST, pair=[BOS, FIRST, EOT, SECOND]), {}, {"bos": True, "sep": True}),
        (processing(BOS, FIRST, pair=[BOS, FIRST, BOS, SECOND]), {}, {"bos": True, "sep": False}),
    ],
)
def test_what_is_added_around_texts(post: Json | None, config: Json, expected: Json) -> None:
    found = special({**NAMED, **config}, post_processor=post)
    assert {key: value for key, value in found.items() if key.startswith("add_")} == {
        f"add_{kind}_token": value for kind, value in expected.items()
    }


@pytest.mark.parametrize(
    ("post", "message"),
    [
        ({"type": "RobertaProcessing"}, "the post-processor 'RobertaProcessing' is not supported"),
        (processing(BOS, EOT, FIRST), "adds 2 tokens around texts"),
    ],
)
def test_post_processors_that_llama_cpp_does_not_have(post: Json, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        special(NAMED, post_processor=post)


def test_what_is_added_names_the_tokens_that_the_config_does_not() -> None:
    found = special({"pad_token": "a"}, post_processor=processing(BOS, FIRST, EOT))
    assert found == {"bos_token_id": 6, "eos_token_id": 7, "add_bos_token": True, "add_eos_token": True}
    # Without tokenizer_config.json there is nothing to complete.
    assert special({}, post_processor=processing(BOS, FIRST)) == {"add_bos_token": True}


def test_cls_and_sep_stand_in_for_bos_and_eos() -> None:
    config = {"cls_token": "<|begin_of_text|>", "sep_token": "<|eot_id|>"}
    assert special(config) == {"bos_token_id": 6, "eos_token_id": 7, "seperator_token_id": 7}


def test_ids_of_the_text_model() -> None:
    assert special({}, {"text_config": {"bos_token_id": 6}, "eos_token_id": 7}) == {
        "bos_token_id": 6,
        "eos_token_id": 7,
    }


def test_added_tokens_with_flags_that_llama_cpp_does_not_have() -> None:
    source = tokenizer()
    source["added_tokens"][1] |= {"rstrip": True, "lstrip": True}
    source["added_tokens"][2] |= {"rstrip": True, "single_word": True}
    assert bpe(source)[1] == [
        "some added tokens absorb whitespace before them (lstrip: '<|eot_id|>'), but not in llama.cpp",
        "some added tokens absorb whitespace after them (rstrip: '<|eot_id|>' and 1 more), but not in llama.cpp",
        "some added tokens match only between words (single_word: '<tool>'), but not in llama.cpp",
    ]


FAMILIES: list[tuple[str, int, Json, Json]] = [
    ("LlamaForCausalLM", 9, {"add_prefix_space": True}, {"add_space_prefix": True}),
    ("GraniteForCausalLM", 9, {"add_prefix_space": False}, {"add_space_prefix": False}),
    ("Qwen2ForCausalLM", 9, {"add_prefix_space": False}, {}),
    ("MistralForCausalLM", 49152, {"add_bos_token": True}, {"add_bos_token": False}),
    ("LlamaForCausalLM", 32016, {}, {"eot_token_id": 32010}),
    ("LlamaForCausalLM", 32016, {"eot_token": "<tool>"}, {"eot_token_id": 8}),
]


@pytest.mark.parametrize(("family", "rows", "config", "expected"), FAMILIES)
def test_what_families_add(tmp_path: Path, family: str, rows: int, config: Json, expected: Json) -> None:
    model = {"architectures": [family], "vocab_size": rows}
    found = plain(read(tmp_path / "m", tokenizer(), rows, config=model, tokenizer_config={"x": 1, **config}))
    usual = plain(read(tmp_path / "m", tokenizer(), rows, tokenizer_config={"x": 1}))
    assert {key: value for key, value in found.items() if usual.get(key) != value} == expected


def test_the_post_processor_against_the_config() -> None:
    with pytest.raises(VocabularyError, match=r"adds '<\|eot_id\|>' around texts, .* names '<\|begin_of_text\|>'"):
        special(NAMED, post_processor=processing(EOT, FIRST))


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (None, {}),
        (7, {}),
        ([7], {}),
        ([7, 8], {"eot_token_id": 8}),
        ([8, 7, 5], {"eot_token_id": 8, "eom_token_id": 5}),
        ([8, 8, 7], {"eot_token_id": 8}),
    ],
    ids=repr,
)
def test_further_end_tokens(ends: object, expected: Json) -> None:
    """EOS, and tokens llama.cpp ends at by their names, need no place of their own."""
    found = special({"eos_token": "<|begin_of_text|>"}, {}, {"eos_token_id": ends})
    assert found == {"eos_token_id": 6, **expected}


@pytest.mark.parametrize("generation", [{}, {"temperature": 0.5}, {"eos_token_id": None}], ids=repr)
def test_end_tokens_of_config_json_alone(generation: Json) -> None:
    """Which transformers makes a generation config from where there is none."""
    found = special({"eos_token": "<|begin_of_text|>"}, {"eos_token_id": [6, 8]}, generation)
    assert found == {"eos_token_id": 6, "eot_token_id": 8}


def test_end_tokens_of_the_generation_config_come_before_those_of_config_json() -> None:
    found = special({"eos_token": "<|begin_of_text|>"}, {"eos_token_id": [6, 8]}, {"eos_token_id": [5]})
    assert found == {"eos_token_id": 6, "eot_token_id": 5}


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_more_end_tokens_than_a_file_can_carry(file: str) -> None:
    ends = {"eos_token_id": [7, 0, 1, 2]}
    with pytest.raises(VocabularyError, match=f"^{file}: eos_token_id has 4 tokens; GGUF has no key left for 'c'"):
        special({}, *(({}, ends) if file.startswith("gen") else (ends, {})))


def test_a_folder(tmp_path: Path) -> None:
    config = {**NAMED, "chat_template": "{{ x }}", "add_prefix_space": False}
    generation = {"eos_token_id": [7, 8]}
    model = {"architectures": ["LlamaForCausalLM"], "bos_token_id": 6}
    found = read(tmp_path / "m", tokenizer(), config=model, tokenizer_config=config, generation_config=generation)
    assert (found.chat_template, found.bos_token, found.eos_token) == ("{{ x }}", "<|begin_of_text|>", "<|eot_id|>")
    assert (found.named_templates, found.notes) == ((), ())
    entries = plain(found)
    assert (entries["bos_token_id"], entries["eos_token_id"], entries["eot_token_id"]) == (6, 7, 8)
    assert entries["add_space_prefix"] is False
    assert [entry.key for entry in found.template_metadata("{{ y }}")] == ["tokenizer.chat_template"]
    assert found.template_metadata(None) == []


def test_a_chat_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "chat_template.jinja").write_text("own 你", encoding="utf-8")
    (folder / "additional_chat_templates" / "tool-use.jinja").write_text("tools", encoding="utf-8")
    found = read(folder, tokenizer(), tokenizer_config=NAMED)
    assert (found.chat_template, found.named_templates) == ("own 你", (("tool_use", "tools"),))
    assert {entry.key: entry.value for entry in found.template_metadata("x")} == {
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_template": "x",
    }


def test_named_chat_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]
    found = read(tmp_path / "m", tokenizer(), tokenizer_config={**NAMED, "chat_template": named})
    assert (found.chat_template, found.named_templates) == ("d", (("rag", "r"),))


def test_no_chat_template(tmp_path: Path) -> None:
    assert read(tmp_path / "m", tokenizer()).chat_template is None


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, {}, {}, {})
    with pytest.raises(VocabularyError, match=r"tokenizer\.json: file is missing"):
        read_vocabulary(checkpoint, 9)
    every = ("sentencepiece", "llama-hf", "bpe", "tiktoken")
    with pytest.raises(
        VocabularyError, match=r"no tokenizer: tokenizer\.model and tokenizer\.json and \*\.tiktoken are"
    ):
        read_vocabulary(checkpoint, 9, tokenizers=every)
    (tmp_path / "tekken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(VocabularyError, match=r"tekken\.json: Mistral's own tokenizer format") as caught:
        read_vocabulary(checkpoint, 9, tokenizers=every)
    assert "tokenizer.json" in caught.value.hint


def test_the_tokenizer_and_the_templates_of_other_folders(tmp_path: Path) -> None:
    read(tmp_path / "base", tokenizer(), tokenizer_config={**NAMED, "chat_template": "base"})
    other = tokenizer(added_tokens=[*tokenizer()["added_tokens"], added(9, "<more>")])
    read(tmp_path / "adapter", other, 10, tokenizer_config={**NAMED, "chat_template": "adapter"})
    base, adapter = Checkpoint(tmp_path / "base", {}, {}, {}), tmp_path / "adapter"
    found = read_vocabulary(base, 10, folder=adapter)
    assert (plain(found)["tokens"][9], found.chat_template) == ("<more>", "adapter")
    found = read_vocabulary(base, 10, folder=adapter, templates=tmp_path / "base")
    assert (plain(found)["tokens"][9], found.chat_template) == ("<more>", "base")


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens": [{"id": 6}]},
        {"added_tokens": ["<x>"]},
        {"model": {"type": "BPE", "vocab": {"a": "0"}}},
        {"model": {"type": "BPE", "vocab": {"a": None, "b": 1}}},
        {"normalizer": "NFC"},
        {"post_processor": {"processors": ["x"]}},
    ],
    ids=repr,
)
def test_broken_files_are_refused_by_name(tmp_path: Path, change: Json) -> None:
    with pytest.raises(VocabularyError, match=r"tokenizer\.json: "):
        read(tmp_path / "m", tokenizer(**change))


def test_a_chat_template_in_chat_template_json(tmp_path: Path) -> None:
    found = read(tmp_path / "m", tokenizer(), tokenizer_config=NAMED, chat_template={"chat_template": "j"})
    assert found.chat_template == "j"
    (tmp_path / "m" / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert read(tmp_path / "m", tokenizer()).chat_template == "file"


def test_a_chat_template_of_a_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="chat_template is a int"):
        read(tmp_path / "m", tokenizer(), tokenizer_config={"chat_template": 7})


def test_an_id_that_is_no_number() -> None:
    with pytest.raises(VocabularyError):
        bpe(tokenizer(), {"added_tokens_decoder": {"abc": {"content": "x"}}})


@pytest.mark.parametrize("template", [[{"x": 1}], [1], [["x"]], [{"name": "a", "template": 1}]], ids=repr)
def test_named_templates_of_a_wrong_kind(tmp_path: Path, template: Any) -> None:
    with pytest.raises(VocabularyError, match="chat_template"):
        read(tmp_path / "m", tokenizer(), tokenizer_config={"chat_template": template})


def test_a_template_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(VocabularyError, match=r"chat_template\.jinja"):
        read(tmp_path / "m", tokenizer())


def test_a_template_file_that_differs_is_noted(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "chat_template.jinja").write_text("file", encoding="utf-8")
    found = read(tmp_path / "m", tokenizer(), tokenizer_config={"chat_template": "config"})
    assert found.chat_template == "file"
    assert [note for note in found.notes if note.startswith("chat_template.jinja and chat_template in")]
    named = [{"name": "default", "template": "config"}, {"name": "rag", "template": "r"}]
    found = read(tmp_path / "m", tokenizer(), tokenizer_config={"chat_template": named})
    assert (found.chat_template, found.named_templates) == ("file", (("rag", "r"),))


def test_a_template_file_that_only_ends_otherwise(tmp_path: Path) -> None:
    """The line end of a text file, which Jinja drops: llama.cpp's converter and quantkit write the same."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "chat_template.jinja").write_text("same\n", encoding="utf-8")
    found = read(tmp_path / "m", tokenizer(), tokenizer_config={"chat_template": "same"})
    assert (found.chat_template, found.notes) == ("same", ())


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"tokenizer\.chat_template is not valid Unicode"):
        read(tmp_path / "m", tokenizer(), tokenizer_config={"chat_template": "\ud83d"})


@pytest.mark.parametrize(
    ("vocabulary", "texts"),
    [
        ({"a": 0, "b": 5}, ["x", "y"]),
        ({"a": 0, "b": 5}, ["b", "x", "a", "y"]),
        ({"a": 0, "b": 1, "c": 9}, ["x", "c", "y"]),
        ({"a": 0, "b": 1}, ["x", "x", "y"]),
        ({"a": 0, "b": 2}, ["b", "x"]),
    ],
    ids=repr,
)
def test_added_ids_are_those_of_the_tokenizers_library(vocabulary: dict[str, int], texts: list[str]) -> None:
    """Also where the vocabulary has gaps."""
    real = json.loads(Tokenizer(models.BPE(vocab=vocabulary, merges=[])).to_str())
    real["added_tokens"] = [
        {**added(0, text), "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for text in texts
    ]
    library = Tokenizer.from_str(json.dumps(real))
    ids = [library.token_to_id(text) for text in texts]
    check_added_ids(vocabulary, [added(number, text) for number, text in zip(ids, texts, strict=True)], "x")
    with pytest.raises(VocabularyError, match=f"transformers gives it {ids[0]}"):
        check_added_ids(vocabulary, [added(ids[0] + 1, texts[0])], "x")
