"""``GET /openapi.json``: the API as OpenAPI 3.1, made of the models and tables that read the requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import quantkit
from quantkit.serve import request, response_request, text_request
from quantkit.serve.adapters import LoraScales
from quantkit.serve.embeddings import EmbeddingsBody
from quantkit.serve.page.rendering import MarkdownBody
from quantkit.serve.request import ChatBody
from quantkit.serve.response_request import ResponseBody
from quantkit.serve.text_request import TextBody
from quantkit.serve.tokens import DetokenizeBody, TokenizeBody

_REF = "#/components/schemas/{model}"

_STATUSES = {
    400: "The request cannot be answered; the message says which parameter is wrong.",
    401: "The API key is missing or wrong.",
    403: "The address of the request, or the page that it comes from, is not allowed.",
    404: "There is no such model.",
    408: "The request did not arrive in time.",
    413: "The request is too long.",
    500: "The model failed.",
    503: "Too much waits already, or the server is shutting down.",
}


@dataclass(frozen=True)
class Operation:
    """What can be asked of one path with one method.

    Attributes:
        path: where.
        method: get or post.
        summary: one sentence.
        answer: JSON schema of the answer; None for an answer that is no JSON.
        body: the model that reads the request.
        unsupported: parameter -> the values with which it has no effect; others are refused.
        media: the type of an answer that is no JSON.
        streams: whether the answer can come as server-sent events.
        status: of the answer.
        refusals: the statuses of errors besides those of every path.
        open: whether it needs no key.
    """

    path: str
    method: str
    summary: str
    answer: Mapping[str, Any] | None = None
    body: type[BaseModel] | None = None
    unsupported: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    media: str = "application/json"
    streams: bool = False
    status: int = 200
    refusals: tuple[int, ...] = ()
    open: bool = False


def _object(**properties: Any) -> dict[str, Any]:
    """A schema of an object that has at least these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_COUNTS = _object(prompt_tokens=_NUMBER, total_tokens=_NUMBER)
_CHOICE = {"index": _NUMBER, "finish_reason": {"enum": ["stop", "length", "tool_calls"]}}
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_NUMBER, owned_by=_TEXT, meta={"type": "object"})


def _answer(kind: str, **choice: Any) -> dict[str, Any]:
    choices = {"type": "array", "items": _object(**_CHOICE, **choice)}
    return _object(id=_TEXT, object={"const": kind}, created=_NUMBER, model=_TEXT, choices=choices, usage=_COUNTS)


