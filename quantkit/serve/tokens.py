"""``POST /tokenize`` and ``/detokenize``, as llama.cpp's server has them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from quantkit.errors import QuantkitError
from quantkit.run.session import ChatModel
from quantkit.serve.body import Bodies
from quantkit.serve.errors import RequestError
from quantkit.serve.refusals import problem, refused

_Asked = TypeVar("_Asked", bound=BaseModel)
_Endpoint = Callable[[Request], Awaitable[Response]]


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    content: str
    add_special: bool = False
    parse_special: Literal[True] = True


class _Tokens(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: list[int] = Field(max_length=2**17)


def tokenize(model: ChatModel, bodies: Bodies) -> _Endpoint:
    """The endpoint that gives the tokens of a text; with ``add_special`` and what the file adds to it."""

    def work(asked: _Text) -> dict[str, Any]:
        if asked.add_special:
            return {"tokens": model.text_tokens(asked.content)}
        return {"tokens": model.engine.tokenize_prompt(asked.content)}

    return _endpoint(_Text, work, bodies)


def detokenize(model: ChatModel, bodies: Bodies) -> _Endpoint:
    """The endpoint that gives the text of tokens."""

    def work(asked: _Tokens) -> dict[str, Any]:
        if not all(0 <= token < model.engine.n_vocab for token in asked.tokens):
            raise RequestError(f"tokens must be from 0 to {model.engine.n_vocab - 1}", param="tokens")
        data = b"".join(model.engine.piece(token, special=True) for token in asked.tokens)
        return {"content": data.decode(errors="replace")}

    return _endpoint(_Tokens, work, bodies)


def _endpoint(kind: type[_Asked], work: Callable[[_Asked], dict[str, Any]], bodies: Bodies) -> _Endpoint:
    turn = asyncio.Lock()

    async def answer(request: Request) -> Response:
        try:
            async with bodies.read(request) as body, turn:
                return JSONResponse(await asyncio.to_thread(lambda: work(_read(kind, body))))
        except ClientDisconnect:
            return Response(status_code=400)
        except QuantkitError as error:
            return refused(error)

    return answer


def _read(kind: type[_Asked], body: bytes) -> _Asked:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise problem(error) from None
