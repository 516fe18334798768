"""Packages in a real Ollama, where one answers: what it makes of the Modelfile, the prompts it builds, a chat.

The server is the one at OLLAMA_HOST, or on this machine. The models are tiny, and removed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import ANSWER, LLAMA_3, Tiny, write_tiny_gguf

from quantkit.chat_template.render import Message, render_jinja
from quantkit.errors import OllamaError
from quantkit.jobs.ollama_create import create_model
from quantkit.jobs.package import package
from quantkit.ollama.client import Server
from quantkit.ollama.read_modelfile import read_modelfile
from tests.support.go_prompts import ollama_prompt

pytestmark = pytest.mark.ollama

NAME = "quantkit-test-model"
SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"

TALKS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "Hi"},),
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": '{{ .Prompt }} """ \'你好\''}),
    (
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two\n\nthree"},
        {"role": "user", "content": "<|eot_id|> four"},
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as found:
        try:
            found.version()
        except OllamaError as error:
            pytest.skip(f"needs an Ollama server: {error}")
        yield found


@pytest.fixture(params=["plain", "tools", "system"])
def folder(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Path]:
    """A package whose model is in Ollama."""
    template = LLAMA_3 + ("{# tools #}" if request.param == "tools" else "")
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=template))
    made = package((gguf,), tmp_path / "pkg", system=SYSTEM if request.param == "system" else None)
    try:
        assert create_model(made / "Modelfile", NAME, overwrite=True).answer == ANSWER
        yield made
    finally:
        server.delete(NAME)


def rendered(server: Server, messages: Sequence[Message]) -> str:
    """The prompt that the server builds; it answers nothing then."""
    body: dict[str, Any] = {"model": NAME, "messages": list(messages), "stream": False, "_debug_render_only": True}
    answer = server._request_raw("POST", "/api/chat", json=body).json()  # type: ignore[no-untyped-call]
    text: str = answer["_debug_info"]["rendered_template"]
    return text


def test_the_prompts_are_those_of_the_chat_template(server: Server, folder: Path) -> None:
    said = {command.keyword: command.value for command in read_modelfile(folder / "Modelfile")}
    for talk in TALKS:
        opened = ({"role": "system", "content": said["SYSTEM"]},) if "SYSTEM" in said else ()
        messages = talk if talk[0]["role"] == "system" else (*opened, *talk)
        prompt = rendered(server, talk).removeprefix("<|begin_of_text|>")
        assert prompt == render_jinja(LLAMA_3, messages, bos_token="", eos_token="")
        assert prompt == ollama_prompt(said["TEMPLATE"], talk, system=said.get("SYSTEM", ""))
