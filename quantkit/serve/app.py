"""The web application: the OpenAI-compatible API under ``/v1``, and the chat page."""

from __future__ import annotations

from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from quantkit.serve.adapters import AdaptersEndpoint
from quantkit.serve.completions import ChatCompletions, Served, TextCompletions
from quantkit.serve.docs_page import docs_response, openapi_response
from quantkit.serve.embeddings import embeddings
from quantkit.serve.guard import Access, Guard
from quantkit.serve.metrics import metrics_text
from quantkit.serve.page.assets import page_routes
from quantkit.serve.page.defaults import shown_defaults
from quantkit.serve.page.rendering import render
from quantkit.serve.props import props
from quantkit.serve.refusals import error_object
from quantkit.serve.responses import Responses
from quantkit.serve.tokens import detokenize, tokenize

# llama.cpp's server answers without /v1 too, for clients whose base URL ends there.
_BASES = ("/v1", "")
_UNNAMED = {
    *("/", "/favicon.ico", "/models", "/chat/completions", "/completions", "/responses", "/embeddings"),
    *("/v1/health", "/render"),
}


def make_app(served: Served, access: Access) -> Starlette:
    """Make the application, for those whom *access* lets in."""
    chat, text, responses = ChatCompletions(served), TextCompletions(served), Responses(served)
    vectors = embeddings(served.name, served.embedder, served.answers.model.engine.n_vocab, served.bodies)
    routes = [*page_routes(), Route("/favicon.ico", _nothing, methods=["GET"])]
    for base in _BASES:
        routes += [
            Route(f"{base}/health", _health, methods=["GET"]),
            Route(f"{base}/models", partial(_models, served), methods=["GET"]),
            Route(f"{base}/models/{{name:path}}", partial(_model, served), methods=["GET"]),
            Route(f"{base}/chat/completions", chat, methods=["POST"]),
            Route(f"{base}/completions", text, methods=["POST"]),
            Route(f"{base}/responses", responses, methods=["POST"]),
            Route(f"{base}/embeddings", vectors, methods=["POST"]),
        ]
    model = served.answers.model
    routes += [
        Route("/metrics", partial(_metrics, served), methods=["GET"]),
        Route("/props", partial(_props, served), methods=["GET"]),
        Route("/tokenize", tokenize(model, served.bodies), methods=["POST"]),
        Route("/detokenize", detokenize(model, served.bodies), methods=["POST"]),
        Route("/openapi.json", openapi_response, methods=["GET"]),
        Route("/docs", docs_response, methods=["GET"]),
        Route("/render", render(served.renderer, served.bodies), methods=["POST"]),
    ]
    if served.adapters is not None:
        endpoint = AdaptersEndpoint(served.adapters, served.bodies)
        routes.append(Route("/lora-adapters", endpoint.__call__, methods=["GET", "POST"]))
    paths = {route.path for route in routes if "{" not in route.path} - _UNNAMED
    known = ", ".join(sorted(paths))
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: partial(_http_error, known)},
    )


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _metrics(served: Served, request: Request) -> Response:
    text = metrics_text(served.answers.totals, served.answers.load, served.restarts, shared=served.shared)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _props(served: Served, request: Request) -> Response:
    return JSONResponse(props(served.name, served.answers, served.settings))


async def _nothing(request: Request) -> Response:
    return Response(status_code=204)


async def _models(served: Served, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_model_object(served, name) for name in _names(served)]})


async def _model(served: Served, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in (known := _names(served)):
        message = f"there is no model {name}; this server serves {', '.join(known)}"
        content = error_object(message, "invalid_request_error", param="model", code="model_not_found")
        return JSONResponse(content, status_code=404)
    return JSONResponse(_model_object(served, name))


def _names(served: Served) -> tuple[str, ...]:
    """The model, and each adapter as a model of its own."""
    return (served.name, *(served.adapters.names if served.adapters else ()))


def _model_object(served: Served, name: str) -> dict[str, object]:
    model = served.answers.model
    return {
        "id": name,
        **({} if name == served.name else {"parent": served.name}),
        "object": "model",
        "created": served.since,
        "owned_by": "quantkit",
        "meta": {
            "n_ctx": model.n_ctx,
            "system": served.system or "",
            **shown_defaults(served.settings, model),
        },
    }


async def _http_error(known: str, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    there = f"; there are {known}" if error.status_code == 404 else ""
    message = f"{request.method} {request.url.path}: {error.detail}{there}"
    content = error_object(message, "invalid_request_error")
    return JSONResponse(content, status_code=error.status_code, headers=error.headers)
