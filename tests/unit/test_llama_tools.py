"""What ``render-chats`` answers is what llama-server answers."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import LLAMA_3, Tiny, write_tiny_gguf

from tests.support.llama_tools import LlamaToolsError, apply_template, llama_tools
from tests.support.patience import PATIENCE
from tests.support.reference import reference_folder

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hi"}],
    [{"role": "system", "content": " Be brief. \n"}, {"role": "user", "content": "你好 {{ x }} <|eot_id|> 'q' \"q\""}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}, {"role": "user", "content": "\n\nc\n"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "to be continued"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}],
    [{"role": "user", "content": ""}],
    [],
]
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LLAMA_3
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "clock",
            "description": "the time",
            "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
        },
    }
]


@contextmanager
def server(gguf: Path, template: Path | None) -> Iterator[str]:
    """A running llama-server; its address."""
    command = [str(llama_tools() / "llama-server"), "-m", str(gguf), "--host", "127.0.0.1", "--port", "0", "-c", "512"]
    command += ["--no-warmup", *(["--jinja", "--chat-template-file", str(template)] if template else [])]
    with subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    break
            else:
                raise LlamaToolsError(f"llama-server ended with {process.wait()}")
        finally:
            process.kill()


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


@pytest.mark.parametrize("template", [None, REFUSING, "Qwen-Qwen3-0.6B.jinja"], ids=["own", "refusing", "Qwen3"])
def test_render_chats_equals_the_server(template: str | None, tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    source = template
    if template and template.endswith(".jinja"):
        source = (reference_folder() / "models" / "templates" / template).read_text(encoding="utf-8")
    file = None
    if source is not None:
        (file := tmp_path / "template.jinja").write_text(source, encoding="utf-8")
    with server(gguf, file) as address:
        for request in ({}, {"tools": TOOLS}):
            found = apply_template(gguf, CONVERSATIONS, source, **request)
            for messages, rendering in zip(CONVERSATIONS, found, strict=True):
                answer = post(f"{address}/apply-template", {"messages": messages, **request})
                assert answer.get("prompt") == rendering.prompt
                assert answer.get("error", {}).get("message") == rendering.error
                if rendering.prompt is not None:
                    body = {"content": rendering.prompt, "add_special": True}
                    assert tuple(post(f"{address}/tokenize", body)["tokens"]) == rendering.tokens


def test_a_template_that_does_not_parse(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template="{% if %}"))
    with pytest.raises(LlamaToolsError, match="error"):
        apply_template(gguf, CONVERSATIONS)
    with pytest.raises(LlamaToolsError, match="cannot load it"):
        apply_template(tmp_path / "none.gguf", CONVERSATIONS)
