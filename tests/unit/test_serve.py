"""``quantkit serve``: the answers are those of a chat, the protocol is OpenAI's, and only this machine gets in."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner
from starlette.responses import Response
from tiny_gguf import ANSWER, ENDLESS, LLAMA_3, Tiny, write_tiny_gguf

from quantkit.cli.serve import command as serve_command
from quantkit.demo.data import ADAPTER, BASE, EXAMPLES
from quantkit.hub.adapter_source import AdapterSource
from quantkit.jobs.build import build
from quantkit.jobs.recipe import Recipe
from quantkit.run.answer import Answer
from quantkit.run.lanes import Lane, Lanes
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.serve.answering import Answers
from quantkit.serve.app import make_app
from quantkit.serve.body import MAX_BODY
from quantkit.serve.completions import ChatCompletions, Served
from quantkit.serve.guard import Access, Guard, is_loopback
from quantkit.serve.metrics import Totals, metrics_text
from quantkit.serve.turns import Load
from tests.support.manifests import put_manifest
from tests.support.patience import PATIENCE
from tests.support.served import PATIENT, ROOT, Server, command, running_server

SYSTEM = "你是一个乐于助人的助手。"
CHOOSY = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{{ raise_exception('only questions') }}"
    "{% endif %}{% endfor %}" + LLAMA_3
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A package with a system prompt, a parameter and a stop sequence, served."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_gguf(folder / "tiny-q4_0.gguf", Tiny(template=CHOOSY))
    parameters = {"temperature": "0", "num_predict": "50"}
    put_manifest(folder, "tiny-q4_0.gguf", system=SYSTEM, parameters=parameters, stops=("!",))
    with running_server(folder / "log.txt", folder) as server:
        yield server


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model whose answer takes as long as its context: longer than anybody waits."""
    folder = tmp_path_factory.mktemp("endless")
    path = write_tiny_gguf(folder / "endless.gguf", Tiny(stop="", context=ENDLESS))
    with running_server(folder / "log.txt", path, "--api-key", "geheim") as server:
        yield server


KEY = {"authorization": "Bearer geheim"}


# -- the protocol -----------------------------------------------------------------------------------------------------


