"""Servers that answer what no hub and no Ollama does, and clients that send what is no request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from quantkit.errors import ChatFormatError, HubError, OllamaError
from quantkit.hub import huggingface
from quantkit.hub.source import HubId
from quantkit.ollama.client import Server

ID = HubId("org/name")
SHA256 = "ab" * 32


def listed(**given: Any) -> Any:
    file = {"rfilename": "a.gguf", "size": 3, "lfs": SimpleNamespace(sha256=SHA256), "blob_id": None, **given}
    info = SimpleNamespace(sha="c0ffee" * 7, siblings=[SimpleNamespace(**file)])
    with mock.patch.object(huggingface.HfApi, "model_info", return_value=info):
        return huggingface.listing(ID)[1]


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "..", "a/..", "..\\x", "C:\\x", "C:/x", "\\\\host\\x", "a\0b"]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(HubError, match="whose name leads elsewhere"):
        listed(rfilename=name)


def test_names_that_stay() -> None:
    for name in ("a.gguf", "sub/a.gguf", "a..b", "..a/b", "a:b", "日本/模型.gguf", ".hidden"):
        assert listed(rfilename=name)[name].nbytes == 3


@pytest.mark.parametrize(
    "given", [{"size": -1}, {"size": [3]}, {"size": True}, {"rfilename": 3}, {"blob_id": [3], "lfs": None}]
)
def test_values_of_other_kinds(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        listed(**given)


def test_a_hash_that_is_none_is_left_out() -> None:
    assert listed(lfs=SimpleNamespace(sha256="../../x"))["a.gguf"].digest == ""


@pytest.mark.parametrize("error", [KeyError("id"), TypeError("a"), AttributeError("b"), RecursionError("c")])
def test_what_breaks_the_client_is_no_hub(error: Exception) -> None:
    with pytest.raises(HubError, match="something that is not the hub's") as caught, huggingface.explained(ID):
        raise error
    assert "HF_ENDPOINT" in caught.value.hint


def test_an_answer_that_breaks_ollamas_client_is_not_ollamas() -> None:
    import httpx

    server = Server()
    for status, body in ((200, b"3"), (200, b"[]"), (200, b"[" * 5000), (500, b"3"), (404, b'"a"')):
        transport = httpx.MockTransport(lambda request, status=status, body=body: httpx.Response(status, content=body))
        server._client = httpx.Client(transport=transport, base_url="http://127.0.0.1:11434")
        with pytest.raises(OllamaError, match="is not an Ollama server"):
            list(server.create_model({"model": "m"}))


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
def test_garbage_in_a_body_is_refused_once(method: str) -> None:
    from tests.support.fuzz.served_bytes import answer

    found = answer([f"{method} /x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nxx\r\n".encode()])
    assert found.written.startswith(b"HTTP/1.1 400 ")
    assert found.written.count(b"HTTP/1.1") == 1
    assert found.errors == []


@pytest.mark.parametrize("said", [b"a\n", b"3\n", b"{}\n", b'{"value": 3}\n', b'{"value": {}}\n', b"[" * 3000 + b"\n"])
def test_a_process_that_answers_what_is_no_answer(said: bytes) -> None:
    from quantkit.chat_template import process, render
    from quantkit.system import limited_process
    from tests.support.fuzz.readers.child_replies import Child

    with (
        mock.patch.object(process, "_shared", process.TemplateProcess()),
        mock.patch.object(limited_process, "start_module", return_value=Child(said)),
        pytest.raises(ChatFormatError, match="answer nonsense"),
    ):
        render.render_jinja("", [], bos_token="", eos_token="")
