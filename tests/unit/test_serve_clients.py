"""What people's programs ask: each client against one server, and its description against its answers.

Clients run in a process of their own, because they leave threads, warnings and settings behind.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from starlette.routing import Route
from test_thoughts import TEMPLATE, TOOL
from tiny_gguf import CALL, END_THINK, THINK, Tiny, vocabulary, write_tiny_gguf

from quantkit.run.settings import Settings
from quantkit.serve.app import make_app
from quantkit.serve.docs_page import docs_page
from quantkit.serve.embeddings import EmbeddingsBody
from quantkit.serve.guard import Access
from quantkit.serve.openapi import OPERATIONS, openapi
from quantkit.serve.request import UNSUPPORTED, ChatBody
from quantkit.serve.response_request import ResponseBody
from quantkit.serve.text_request import TextBody
from tests.support.patience import PATIENCE
from tests.support.served import Server, running_server

SAID = f"{THINK}hm{END_THINK}Yes"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that thinks, calls a tool, and gives embeddings."""
    folder = tmp_path_factory.mktemp("clients")
    tiny = Tiny(
        answer=f"{THINK}hm{END_THINK}Yes!{CALL}", template=TEMPLATE, ids={"llama.pooling_type": vocabulary()[3]}
    )
    path = write_tiny_gguf(folder / "tiny.gguf", tiny)
    with running_server(folder / "log.txt", path, "--embeddings", "--param", "temperature=0") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# -- OpenAI -----------------------------------------------------------------------------------------------------------


def test_openai_chats(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    answer = client.chat.completions.create(model="tiny", messages=HELLO, n=2, logprobs=True, top_logprobs=1)
    assert [choice.message.content for choice in answer.choices] == [f"Yes!{CALL}"] * 2
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].token == THINK
    assert logprobs.content[0].top_logprobs[0].logprob == logprobs.content[0].logprob
    with client.chat.completions.stream(model="tiny", messages=HELLO, tools=[TOOL]) as events:  # type: ignore[list-item]
        final = events.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or ()
    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "我", "n": 2})


def test_openai_continues_and_embeds(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="a\n\n", echo=True, stop="!")
    assert whole.choices[0].text == f"a\n\n{SAID}"
    streamed = client.completions.create(model="tiny", prompt="a\n\n", stream=True, logprobs=1, stop="!")
    chunks = [chunk.choices[0] for chunk in streamed]
    assert "".join(chunk.text for chunk in chunks) == SAID
    assert chunks[0].logprobs is not None
    assert chunks[0].logprobs.token_logprobs is not None
    vectors = client.embeddings.create(model="tiny", input=["x", "y"])  # the client asks for base64
    plain = client.embeddings.create(model="tiny", input="y", encoding_format="float")
    assert vectors.data[1].embedding == plain.data[0].embedding
    assert sum(value**2 for value in plain.data[0].embedding) == pytest.approx(1)


class Found(pydantic.BaseModel):
    """What an answer has to be."""

    where: list[bool]
    many: bool