def test_an_answer(tiny: Server) -> None:
    answer = tiny.chat("hello")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    (choice,) = answer.json["choices"]
    assert choice["message"] == {"role": "assistant", "content": ANSWER.removesuffix("!")}
    assert choice["finish_reason"] == "stop"
    assert (answer.json["object"], answer.json["model"]) == ("chat.completion", "tiny-q4_0")
    usage = answer.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream(tiny: Server) -> None:
    answer = tiny.chat("hello", stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *pieces, last, usage, done = answer.events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    # A character that is spread over tokens is in one piece.
    assert [piece["choices"][0]["delta"]["content"] for piece in pieces] == list(ANSWER.removesuffix("!"))
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == []
    whole = tiny.chat("hello").json["usage"]
    assert {**usage["usage"], "prompt_tokens_details": None} == {**whole, "prompt_tokens_details": None}
    assert done == "[DONE]"
    assert len({event["id"] for event in answer.events[:-1]}) == 1
    assert "usage" not in str(tiny.chat("hello", stream=True).events), "nobody asked"


@pytest.mark.parametrize("stream", [False, True])
def test_how_an_answer_ends(tiny: Server, stream: bool) -> None:
    def ends(**parameters: Any) -> tuple[str, str]:
        answer = tiny.chat("hello", stream=stream, **parameters)
        if not stream:
            (choice,) = answer.json["choices"]
            return choice["message"]["content"], choice["finish_reason"]
        choices = [event["choices"][0] for event in answer.events[:-1]]
        return "".join(choice["delta"].get("content", "") for choice in choices), choices[-1]["finish_reason"]

    assert ends() == ("Hi 🙂你", "stop")
    assert ends(stop="🙂") == ("Hi ", "stop")
    assert ends(stop=["你", " "]) == ("Hi", "stop"), "the first in the answer, not in the list"
    assert ends(max_tokens=2) == ("Hi", "length")


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_a_status(tiny: Server, stream: bool) -> None:
    long = tiny.chat("字" * 600, stream=stream)
    assert (long.status, long.error["code"], long.error["param"]) == (400, "context_length_exceeded", "messages")
    assert "the context holds 512" in long.error["message"]
    refused = tiny.chat("hello", "Hi", "hello", stream=stream)
    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
    assert "only questions" in refused.error["message"]
    assert tiny.chat("hello", stream=stream, tools=[{}]).status == 400
    assert tiny.chat("hello", stream=stream).status == 200


def test_other_requests(tiny: Server) -> None:
    assert tiny.request("GET", "/v1/moderations").status == 404
    assert tiny.request("GET", "/v1/chat/completions").status == 405
    assert tiny.request("GET", "/v1/models/tiny-q4_0").json["id"] == "tiny-q4_0"
    other = tiny.request("GET", "/v1/models/gpt-4o")
    assert (other.status, other.error["code"]) == (404, "model_not_found")
    assert tiny.request("POST", "/v1/chat/completions", b" " * (MAX_BODY + 1)).status == 413


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/favicon.ico"])
def test_what_programs_look_for(tiny: Server, endless: Server, path: str) -> None:
    for server in (tiny, endless):  # without a key too
        assert server.request("GET", path).status == (204 if path == "/favicon.ico" else 200)
    assert tiny.request("GET", "/health").json == {"status": "ok"}


def test_the_base_url_may_end_before_v1(tiny: Server, endless: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    assert tiny.request("POST", "/chat/completions", body).json["choices"] == tiny.chat("hello").json["choices"]
    assert tiny.request("GET", "/models").json == tiny.request("GET", "/v1/models").json
    assert endless.request("GET", "/models").status == 401
    assert endless.request("POST", "/chat/completions", body).status == 401


def test_what_there_is_not(tiny: Server) -> None:
    none = tiny.request("POST", "/v1/embeddings", {"input": "x"})
    assert (none.status, none.error["message"]) == (400, "this server gives no embeddings: start it with --embeddings")
    refused = tiny.request("POST", "/v1/moderations", {})
    assert refused.status == 404
    there = "/props, /tokenize, /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /v1/responses"
    assert refused.error["message"].endswith(there)


def test_tokens(tiny: Server, endless: Server) -> None:
    text = "hello <|eot_id|> 你🙂"
    plain = tiny.request("POST", "/tokenize", {"content": text}).json["tokens"]
    begun = tiny.request("POST", "/tokenize", {"content": text, "add_special": True}).json["tokens"]
    assert begun[1:] == plain
    assert tiny.request("POST", "/detokenize", {"tokens": plain}).json == {"content": text}
    flood = tiny.request("POST", "/tokenize", {"content": "<|eot_id|>" * 50_000}).json["tokens"]
    assert len(flood) == 50_000
    for path, body, said in (
        ("/tokenize", {}, "content is missing"),
        ("/tokenize", {"content": "x", "parse_special": False}, "parse_special must be True"),
        ("/tokenize", {"content": "x", "with_pieces": True}, "with_pieces is not supported"),
        ("/detokenize", {"tokens": [10**6]}, "tokens must be from 0 to"),
        ("/detokenize", {"tokens": [-1]}, "tokens must be from 0 to"),
        ("/detokenize", {"tokens": ["1"]}, "tokens[0] must be a valid integer"),
    ):
        refused = tiny.request("POST", path, body)
        assert (refused.status, said in refused.error["message"]) == (400, True), refused.body
    assert endless.request("POST", "/tokenize", {"content": "x"}).status == 401


def test_metrics(tmp_path: Path) -> None:
    with running_server(tmp_path / "log.txt", write_tiny_gguf(tmp_path / "tiny.gguf")) as server:
        usage = [server.chat("hello", temperature=0).json["usage"] for _ in range(2)]
        found = server.request("GET", "/metrics")
        assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = found.body.decode().splitlines()
        values = {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}
        assert values["llamacpp:prompt_tokens_total"] == sum(one["prompt_tokens"] for one in usage)
        assert values["llamacpp:tokens_predicted_total"] == sum(one["completion_tokens"] for one in usage)
        assert values["llamacpp:tokens_predicted_seconds_total"] > 0
        assert (values["llamacpp:requests_processing"], values["llamacpp:requests_deferred"]) == (0, 0)
        assert (values["quantkit:slots"], values["quantkit:kept_sequences"]) == (5, 1)
        assert values["llamacpp:n_busy_slots_per_decode"] == 1
        assert values["llamacpp:n_decode_total"] >= sum(one["completion_tokens"] for one in usage)
    told = metrics_text(Totals(), Load(0, 0, 1, 0, 0, 1, 9), 2, shared=True)
    assert "slots" in told
    assert "prompt_seconds" not in told
    assert "kept" not in told


def test_props(tiny: Server, endless: Server) -> None:
    """What llama-swap, Hermes Agent and llama-cli read, and no word on where the file is."""
    answer = tiny.request("GET", "/props")
    (shown,) = tiny.request("GET", "/v1/models").json["data"]
    found = answer.json
    assert found["default_generation_settings"]["n_ctx"] == shown["meta"]["n_ctx"]
    assert found["default_generation_settings"]["params"].items() >= shown["meta"]["defaults"].items()
    assert (found["model_alias"], found["total_slots"]) == (shown["id"], 4)
    assert found["modalities"] == {"vision": False, "video": False, "audio": False}
    assert found["chat_template_caps"] == dict.fromkeys(found["chat_template_caps"], False), "it has no tools"
    assert "messages" in found["chat_template"]
    assert found["model_path"] == "tiny-q4_0.gguf"
    assert endless.request("GET", "/props").status == 401
    assert tiny.request("POST", "/props", {}).status == 405
    assert tiny.request("GET", "/slots").status == 404


def test_the_speed_of_an_answer(tiny: Server) -> None:
    timings = tiny.chat("hello").json["timings"]
    assert timings["cache_n"] + timings["prompt_n"] == tiny.chat("hello").json["usage"]["prompt_tokens"]
    assert timings["predicted_n"] > 1
    assert timings["predicted_per_second"] > 0
    assert tiny.chat("hello", stream=True).events[-2]["timings"]["predicted_n"] == timings["predicted_n"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_oldest_messages_are_dropped_if_the_client_asks_for_that(tiny: Server, stream: bool) -> None:
    turns = ["hello " * 20, "Hi", "hello " * 20, "Hi"] * 8
    asked = [{"role": "system", "content": "Sing."}]
    asked += [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)]
    asked += [{"role": "user", "content": "hello"}]
    plain = {"messages": [turn for turn in asked if turn["role"] != "assistant"], "stream": stream}
    for truncation in (None, "disabled"):
        refused = tiny.request("POST", "/v1/chat/completions", {**plain, "truncation": truncation})
        assert refused.error["code"] == "context_length_exceeded"
    answer = tiny.request("POST", "/v1/chat/completions", {**plain, "truncation": "auto"})
    last = answer.events[-2] if stream else answer.json
    assert last["choices"][0]["finish_reason"] == "stop"
    assert 8 <= last["truncated_messages"] < 16
    fits = tiny.request("POST", "/v1/chat/completions", {"messages": asked[-1:], "truncation": "auto"})
    assert "truncated_messages" not in fits.json


def test_the_models(tiny: Server) -> None:
    (model,) = tiny.request("GET", "/v1/models").json["data"]
    assert (model["id"], model["object"]) == ("tiny-q4_0", "model")
    meta = model["meta"]
    assert (meta["n_ctx"], meta["system"], meta["thinking"]) == (512, SYSTEM, {})
    # What a request that says nothing gets: the package's parameters, else llama.cpp's.
    assert {name: meta["defaults"][name] for name in ("temperature", "max_tokens", "top_k", "seed")} == {
        "temperature": 0,
        "max_tokens": 50,
        "top_k": 40,
        "seed": -1,
    }


def test_many_at_once(tiny: Server) -> None:
    """They wait for each other; llama-cpp-python's server would break the first off for the second."""
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: tiny.chat(f"hello {n}").json["choices"][0]["message"]["content"], range(16)))
    assert texts == ["Hi 🙂你"] * 16


