"""``GET /docs``: the API's description as a page of its own, without a script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from quantkit.serve.openapi import openapi

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8884 }
summary { cursor: pointer; padding: .4rem 0 }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


async def docs_response(request: Request) -> Response:
    """Serve the page."""
    return HTMLResponse(docs_page(), headers={"content-security-policy": _POLICY})


async def openapi_response(request: Request) -> Response:
    """Serve the description."""
    return JSONResponse(openapi())


@cache
def docs_page() -> str:
    """The page's HTML."""
    spec = openapi()
    paths = "".join(
        _operation(path, method, said, spec) for path, there in spec["paths"].items() for method, said in there.items()
    )
    title = escape(f"{spec['info']['title']} {spec['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(spec['info']['description'])}</p>"
        '<p><a href="/openapi.json">openapi.json</a></p>'
        f"{paths}</html>\n"
    )


def _operation(path: str, method: str, said: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    body = ""
    if "requestBody" in said:
        body = _fields(_referred(said["requestBody"]["content"]["application/json"]["schema"], spec), spec)
    rows = [_row(status, escape(answer["description"])) for status, answer in said["responses"].items()]
    head = f"<summary><code>{method.upper()} {escape(path)}</code> {escape(said['summary'])}</summary>"
    return f"<details>{head}{body}<h3>Answers</h3><table>{''.join(rows)}</table></details>"


def _fields(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    if "properties" not in schema:
        return f"<h3>Parameters</h3><p>{_said(schema, spec)}</p>"
    required = schema.get("required", ())
    rows = [
        _row(name + (" *" if name in required else ""), _said(field, spec))
        for name, field in schema["properties"].items()
    ]
    return f"<h3>Parameters</h3><table>{''.join(rows)}</table>"


def _row(name: str, said: str) -> str:
    return f"<tr><td><code>{escape(name)}</code></td><td>{said}</td></tr>"


def _said(field: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    text = escape(field.get("description", ""))
    return f"<code>{escape(_type(field, spec))}</code> {text}"


def _type(field: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """What a value may be, in few words."""
    if "$ref" in field:
        return _type(_referred(field, spec), spec)
    if "anyOf" in field:
        return " | ".join(dict.fromkeys(_type(one, spec) for one in field["anyOf"]))
    if "enum" in field or "const" in field:
        return " | ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}), spec)}"
    limits = [f"{sign} {field[key]:g}" for key, sign in _LIMITS.items() if key in field]
    return " ".join([field.get("type", "any value"), *limits])


_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<="}


def _referred(field: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = spec["components"]["schemas"][field["$ref"].rsplit("/", 1)[1]]
    return found
