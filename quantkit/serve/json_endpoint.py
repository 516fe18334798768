"""Endpoints that take a JSON object and answer with one, without the model's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from quantkit.errors import QuantkitError
from quantkit.serve.body import Bodies
from quantkit.serve.refusals import problem, refused
from quantkit.serve.worker import Worker

Asked = TypeVar("Asked", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]


def json_endpoint(kind: type[Asked], work: Callable[[Asked], dict[str, Any]], bodies: Bodies) -> Endpoint:
    """Make an endpoint that does one request at a time, in a thread.

    Args:
        kind: the pydantic model of the request.
        work: makes the answer; a :class:`QuantkitError` becomes an error response.
        bodies: the bodies of requests.
    """
    turn, worker = asyncio.Lock(), Worker()

    async def answer(request: Request) -> Response:
        try:
            async with bodies.read(request) as body, turn:
                return await worker.run(lambda: JSONResponse(work(read_json(kind, body))))
        except ClientDisconnect:
            return Response(status_code=400)
        except QuantkitError as error:
            return refused(error)

    return answer


def read_json(kind: type[Asked], body: bytes) -> Asked:
    """Read the body of a request.

    Raises:
        RequestError: it is not JSON, or a value is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise problem(error) from None