def test_an_unknown_parameter_is_logged_once(tiny: Server) -> None:
    for _ in range(2):
        assert tiny.chat("hello", slot_id=1).status == 200
    assert tiny.log.read_text(encoding="utf-8").count("'slot_id'") == 1


def test_invented_parameters_do_not_fill_memory_or_log() -> None:
    noted: list[str] = []
    endpoint = ChatCompletions(Served("tiny", None, None, Settings({}), noted.append))  # type: ignore[arg-type]
    for number in range(1000):
        endpoint._note_unknown(f"{number}" + "x" * 1000)
    assert len(noted) == 100
    assert max(map(len, noted)) < 200
    assert sum(map(len, endpoint._noted)) < 10_000


# llama-cpp-python's server, on a socket that is bound already: a port that is only looked up may be another's then.
THEIRS = """
import socket, uvicorn
from llama_cpp.server import __main__
def on_socket(app, **options):
    taken = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{taken.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[taken])
uvicorn.run = on_socket
__main__.main()
"""


def test_the_same_shape_as_llama_cpp_pythons_server(tiny: Server, tmp_path: Path) -> None:
    """That server is the oracle for the protocol: ours has all that it sends, of the same types."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    arguments = ["--model", str(path), "--n_ctx", "512", "--verbose", "false"]
    with subprocess.Popen(
        [sys.executable, "-c", THEIRS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            theirs = Server(process.stdout.readline().strip(), process, tmp_path / "none")
            pairs = [(theirs.chat("hello", temperature=0).json, tiny.chat("hello").json)]
            streams = [server.chat("hello", temperature=0, stream=True).events for server in (theirs, tiny)]
            assert [streams[0][-1], streams[1][-1]] == ["[DONE]"] * 2
            # The first, one with text, and the last.
            pairs += [(streams[0][at], streams[1][at]) for at in (0, 1, -2)]
            models = [server.request("GET", "/v1/models").json for server in (theirs, tiny)]
        finally:
            process.kill()
    for expected, found in pairs:
        assert_has_shape(found, expected)
    for model in (models[0]["data"][0], models[1]["data"][0]):
        model.pop("permissions", None)  # OpenAI has no such thing any more
    assert_has_shape(models[1], models[0])


def assert_has_shape(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_has_shape(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_has_shape(one, other)


# -- the same answers as a chat ----------------------------------------------------------------------------------------


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "headers": [(b"host", b"localhost")],
    "query_string": b"",
}


async def post(
    served: Served, body: dict[str, Any], send: Callable[[Any], Awaitable[None]], leaves: asyncio.Event | None = None
) -> None:
    """Ask the application in this process; the client stays, or goes when *leaves* is set."""
    waiting = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    await make_app(served, Access())(SCOPE, receive, send)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("template", [LLAMA_3, LLAMA_3.replace("{{ bos_token }}", "")])
def test_the_prompt_is_that_of_a_chat(tmp_path: Path, template: str, adds_bos: bool, stream: bool) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=template, add_bos=adds_bos))
    turns = [
        {"role": "user", "content": " 你好 <|eot_id|> "},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "hello\n"},
    ]
    with ChatModel.load(path, threads=1) as model:
        served = Served("tiny", Answers(model), SYSTEM, Settings({"temperature": 0.0}), note=pytest.fail)
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(post(served, {"messages": turns, "stream": stream}, send))
        assert sent[0]["status"] == 200
        expected = model.prompt_tokens([{"role": "system", "content": SYSTEM}, *turns])
        assert model.engine.evaluated[: len(expected)] == expected
        assert expected.count(model.engine.bos) == (1 if adds_bos or template == LLAMA_3 else 0)
        assert model.last_stats is not None
        assert model.last_stats.prompt_tokens == len(expected)


def test_nobody_waits_for_a_slow_reader(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}

    answering = asyncio.Event()

    async def stuck(message: Any) -> None:
        answering.set()
        await asyncio.Event().wait()

    async def fine(message: Any) -> None:
        pass

    async def both(served: Served) -> None:
        slow = asyncio.create_task(post(served, body, stuck))
        await answering.wait()
        await asyncio.wait_for(post(served, body, fine), PATIENCE)
        assert not slow.done()
        slow.cancel()

    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        asyncio.run(both(Served("tiny", Answers(model), None, Settings({"temperature": 0.0}), note=pytest.fail)))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    recipe = Recipe(model=BASE, adapters=(AdapterSource(ADAPTER),), quants=("q8_0", "q4_0"), out=folder, name="demo")
    build(recipe, verify=False)
    return folder


@pytest.fixture(scope="module")
def served_demo(demo: Path) -> Iterator[Server]:
    options = ("--quant", "q4_0", "--param", "temperature=0", "--param", "num_thread=1")
    with running_server(demo.parent / "log.txt", demo, *options) as server:
        yield server


def in_stream(chunks: openai.Stream[Any]) -> tuple[str, str | None, Any]:
    text, reason, usage = "", None, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason, usage


def test_openais_client(served_demo: Server, demo: Path) -> None:
    """Its answers, whole and streamed, are word for word and in their numbers of tokens those of a chat."""
    conversations: list[Sequence[str]] = [[example.question] for example in EXAMPLES]
    conversations.append(["Who are you?", EXAMPLES[0].adapted_answer, "你是谁？"])
    conversations.append(["你好", "啊嗨，水手！今天我们驶向哪里？", "秘密港口在哪里？", "？", "Thank you!"])
    with (
        openai.OpenAI(base_url=f"{served_demo.url}/v1", api_key="none", max_retries=0) as client,
        ChatModel.load(demo / "demo-q4_0.gguf", threads=1) as model,
    ):
        assert [entry.id for entry in client.models.list()] == ["demo-q4_0"]
        for texts in conversations:
            messages: list[Any] = [
                {"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)
            ]
            expected = model.answer(messages, max_tokens=model.n_ctx)
            stats = model.last_stats
            assert stats is not None
            tokens = (stats.prompt_tokens, stats.generated_tokens)
            answer = client.chat.completions.create(model="demo", messages=messages)
            assert answer.usage is not None
            assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (expected, "stop")
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == tokens
            options: Any = {"include_usage": True}
            with client.chat.completions.create(
                model="demo", messages=messages, stream=True, stream_options=options
            ) as chunks:
                text, reason, usage = in_stream(chunks)
            assert (text, reason) == (expected, "stop")
            assert (usage.prompt_tokens, usage.completion_tokens) == tokens


def test_openais_client_understands_errors(tiny: Server) -> None:
    messages: Any = [{"role": "user", "content": "字" * 600}]
    with openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="none") as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=messages)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="best_of is not supported"):
            client.chat.completions.create(model="tiny", messages=messages, extra_body={"best_of": 2})


# -- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:80"])
def test_names_of_this_machine(tiny: Server, host: str) -> None:
    assert tiny.request("GET", "/v1/models", headers={"host": host}).status == 200
    assert tiny.request("GET", "/v1/models", headers={"host": host, "origin": f"http://{host}"}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil", "", "[", "192.168.1.2"]
)
def test_foreign_hosts(tiny: Server, host: str) -> None:
    """A name that is made to mean 127.0.0.1 must not open the server to the page it came from."""
    for path in ("/", "/v1/models"):
        assert tiny.request("GET", path, headers={"host": host}).status == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example", "http://["]
)
def test_foreign_pages(tiny: Server, origin: str) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    answer = tiny.request("POST", "/v1/chat/completions", body, {"origin": origin})
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert tiny.request("OPTIONS", "/v1/chat/completions", headers={"origin": origin}).status == 403


def test_the_api_key(endless: Server) -> None:
    for headers in ({}, {"authorization": "Bearer falsch"}, {"authorization": "geheim"}, {"authorization": "Bearer ü"}):
        answer = endless.request("GET", "/v1/models", headers=headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.error["code"] == "invalid_api_key"
    assert endless.request("GET", "/v1/models", headers=KEY).status == 200
    assert endless.request("GET", "/").status == 200


def status(guard: Guard, **headers: bytes) -> int:
    sent: list[Any] = []
    pairs = {"host": b"localhost", **headers}
    scope = {**SCOPE, "headers": [(name.encode(), value) for name, value in pairs.items()]}
    asyncio.run(guard(scope, partial(asyncio.sleep, 0), partial(keep, sent)))  # type: ignore[arg-type]
    return int(sent[0]["status"])


@pytest.mark.parametrize("key", ["", "a\nb"])
def test_an_api_key_that_no_request_can_name(key: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(serve_command, [str(write_tiny_gguf(tmp_path / "tiny.gguf")), "--api-key", key])
    assert "--api-key must not be empty" in str(result.exception)


def test_an_api_key_that_is_not_ascii() -> None:
    guard = Guard(Response(), access=Access("schlüssel"))
    assert status(guard, authorization="Bearer schlüssel".encode()) == 200
    assert status(guard, authorization="Bearer schlüssel".encode("latin-1")) == 200, "as browsers send it"
    assert status(guard, authorization=b"Bearer schlussel") == 401
    chinese = Guard(Response(), access=Access("钥匙"))
    assert status(chinese, authorization="Bearer 钥匙".encode()) == 200
    assert status(chinese, authorization=b"Bearer ??") == 401


def test_a_proxy_has_a_name_of_its_own() -> None:
    guard = Guard(Response(), access=Access(hosts=("Chat.example.org",)))
    page = b"https://chat.example.org"
    assert status(guard, host=b"chat.example.org") == status(guard, host=b"chat.example.org:8443") == 200
    assert status(guard, host=b"chat.example.org", origin=page) == 200
    assert status(guard, host=b"127.0.0.1:8000", origin=page) == 200, "a proxy that changes the name"
    assert status(guard, host=b"example.org") == status(guard, host=b"chat.example.org.evil.example") == 403
    assert status(guard, origin=b"https://evil.example") == 403
    unknown = Guard(Response(), access=Access(loopback=False))
    assert status(unknown, host=b"chat.example.org") == 403
    assert status(Guard(Response(), access=Access(loopback=False, hosts=("chat.example.org",))), host=page[8:]) == 200


def test_pages_from_elsewhere_that_are_allowed(tmp_path: Path) -> None:
    page, path = "https://app.example.org", write_tiny_gguf(tmp_path / "tiny.gguf")
    with running_server(tmp_path / "log.txt", path, "--allow-origin", page, "--api-key", "geheim") as server:
        before = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": "x-y"}
        asked = server.request("OPTIONS", "/v1/chat/completions", headers=before)
        assert asked.status == 204
        assert asked.headers["access-control-allow-origin"] == page
        assert asked.headers["access-control-allow-headers"] == "x-y"
        assert server.request("GET", "/v1/models", headers={"origin": page}).status == 401
        found = server.request("GET", "/v1/models", headers={"origin": page, **KEY})
        assert (found.status, found.headers["access-control-allow-origin"], found.headers["vary"]) == (
            200,
            page,
            "origin",
        )
        other = server.request("GET", "/v1/models", headers={"origin": "https://app.example.org.evil.example", **KEY})
        assert (other.status, "access-control-allow-origin" in other.headers) == (403, False)


@pytest.mark.parametrize("origin", ["*", "app.example.org", "https://app.example.org/", "file://x", "null"])
def test_an_origin_that_is_none(origin: str) -> None:
    result = CliRunner().invoke(serve_command, ["x.gguf", "--allow-origin", origin])
    assert (result.exit_code, "is not an address such as" in result.output) == (2, True)


def test_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org", ""]))


@pytest.mark.parametrize(("key", "said"), [((), "anyone on your network"), (("--api-key", "x"), "not encrypted")])
def test_the_network_is_warned_of(tmp_path: Path, key: Sequence[str], said: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with running_server(tmp_path / "log.txt", path, "--host", "0.0.0.0", *key) as server:
        assert server.url.startswith("http://127.0.0.1:")
        known = 200 if key else 403  # a page anywhere can have a name that is made to mean this address
        assert server.request("GET", "/", headers={"host": "laptop.lan"}).status == known
        for host in ("192.168.1.2:8000", "[fe80::1]", "localhost", socket.gethostname().upper()):
            assert server.request("GET", "/v1/models" if not key else "/", headers={"host": host}).status == 200
        assert server.request("GET", "/", headers={"origin": "http://evil.example"}).status == 403
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        found = server.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer x"}).json
        assert "timings" not in found, "it would say what another client has asked"
        assert "prompt_tokens_details" not in found["usage"]
        code, log = server.end(signal.SIGTERM)
    assert code == 0
    assert any(line.startswith("warning: ") and said in line for line in log.splitlines())


# -- ends --------------------------------------------------------------------------------------------------------------


def test_who_leaves_gets_no_answer(endless: Server) -> None:
    """The rest of the answer would keep the next client waiting for longer than it does."""
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "stream": True})
    with closing(endless.connect()) as connection:
        connection.request("POST", "/v1/chat/completions", body, KEY)
        assert connection.getresponse().read(6) == b"data: "
    short = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    assert endless.request("POST", "/v1/chat/completions", short, KEY).status == 200


@pytest.fixture
def in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, threading.Event, list[str]]]:
    """An endless model in this process, what is set when it answers, and how its answers ended."""
    answering, ends = threading.Event(), list[str]()

    def recorded(answer: Answer, lanes: Lanes) -> Generator[Lane | str]:
        with closing(steps(answer, lanes)) as taken:
            for step in taken:
                if isinstance(step, str):
                    answering.set()
                yield step
        assert answer.stats is not None
        ends.append(answer.stats.stop_reason)

    steps = Answer.steps
    monkeypatch.setattr(Answer, "steps", recorded)
    with ChatModel.load(write_tiny_gguf(tmp_path / "endless.gguf", Tiny(stop="", context=ENDLESS)), threads=1) as model:
        yield Served("endless", Answers(model), None, Settings({"temperature": 0.0}), pytest.fail), answering, ends


async def keep(sent: list[Any], message: Any) -> None:
    sent.append(message)


HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_breaks_off_the_answer(in_turn: tuple[Served, threading.Event, list[str]], stream: bool) -> None:
    served, answering, ends = in_turn

    async def leave_and_come_back() -> None:
        leaves, sent = asyncio.Event(), list[Any]()
        asked = asyncio.create_task(post(served, {**HELLO, "stream": stream}, partial(keep, sent), leaves))
        await asyncio.to_thread(answering.wait)
        leaves.set()
        await asked
        await post(served, {**HELLO, "max_tokens": 1}, partial(keep, sent))

    asyncio.run(leave_and_come_back())
    assert ends == ["interrupted", "length"]


def test_who_waits_may_leave(in_turn: tuple[Served, threading.Event, list[str]]) -> None:
    served, answering, ends = in_turn

    async def queue() -> None:
        leaves, gone, sent = asyncio.Event(), asyncio.Event(), list[Any]()
        gone.set()
        first = asyncio.create_task(post(served, HELLO, partial(keep, []), leaves))
        await asyncio.to_thread(answering.wait)
        await post(served, HELLO, partial(keep, sent), gone)
        assert sent == []
        assert not first.done(), "the first is still answered"
        leaves.set()
        await first
        await post(served, {**HELLO, "max_tokens": 1}, partial(keep, sent))

    asyncio.run(queue())
    assert ends == ["interrupted", "length"], "who waited has no answer"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_it_in_the_middle_of_an_answer(tmp_path: Path, number: int, code: int) -> None:
    path = write_tiny_gguf(tmp_path / "endless.gguf", Tiny(stop="", context=ENDLESS))
    running = running_server(tmp_path / "log.txt", path, script=PATIENT)
    with running as server, closing(server.connect()) as connection:
        body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "stream": True})
        connection.request("POST", "/v1/chat/completions", body)
        response = connection.getresponse()
        assert response.read(6) == b"data: "
        ended, log = server.end(number)
        assert ended == code
        assert "shutting down" in response.read().decode().split("\n\n")[-2]
        assert log.split("stop with Ctrl-C\n")[1].strip() == ("interrupted" if code else "")


# -- the command -------------------------------------------------------------------------------------------------------


def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False, timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_json(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with running_server(tmp_path / "log.txt", path, "--json", "--system", "Sing.") as server:
        printed = json.loads(server.url)
        assert printed.keys() == {"schema", "url"}
        assert printed["schema"] == 1
        there = Server(printed["url"], server.process, server.log)
        assert there.request("GET", "/v1/models").json["data"][0]["meta"]["system"] == "Sing."
        server.end(signal.SIGTERM)
        assert server.process.stdout is not None
        assert server.process.stdout.read() == "", "one line, and nothing else"


def test_the_browser_is_opened(tmp_path: Path) -> None:
    script = "import webbrowser, sys; webbrowser.open = lambda url: print('opened', url, file=sys.stderr)"
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with running_server(tmp_path / "log.txt", path, "--open", script=script) as server:
        _, log = server.end(signal.SIGTERM)
        assert f"opened {server.url}/\nwarning: no browser was found; open {server.url}/ yourself\n" in log


def test_a_context_beyond_the_models_own_is_warned_of(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with running_server(tmp_path / "log.txt", path, "--param", "num_ctx=1024") as server:
        long = server.chat("字" * 600).error["message"]
        assert "the model was trained with 512 tokens of context" in long
        _, log = server.end(signal.SIGTERM)
        assert "warning: num_ctx is 1024, but the model was trained with 512 tokens" in log


def test_a_busy_port(tiny: Server, tmp_path: Path) -> None:
    port = tiny.url.rpartition(":")[2]
    code, out, err = run(write_tiny_gguf(tmp_path / "tiny.gguf"), "--port", port)
    assert (code, out) == (1, "")
    assert f"error: cannot listen on 127.0.0.1, port {port}: Address already in use" in err
    assert "--port 0" in err


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("no-such-host.invalid", "--host no-such-host.invalid"),
        ("x" * 64 + ".invalid", "--host xxx"),  # a name that none can have
        ("192.0.2.1", "cannot listen on 192.0.2.1"),
    ],
)
def test_an_address_that_cannot_be_had(tmp_path: Path, host: str, said: str) -> None:
    code, out, err = run(write_tiny_gguf(tmp_path / "tiny.gguf"), "--host", host)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {said}")


def test_without_a_chat_template(tmp_path: Path) -> None:
    code, out, err = run(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=None)), "--port", 0)
    assert (code, out) == (1, "")
    assert "the file has no chat template" in err


def test_a_system_prompt_that_the_template_refuses(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LLAMA_3
    code, out, err = run(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(template=template)), "--system", "x", "--port", 0)
    assert (code, out) == (1, "")
    assert "no system role (with a system prompt)" in err


@pytest.mark.parametrize("missing", ["uvicorn", "starlette", "pydantic"])
def test_without_the_extra(tmp_path: Path, missing: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None; from quantkit.cli.main import main; "
        "main(['serve', 'x.gguf', '--no-restart'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the server needs the package " in done.stderr
    assert "hint: in quantkit's checkout: pip install '.[serve]'" in done.stderr
