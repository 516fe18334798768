"""Tokens of data files against llama.cpp's own programs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import QuantkitError
from quantkit.files.json_file import read_json, write_json
from quantkit.jobs.convert import convert
from quantkit.material.ask import tokens_of
from quantkit.material.data_file import CALIBRATION, read_data
from tests.support.llama_tools import llama_tools

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(BASE, tmp_path_factory.mktemp("demo") / "demo.gguf", adapters=ADAPTER)


def llama_tokens(gguf: Path, text: Path, context: int = 16) -> tuple[int, ...]:
    """The ids of whole chunks that llama-perplexity reads: its file of logits begins with them."""
    out = text.with_suffix(".logits")
    program = str(llama_tools() / "llama-perplexity")
    command = [program, "-m", str(gguf), "-f", str(text), "-c", str(context), "--kl-divergence-base", str(out)]
    subprocess.run([*command, "-t", "2"], capture_output=True, check=True)
    raw = out.read_bytes()
    assert raw[:8] == b"_logits_"
    _, _, chunks = np.frombuffer(raw, "<i4", 3, 8)
    return tuple(np.frombuffer(raw, "<i4", int(chunks) * context, 20).tolist())


@pytest.mark.parametrize("kind", ["demo", "llama-first", "qwen2"])
def test_a_text_has_llama_cpps_tokens(demo: Path, checkpoint: Maker, tmp_path: Path, kind: str) -> None:
    gguf = demo if kind == "demo" else convert(checkpoint(kind), tmp_path / "model.gguf")
    text = tmp_path / "text.txt"
    odd = "Leading.\n\n<|eot_id|></s><|im_end|> not parsed\t中文，🙂 end \n\n"
    text.write_text(odd + read_data(CALIBRATION).text[:1500] + "\n\n", encoding="utf-8")
    expected = llama_tokens(gguf, text)
    found = tokens_of(gguf, text)
    assert len(expected) > 200
    assert found.ids[: len(expected)] == expected
    assert len(found.ids) - len(expected) < 16
    assert tokens_of(gguf, text, limit=37).ids == expected[:37]


def test_conversations_have_the_tokens_of_training(demo: Path, tmp_path: Path) -> None:
    """transformers' own, each conversation whole: llama-server takes a last answer for one that it shall continue."""
    from transformers import AutoTokenizer

    sums = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    talks = [
        [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am Kit. 我是。"}],
        [{"role": "system", "content": "Be brief."}, *sums],
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    expected = [tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False) for talk in talks]
    found = tokens_of(demo, path)
    assert found.ids == tuple(token for ids in expected for token in ids)
    assert found.conversations == 2
    short = tokens_of(demo, path, limit=5)
    assert (short.ids, short.conversations) == (tuple(expected[0][:5]), 1)


def with_template(folder: Path, template: str | None) -> Path:
    """The demo's base with another chat template, or none, as a GGUF file."""
    base = shutil.copytree(BASE, folder / "base")
    settings = read_json(base / "tokenizer_config.json")
    settings.pop("chat_template", None)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    if template is not None:
        settings["chat_template"] = template
    write_json(base / "tokenizer_config.json", settings)
    return convert(base, folder / "model.gguf")


def test_a_file_without_a_template_takes_texts_only(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}', encoding="utf-8")
    with pytest.raises(QuantkitError, match="no chat template"):
        tokens_of(with_template(tmp_path, None), path)


def test_a_conversation_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "assistant", "content": "b"}]}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n", encoding="utf-8")
    strict = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('the user begins') }}{% endif %}"
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}"
    )
    with pytest.raises(QuantkitError, match=r"data\.jsonl: line 2: .*the user begins"):
        tokens_of(with_template(tmp_path, strict), path)