_READ = (400, 408, 413, 503)
_VECTOR = {"anyOf": [{"type": "array", "items": {"type": "number"}}, _TEXT]}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "/v1/chat/completions",
        "post",
        "Answer a conversation.",
        _answer("chat.completion", message={"type": "object"}),
        ChatBody,
        request.UNSUPPORTED,
        streams=True,
        refusals=(*_READ, 500),
    ),
    Operation(
        "/v1/completions",
        "post",
        "Continue a text.",
        _answer("text_completion", text=_TEXT),
        TextBody,
        text_request.UNSUPPORTED,
        streams=True,
        refusals=(*_READ, 500),
    ),
    Operation(
        "/v1/responses",
        "post",
        "Answer a conversation, in the form of OpenAI's newer API; nothing is stored.",
        _object(
            id=_TEXT,
            object={"const": "response"},
            created_at=_NUMBER,
            status={"enum": ["completed", "incomplete"]},
            model=_TEXT,
            output={"type": "array", "items": _object(id=_TEXT, type=_TEXT, status=_TEXT)},
            usage=_object(input_tokens=_NUMBER, output_tokens=_NUMBER, total_tokens=_NUMBER),
        ),
        ResponseBody,
        response_request.UNSUPPORTED,
        streams=True,
        refusals=(*_READ, 500),
    ),
    Operation(
        "/v1/embeddings",
        "post",
        "Make vectors of texts; with serve --embeddings.",
        _object(
            object={"const": "list"},
            data={"type": "array", "items": _object(object=_TEXT, index=_NUMBER, embedding=_VECTOR)},
            model=_TEXT,
            usage=_COUNTS,
        ),
        EmbeddingsBody,
        refusals=(*_READ, 500),
    ),
    Operation(
        "/v1/models", "get", "The model.", _object(object={"const": "list"}, data={"type": "array", "items": _MODEL})
    ),
    Operation("/v1/models/{name}", "get", "The model with this name.", _MODEL, refusals=(404,)),
    Operation(
        "/tokenize",
        "post",
        "The tokens of a text.",
        _object(tokens={"type": "array", "items": _NUMBER}),
        TokenizeBody,
        refusals=_READ,
    ),
    Operation("/detokenize", "post", "The text of tokens.", _object(content=_TEXT), DetokenizeBody, refusals=_READ),
    Operation(
        "/render",
        "post",
        "Markdown as the nodes that the page builds.",
        {"type": "object"},
        MarkdownBody,
        refusals=(*_READ, 500),
    ),
    Operation("/health", "get", "Whether the server runs.", _object(status={"const": "ok"}), open=True),
    Operation("/metrics", "get", "What the server has done, for Prometheus.", media="text/plain"),
    Operation(
        "/props",
        "get",
        "What the server is, in the form of llama.cpp's.",
        _object(
            default_generation_settings=_object(n_ctx=_NUMBER, params={"type": "object"}),
            total_slots=_NUMBER,
            model_alias=_TEXT,
            model_path=_TEXT,
            modalities={"type": "object"},
            chat_template=_TEXT,
            chat_template_caps={"type": "object"},
        ),
    ),
    Operation("/openapi.json", "get", "This description.", {"type": "object"}, open=True),
    Operation("/docs", "get", "This description, as a page.", media="text/html", open=True),
    Operation("/", "get", "The chat page.", media="text/html", open=True),
    Operation("/favicon.ico", "get", "Nothing.", status=204, open=True),
    Operation("/lora-adapters", "get", "The adapters and their scales.", {"type": "array"}),
    Operation(
        "/lora-adapters",
        "post",
        "Set the scales for requests that do not choose.",
        {"type": "object"},
        LoraScales,
        refusals=_READ,
    ),
)
"""All that can be asked. What begins with /v1 is there without it, and /health with it."""


@cache
def openapi() -> dict[str, Any]:
    """The description."""
    bodies = {one.body for one in OPERATIONS if one.body is not None}
    ordered = sorted(bodies, key=lambda body: body.__name__)
    _, found = models_json_schema([(body, "validation") for body in ordered], ref_template=_REF)
    schemas: dict[str, Any] = {**found["$defs"], "Error": _error()}
    for one in OPERATIONS:
        if one.unsupported and one.body is not None:
            schemas[one.body.__name__]["properties"].update(
                {name: _without_effect(values) for name, values in sorted(one.unsupported.items())}
            )
    paths: dict[str, Any] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "quantkit serve",
            "version": quantkit.__version__,
            "description": "OpenAI's API for one GGUF model. A parameter that is null, or left out, is the package's.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(one: Operation) -> dict[str, Any]:
    said: dict[str, Any] = {"summary": one.summary, "responses": _responses(one)}
    if one.open:
        said["security"] = []
    if one.body is not None:
        schema = {"$ref": _REF.format(model=one.body.__name__)}
        said["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if "{name}" in one.path:
        said["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": _TEXT}]
    return said


def _responses(one: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {one.media: {"schema": dict(one.answer) if one.answer else _TEXT}}
    if one.streams:
        content["text/event-stream"] = {"schema": {"type": "object", "description": "A chunk each, then [DONE]."}}
    answered = {"description": one.summary} | ({} if one.status == 204 else {"content": content})
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    statuses = sorted({*one.refusals, 403, *([] if one.open else [401])})
    return {
        str(one.status): answered,
        **{str(status): {"description": _STATUSES[status], "content": error} for status in statuses},
    }


def _error() -> dict[str, Any]:
    text = {"anyOf": [_TEXT, {"type": "null"}]}
    return _object(error=_object(message=_TEXT, type=_TEXT, param=text, code=text))


def _without_effect(values: tuple[object, ...]) -> dict[str, Any]:
    return {"enum": [None, *values], "description": "Not supported: only values that have no effect."}
