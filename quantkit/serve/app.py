"""The web application: the OpenAI-compatible API under ``/v1``, and the chat page."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quantkit.serve.completions import ChatCompletions, Served
from quantkit.serve.guard import Guard
from quantkit.serve.page import page_response
from quantkit.serve.reply import error_object


def make_app(served: Served, *, api_key: str | None, loopback: bool, names: Collection[str] = ()) -> Starlette:
    """Make the application.

    Args:
        served: the model and its settings.
        api_key: the key that requests to ``/v1`` must contain; None for no key.
        loopback: whether it serves this machine only, see :class:`~quantkit.serve.guard.Guard`.
        names: the machine's names on a network, see there.
    """
    return Starlette(
        routes=[
            Route("/", page_response, methods=["GET"]),
            Route("/v1/models", partial(_models, served), methods=["GET"]),
            Route("/v1/models/{name:path}", partial(_model, served), methods=["GET"]),
            Route("/v1/chat/completions", ChatCompletions(served), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, api_key=api_key, loopback=loopback, names=names)],
        exception_handlers={HTTPException: _http_error},
    )


async def _models(served: Served, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_model_object(served)]})


async def _model(served: Served, request: Request) -> Response:
    name = request.path_params["name"]
    if name != served.name:
        message = f"there is no model {name}; this server serves {served.name}"
        content = error_object(message, "invalid_request_error", param="model", code="model_not_found")
        return JSONResponse(content, status_code=404)
    return JSONResponse(_model_object(served))


def _model_object(served: Served) -> dict[str, object]:
    model = served.answers.model
    return {
        "id": served.name,
        "object": "model",
        "created": served.since,
        "owned_by": "quantkit",
        "meta": {"n_ctx": model.n_ctx, "system": served.system or ""},
    }


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    content = error_object(f"{request.method} {request.url.path}: {error.detail}", "invalid_request_error")
    return JSONResponse(content, status_code=error.status_code, headers=error.headers)
