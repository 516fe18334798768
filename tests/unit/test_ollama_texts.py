"""What the texts for Ollama take from a model (who adds BOS, sampling, licenses, stops), and what differs there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import LLAMA_3, Tiny, write_tiny_gguf

from quantkit.chat_template.format import OwnTemplate, named_format
from quantkit.errors import CheckpointError, QuantkitError
from quantkit.gguf.header import encode_header
from quantkit.gguf.kv import KV, KVType, array, boolean, f32, i32, string, u32
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.package import package
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_file import read_recipe
from quantkit.model.sampling import sampling_metadata, sampling_parameters
from quantkit.ollama.modelfile import Command, parse_modelfile
from quantkit.ollama.parameters import merge_parameters
from quantkit.package.go_template import go_template
from quantkit.package.license import license_texts
from quantkit.package.ollama_modelfile import ollama_differences
from quantkit.package.render import render_package
from quantkit.package.spec import PackagedModel, PackageSpec, ollama_name
from quantkit.vocab.special import adds_bos
from tests.support.llama_model import llama_vocabulary

Maker = Callable[..., Path]

SPEC = PackageSpec(
    name="tiny",
    models=(PackagedModel("tiny-q4_0.gguf", "q4_0"),),
    chat=named_format("llama-3"),
    system=None,
    parameters=(),
    context_length=4096,
    base="org/base",
    adapters=(),
    licenses=(),
    architecture="llama",
    parameter_count=2_000_000,
)


def commands(folder: Path, keyword: str) -> list[Command]:
    read = parse_modelfile((folder / "Modelfile").read_text(encoding="utf-8"))
    return [command for command in read if command.keyword == keyword]


# Who adds BOS

BPE_KINDS = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    *("tekken", "chameleon", "default", "gpt-2", "qwen2", "smollm", "olmo", "deepseek-llm", "command-r", "refact"),
)


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("kind", [("llama", "default"), *(("gpt2", pre) for pre in BPE_KINDS)], ids="-".join)
def test_who_adds_bos_is_known_as_llama_cpp_knows_it(tmp_path: Path, kind: tuple[str, str], said: bool | None) -> None:
    tokens = ["<s>", "</s>", "<unk>", "a", "b", "ab", "Ċ", "<0x0A>"]
    metadata = [
        string("general.architecture", "llama"),
        *(u32(f"llama.{key}", 64) for key in ("context_length", "embedding_length", "feed_forward_length")),
        *(u32(f"llama.{key}", 1) for key in ("block_count", "attention.head_count")),
        f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        string("tokenizer.ggml.model", kind[0]),
        string("tokenizer.ggml.pre", kind[1]),
        array("tokenizer.ggml.tokens", tokens, KVType.STRING),
        array("tokenizer.ggml.scores", [0.0] * len(tokens), KVType.FLOAT32),
        array("tokenizer.ggml.token_type", [3, 3, 2, 1, 1, 1, 1, 6], KVType.INT32),
        array("tokenizer.ggml.merges", ["a b"], KVType.STRING),
        *(u32(f"tokenizer.ggml.{name}_token_id", number) for number, name in enumerate(("bos", "eos", "unknown"))),
        *([] if said is None else [boolean("tokenizer.ggml.add_bos_token", said)]),
    ]
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(encode_header(metadata, []))
    with llama_vocabulary(path) as vocabulary:
        assert adds_bos({entry.key: entry.value for entry in metadata}) == vocabulary.adds_bos


@pytest.mark.parametrize("name", ["llama-3", "gemma", "llama-2", "mistral"])
def test_bos_is_in_the_template_where_nobody_adds_it(name: str) -> None:
    chat = named_format(name)
    assert chat.bos
    usual, bare = go_template(chat), go_template(chat, adds_bos=False)
    said = f'{{{{ "{chat.bos}" }}}}'
    assert usual == bare.replace(said, "")
    assert bare.count(said) == 2  # of both forms: the list of messages, and the prompt of old versions
    assert go_template(named_format("chatml"), adds_bos=False) == go_template(named_format("chatml"))


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_gguf_says_who_adds_bos(tmp_path: Path, add_bos: bool) -> None:
    gguf = write_tiny_gguf(tmp_path / "x.gguf", Tiny(add_bos=add_bos))
    (template,) = commands(package((gguf,), tmp_path / "out"), "TEMPLATE")
    assert ("<|begin_of_text|>" in template.value) is not add_bos


# Sampling


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ()),
        ({"temperature": 0.6, "top_p": 0.9}, (("temperature", "0.6"), ("top_p", "0.9"))),
        ({"temperature": 1, "top_k": 20, "min_p": 0.05}, (("temperature", "1"), ("top_k", "20"), ("min_p", "0.05"))),
        ({"repetition_penalty": 1.05}, (("repeat_penalty", "1.05"),)),
        ({"repetition_penalty": 1.05, "penalty_repeat": 1.1}, (("repeat_penalty", "1.1"),)),
        ({"penalty_last_n": 128}, (("repeat_last_n", "128"),)),
        ({"temperature": 0.7, "do_sample": False}, (("temperature", "0"),)),
        ({"temperature": 0.7, "do_sample": True}, (("temperature", "0.7"),)),
        ({"temperature": None, "top_k": "20", "top_p": True, "typical_p": 0.5, "max_length": 4096}, ()),
        ({"temperature": 1e-5}, (("temperature", "1e-05"),)),
    ],
)
def test_what_generation_config_says_and_no_more(config: dict[str, Any], expected: tuple[tuple[str, str], ...]) -> None:
    metadata = sampling_metadata(config)
    assert sampling_parameters(metadata) == expected
    render_package(replace(SPEC, parameters=expected))  # Ollama takes all of them
    written = [entry if entry.type is not KVType.FLOAT32 else _as_float32(entry) for entry in metadata]
    assert sampling_parameters(written) == expected  # as it is read back from the file


def _as_float32(entry: KV) -> KV:
    import numpy as np

    return f32(entry.key, float(np.float32(entry.value)))


def test_a_number_without_room_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json: top_k is 4294967296"):
        sampling_metadata({"top_k": 2**32})


def test_the_users_parameters_replace_the_models() -> None:
    own = sampling_parameters([f32("general.sampling.temp", 0.6), i32("general.sampling.top_k", 20)])
    assert merge_parameters((*own, ("stop", "a")), (("top_k", "5"), ("stop", "b"))) == (
        *(("temperature", "0.6"), ("stop", "a"), ("top_k", "5"), ("stop", "b")),
    )


# Builds


def test_a_build_and_its_package_say_the_same(checkpoint: Maker, tmp_path: Path) -> None:
    sampling = {"temperature": 0.5, "top_p": None, "repetition_penalty": 1.05}
    model = Path(shutil.copytree(checkpoint("llama3-untied", layers=1, generation=sampling), tmp_path / "model"))
    for name, text in (("LICENSE.txt", "One\flicense"), ("notice", "second"), ("COPYING", " \n"), ("README.md", "x")):
        (model / name).write_text(text, encoding="utf-8")
    messages = (("user", "你好"), ("assistant", "Hello!"))
    recipe = Recipe(model, (), ("q8_0",), tmp_path / "it", "it", messages=messages)
    built = build(recipe, verify=False).folder
    assert commands(built, "LICENSE") == [Command("LICENSE", "Onelicense"), Command("LICENSE", "second")]
    assert commands(built, "MESSAGE") == [Command("MESSAGE", text, role) for role, text in messages]
    assert [(c.key, c.value) for c in commands(built, "PARAMETER")] == [
        *(("stop", "<|eot_id|>"), ("num_ctx", "8192"), ("temperature", "0.5"), ("repeat_penalty", "1.05")),
    ]
    again = package((built / "it-q8_0.gguf",), tmp_path / "again", messages=messages)
    for keyword in ("TEMPLATE", "MESSAGE", "PARAMETER"):
        assert commands(again, keyword) == commands(built, keyword)
    report = json.loads((built / "report.json").read_text(encoding="utf-8"))
    assert report["ollama"] == [
        {"versions": found.versions, "difference": found.text}
        for found in ollama_differences(replace(SPEC, parameters=(("temperature", "0.5"),), messages=messages))
    ]
    manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"]["messages"] == [list(pair) for pair in messages]


def test_license_files(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes("© 2024".encode("latin-1"))
    (tmp_path / "LICENSE-extra.md").write_bytes(b"\xef\xbb\xbfextra")
    (tmp_path / "license_folder").mkdir()
    (tmp_path / "mylicense").write_text("not one", encoding="utf-8")
    assert license_texts(tmp_path) == ("© 2024", "extra")


def test_a_stop_that_is_never_seen_is_told(checkpoint: Maker, tmp_path: Path) -> None:
    stops = ("<|start_header_id|>", "<|eot_id|>", "<|end_of_text|>", "User:")
    parameters = tuple(("stop", stop) for stop in stops)
    expected = (
        "stop '<|start_header_id|>' has no effect: it is a control token, which never appears in the text of an answer"
    )
    model = checkpoint("llama3-untied", layers=1)
    built = build(Recipe(model, (), ("q8_0",), tmp_path / "it", "it", parameters=parameters), verify=False)
    gguf = convert(model, tmp_path / "it.gguf")
    made = package((write_tiny_gguf(tmp_path / "tiny.gguf"),), tmp_path / "tiny", parameters=parameters)
    again = package((gguf,), tmp_path / "again", parameters=parameters)
    for notes in (
        built.plan.notes,
        *(json.loads((f / "manifest.json").read_text("utf-8"))["notes"] for f in (made, again)),
    ):
        assert [note for note in notes if note.startswith("stop ")] == [expected]


def test_messages_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "quantkit.toml"
    path.write_text('model = "m"\nmessages = [{user = "Hi"}, {assistant = "你好"}]\n', encoding="utf-8")
    assert read_recipe(path)["messages"] == (("user", "Hi"), ("assistant", "你好"))
    for wrong in ('"Hi"', '["Hi"]', "[{user = 1}]", '[{user = "a", assistant = "b"}]', "[{}]"):
        path.write_text(f'model = "m"\nmessages = {wrong}\n', encoding="utf-8")
        with pytest.raises(QuantkitError, match="messages is"):
            read_recipe(path)


# What is said of differences


def told(**changes: Any) -> list[str]:
    return [f"{found.versions}: {found.text}" for found in ollama_differences(replace(SPEC, **changes))]


def test_old_and_new_versions_are_told_apart() -> None:
    chat = named_format("llama-3")
    plain, tools = told(chat=chat), told(chat=replace(chat, mentions_tools=True))
    assert all(text.startswith("Ollama: ") for text in plain)
    assert any("blank lines around system, user, assistant messages" in text for text in plain)
    assert any("joined with a blank line" in text for text in plain)
    new, *old = tools
    assert new.startswith("Ollama 0.33.0 and later: the chat template supports tools")
    assert all(text.startswith("Ollama before 0.33.0: ") for text in old)
    assert any("the TEMPLATE is used, which does not support tools" in text for text in old)
    own = told(chat=OwnTemplate("it counts", ("</s>",), takes_system=True))
    assert [text.split(":")[0] for text in own] == [*["Ollama 0.33.0 and later"] * 2, "Ollama before 0.33.0"]
    assert "it counts" in own[0]
    assert "using autodetected template" in own[1]
    assert "refused" in own[2]
    assert any("/v1" in text for text in told(parameters=(("top_p", "0.9"),)))
    assert not any("/v1" in text for text in told(parameters=(("top_k", "9"),)))
    examples = told(messages=(("user", "a"), ("assistant", "b")))
    assert [text for text in examples if "example messages" in text] == [
        text for text in examples if text not in told()
    ]
    forced = told(chat=replace(chat, mentions_tools=True), system="\u202e")
    assert "PARSER passthrough" in forced[0]
    assert any(text.startswith("Ollama: spaces and blank lines") for text in forced)


def test_the_card_names_them() -> None:
    card = render_package(SPEC)["README.md"].split("## In Ollama")[1]
    for found in ollama_differences(SPEC):
        assert found.text in card.replace("\\", "")
    split = replace(SPEC, models=(PackagedModel("a-00001-of-00002.gguf", "q4_0", 2),))
    assert "## In Ollama" not in render_package(split)["README.md"]


def test_the_trap_of_tools_in_a_gguf(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "x.gguf", Tiny(template=LLAMA_3 + "{# tools #}"))
    out = package((gguf,), tmp_path / "out")
    notes = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["notes"]
    assert any(note.startswith("Ollama 0.33.0 and later: the chat template supports tools") for note in notes)
    assert any(note.startswith("Ollama before 0.33.0: the TEMPLATE is used") for note in notes)
    assert commands(out, "TEMPLATE")
    assert not commands(out, "PARSER")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My Model", "my-model"), ("模型", "model"), ("-a.", "a"), ("a" * 100, "a" * 80), ("a" * 79 + "--b", "a" * 79)],
)
def test_names_for_ollama(name: str, expected: str) -> None:
    assert ollama_name(name) == expected
