"""Refused requests as responses."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from quantkit.errors import QuantkitError
from quantkit.serve.errors import RequestError
from quantkit.serve.reply import refusal

_UNREAD = (408, 413, 503)  # what may come before the end of a request


def refused(error: QuantkitError) -> Response:
    """The response for an error."""
    status, content = refusal(error)
    headers = {"connection": "close"} if status in _UNREAD else {}
    if status == 503:
        headers["retry-after"] = "5"
    return JSONResponse(content, status_code=status, headers=headers)


def problem(error: ValidationError) -> RequestError:
    """What pydantic found wrong first, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])
    return RequestError(_line(first["type"], first["msg"], first["loc"]), param=param or None)


def _line(kind: str, message: str, place: tuple[int | str, ...]) -> str:
    """Say in one line what pydantic found wrong."""
    name, *rest = place or ("the request",)
    if name == "stop":
        return "stop must be a string or a list of strings"
    where = str(name) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    match kind:
        case "json_invalid":
            return f"{where} is not valid JSON: {message.removeprefix('Invalid JSON: ')}"
        case "extra_forbidden":
            return f"{where} is not supported"
        case "missing":
            return f"{where} is missing"
        case "too_short":
            return f"{where} is empty"
        case "list_type" if rest[-1:] == ["content"]:
            return f"{where} must be text"
        case "model_type":
            return f"{where} must be an object"
    rule = message.removeprefix("Input should be ")
    return f"{where}: {rule}" if rule == message else f"{where} must be {rule}"
