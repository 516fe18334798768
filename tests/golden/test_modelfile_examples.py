"""The conversations beside the Modelfiles of modelfiles/: Go's own engine gives the prompts that stand there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantkit.ollama.read_modelfile import read_modelfile
from tests.support.go_prompts import ollama_prompt

FOLDER = Path(__file__).resolve().parents[2] / "modelfiles"
SCRIPT = FOLDER.parent / "scripts" / "render_modelfiles"
CONVERSATIONS = sorted(FOLDER.glob("*.conversation.json"))


def test_every_modelfile_with_a_template_has_a_conversation() -> None:
    with_template = {
        path.name.removesuffix(".Modelfile")
        for path in FOLDER.glob("*.Modelfile")
        if any(command.keyword == "TEMPLATE" for command in read_modelfile(path))
    }
    assert {path.name.removesuffix(".conversation.json") for path in CONVERSATIONS} == with_template
    assert len(with_template) == 8


@pytest.mark.parametrize("path", CONVERSATIONS, ids=lambda path: path.name.partition(".conv")[0])
def test_the_prompt_is_what_ollama_builds(path: Path) -> None:
    shown: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    said = {
        command.keyword: command.value
        for command in read_modelfile(path.with_name(f"{path.name.partition('.conv')[0]}.Modelfile"))
    }
    assert said.get("SYSTEM") == shown["system"]
    assert [message["role"] for message in shown["messages"]] == ["user", "assistant", "user"]
    prompt = ollama_prompt(said["TEMPLATE"], shown["messages"], system=said.get("SYSTEM", ""))
    assert prompt == "".join(shown["prompt"])


def test_a_stale_conversation_is_named(tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "Llama-3-Instruct.conversation.json").write_text("{}", encoding="utf-8")
    (tmp_path / "mine.txt").write_text("not ours", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check", "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        "stale: Llama-3-Instruct.conversation.json; run scripts/render_modelfiles\n",
    )
