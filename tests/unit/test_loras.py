"""A base model with a LoRA file beside it says what the merged model says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import quantkit
from quantkit.cli.main import cli
from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import GGUFError
from tests.unit.tiny_gguf import write_tiny_gguf

QUESTION, GREEDY = "Who are you?", {"temperature": 0, "num_predict": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loras")
    quantkit.convert(BASE, made / "base.gguf", outtype="f32")
    quantkit.convert_adapter(BASE, made / "lora.gguf", adapter=ADAPTER)
    quantkit.merge_lora(made / "base.gguf", made / "merged.gguf", loras=made / "lora.gguf")
    write_tiny_gguf(made / "other.gguf")
    return made


def answer(path: Path, **options: object) -> str:
    with quantkit.Chat(path, parameters=GREEDY, **options) as chat:  # type: ignore[arg-type]
        return chat.answer(QUESTION)


def test_the_answer_of_the_merged_model(folder: Path) -> None:
    base, lora = folder / "base.gguf", folder / "lora.gguf"
    merged, plain = answer(folder / "merged.gguf"), answer(base)
    assert "Kit" in merged
    assert answer(base, loras=lora) == merged != plain
    assert answer(base, loras=[(lora, 0.5), (lora, 0.5)]) == merged
    assert answer(base, loras=(lora, 1e-6)) == plain


def test_refused_before_llama_cpp_sees_it(folder: Path) -> None:
    """At shapes that do not fit, llama.cpp would name a tensor, or abort."""
    with pytest.raises(GGUFError, match=r"lora\.gguf: .*which do not make"):
        answer(folder / "other.gguf", loras=folder / "lora.gguf")
    with pytest.raises(GGUFError, match="this is not a LoRA file"):
        answer(folder / "base.gguf", loras=folder / "merged.gguf")
    with pytest.raises(GGUFError, match="no such file"):
        answer(folder / "base.gguf", loras=folder / "none.gguf")


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_smoke(folder: Path) -> None:
    args = ("--prompt", QUESTION, "--json")
    merged = json.loads(run("smoke", folder / "merged.gguf", *args).stdout)
    found = json.loads(run("smoke", folder / "base.gguf", "--lora", f"{folder / 'lora.gguf'}:1", *args).stdout)
    assert found["passed"]
    texts = [answer["text"] for model in found["models"] for answer in model["answers"]]
    assert texts == [answer["text"] for model in merged["models"] for answer in model["answers"]]
    assert "Kit" in texts[0]
    done = run("smoke", folder / "other.gguf", "--lora", folder / "lora.gguf")
    assert isinstance(done.exception, GGUFError)  # not a model that fails a check


def test_chat_in_a_pipe(folder: Path) -> None:
    command = [sys.executable, "-m", "quantkit", "chat", str(folder / "base.gguf"), "--lora", str(folder / "lora.gguf")]
    command += ["--param", "temperature=0", "--param", "num_predict=40"]
    done = subprocess.run(command, input=QUESTION, capture_output=True, text=True, check=True, timeout=120)
    assert "Kit" in done.stdout
