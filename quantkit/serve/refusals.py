"""Refused requests as responses: errors in the form that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from quantkit.errors import ChatFormatError, ContextFullError, QuantkitError
from quantkit.run.options import GrammarError
from quantkit.run.text_prompt import EmptyPromptError
from quantkit.serve.errors import BusyError, RequestError, StoppingError

# Fields with several forms, each of which pydantic has an opinion on.
_EITHER = {
    "stop": "a string or a list of strings",
    "prompt": "a text, a list of tokens, or a list of either",
    "input": "a text, a list of tokens, or a list of either",
}

_LONGEST_NAME = 80  # characters
_UNREAD = (408, 413, 503)  # what may come before the end of a request


def error_object(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return an error in the form that OpenAI's clients understand."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(error: QuantkitError, prompt: str = "messages") -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the error object for an error; *prompt* is the parameter that has the prompt."""
    kind = "invalid_request_error"
    match error:
        case RequestError(param=param, status=status):
            return status, error_object(str(error), kind, param=param)
        case GrammarError():
            return 400, error_object(str(error), kind, param="response_format")
        case ContextFullError():
            message = f"{error}; {error.hint}"
            return 400, error_object(message, kind, param=prompt, code="context_length_exceeded")
        case ChatFormatError() | EmptyPromptError():
            return 400, error_object(str(error), kind, param=prompt)
        case StoppingError() | BusyError():
            return 503, error_object(str(error), "server_error")
        case _:
            return 500, error_object(str(error), "server_error")


def refused(error: QuantkitError, prompt: str = "messages") -> Response:
    """The response for an error; *prompt* is the parameter that has the prompt."""
    status, content = refusal(error, prompt)
    headers = {"connection": "close"} if status in _UNREAD else {}
    if status == 503:
        headers["retry-after"] = "5"
    return JSONResponse(content, status_code=status, headers=headers)


def problem(error: ValidationError, forms: Mapping[str, str] = _EITHER) -> RequestError:
    """What pydantic found wrong first, in one line; *forms* says what fields with several forms may be."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    found = tuple(part if isinstance(part, int) else _short(part) for part in first["loc"])
    place = found[:1] if found[:1] and found[0] in forms else found
    param = ".".join(str(part) for part in place)
    return RequestError(_line(first["type"], first["msg"], found, forms), param=param or None)


def _short(name: str) -> str:
    """A name of the client's, which can be as long as its request."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."


def _line(kind: str, message: str, place: tuple[int | str, ...], forms: Mapping[str, str]) -> str:
    """Say in one line what pydantic found wrong."""
    name, *rest = place or ("the request",)
    if name in forms and kind != "missing":
        return f"{name} must be {forms[str(name)]}"
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