def test_openai_responds(client: openai.OpenAI) -> None:
    """A thought, a text and a call are items; the streamed response is the whole one, and each event is OpenAI's."""
    tool: Any = {"type": "function", **TOOL["function"], "strict": True}
    whole = client.responses.create(model="tiny", input="hello", tools=[tool], metadata={"a": "b"})
    openai.types.responses.Response.model_validate(whole.model_dump(), strict=False)
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
    assert whole.output_text == "Yes!"
    assert (whole.status, whole.metadata, whole.error) == ("completed", {"a": "b"}, None)
    assert whole.usage is not None
    assert whole.usage.output_tokens > whole.usage.output_tokens_details.reasoning_tokens == 2
    with client.responses.stream(model="tiny", input="hello", tools=[tool]) as stream:
        events = list(stream)
        last = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    names = [event.type for event in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    assert names.count("response.output_item.done") == 3
    for one, other in zip(last.output, whole.output, strict=True):
        assert one.model_dump(exclude={"id", "call_id", "parsed", "parsed_arguments", "content"}) == other.model_dump(
            exclude={"id", "call_id", "content"}
        )
    assert last.output_text == whole.output_text

    items: Any = [{"role": "user", "content": "hello"}, *(item.model_dump() for item in whole.output)]
    called = whole.output[2].call_id  # type: ignore[union-attr]
    items.append({"type": "function_call_output", "call_id": called, "output": "there"})
    again = client.responses.create(model="tiny", input=items, tools=[tool], instructions="Look.")
    assert again.status == "completed"
    assert again.usage is not None
    assert again.usage.input_tokens > whole.usage.input_tokens + whole.usage.output_tokens


def test_how_a_response_ends(client: openai.OpenAI, server: Server) -> None:
    cut = client.responses.create(model="tiny", input="hello", max_output_tokens=5)
    assert (cut.status, cut.incomplete_details and cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.output[-1].status == "incomplete"  # type: ignore[union-attr]
    events = list(client.responses.create(model="tiny", input="hello", max_output_tokens=5, stream=True))
    assert events[-1].type == "response.incomplete"
    raw = server.request("POST", "/responses", {"input": "hello", "stream": True}).body.decode()
    assert all(part.startswith("event: response.") for part in raw.split("\n\n")[:-1])
    with pytest.raises(openai.BadRequestError, match="previous_response_id is not supported"):
        client.responses.create(model="tiny", input="hello", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="hello " * 10**5)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


def test_openai_parses(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=HELLO, response_format=Found, reasoning_effort="none", max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Found)


# -- others -----------------------------------------------------------------------------------------------------------

LANGCHAIN = """
import sys
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
url = sys.argv[1]
how = {"base_url": url, "api_key": "none", "model": "tiny", "max_retries": 0}
chat = ChatOpenAI(**how)
print("chat:", repr(chat.invoke("hello", stop=["!"]).content))
print("stream:", repr("".join(chunk.content for chunk in chat.stream("hello", stop=["!"]))))
look = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
print("tools:", chat.bind_tools([look]).invoke("hello").tool_calls[0]["args"])
print("text:", repr(OpenAI(**how).invoke("a\\n\\n", stop=["!"])))
vectors = OpenAIEmbeddings(check_embedding_ctx_length=False, **how).embed_documents(["x", "y"])
print("embeddings:", len(vectors), len(vectors[0]))
"""


def test_langchain(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LANGCHAIN, f"{server.url}/v1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == [
        "chat: 'Yes'",
        "stream: 'Yes'",
        "tools: {'at': '我', 'n': 2}",
        f"text: '{SAID}'",
    ]
    assert done.stdout.splitlines()[4].startswith("embeddings: 2 ")


def test_what_open_webui_asks(server: Server) -> None:
    """Its list of models, its chat, and what it sends for titles and to a knowledge base."""
    key = {"authorization": "Bearer none", "x-openwebui-user-name": "me"}
    models = server.request("GET", "/v1/models", headers=key).json
    assert [model["id"] for model in models["data"]] == ["tiny"]
    body = {"model": "tiny", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    events = server.request("POST", "/v1/chat/completions", body, key).events
    assert events[-2]["usage"]["completion_tokens"] > 0
    title = {"model": "tiny", "messages": HELLO, "stream": False, "max_completion_tokens": 4, "metadata": {}}
    assert server.request("POST", "/v1/chat/completions", title, key).status == 200
    assert server.request("POST", "/v1/embeddings", {"input": ["x"], "model": "tiny"}, key).status == 200


# -- the description --------------------------------------------------------------------------------------------------


def test_all_that_is_there_is_described(server: Server) -> None:
    assert server.request("GET", "/openapi.json").json == openapi()
    served: Any = type("Served", (), {"__getattr__": lambda self, name: self, "__call__": lambda self: self})()
    served.settings, served.name = Settings({}), "tiny"
    app = make_app(served, Access())
    described = {(one.path, one.method.upper()) for one in OPERATIONS}
    paths = {path for path, _ in described}
    found = set()
    for route in app.routes:
        assert isinstance(route, Route)
        path = route.path.replace(":path}", "}")
        name = path if path in paths else f"/v1{path}" if f"/v1{path}" in paths else path.removeprefix("/v1")
        found |= {(name, method) for method in (route.methods or {"POST"}) - {"HEAD"}}
    assert found - {("/page/{name}", "GET")} == described


@pytest.mark.parametrize("body", [ChatBody, TextBody, ResponseBody, EmbeddingsBody])
def test_all_that_is_read_is_described(body: type[pydantic.BaseModel]) -> None:
    schema = openapi()["components"]["schemas"][body.__name__]
    aliases = {field.alias or name for name, field in body.model_fields.items()}
    unsupported = next(one.unsupported for one in OPERATIONS if one.body is body)
    assert set(schema["properties"]) == {*aliases, *unsupported}
    assert set(schema["required"]) == {name for name, field in body.model_fields.items() if field.is_required()}
    if body is ChatBody:
        assert unsupported is UNSUPPORTED


def test_the_page_of_the_description(server: Server) -> None:
    page = server.request("GET", "/docs")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    text = page.body.decode()
    assert text == docs_page()
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["/openapi.json"]
    for one in OPERATIONS:
        assert f"{one.method.upper()} {one.path}" in text
    for name in ChatBody.model_fields:
        assert f"<code>{name}" in text


def test_schemathesis_finds_no_answer_that_is_not_described(server: Server, tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    program = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    line = [*program, "run", f"{server.url}/openapi.json", "--checks", checks, "--phases", "fuzzing", "-n", "5"]
    done = subprocess.run(
        [*line, "--seed", "1", "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None
    assert int(tested[1]) == len(OPERATIONS) - 1, "all but the description itself"
