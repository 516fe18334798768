"""The id in a hub's web address, which people copy from their browser."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

# A page of a model on each hub: what comes before the id.
_HOSTS = {
    "huggingface.co/": "huggingface",
    "www.huggingface.co/": "huggingface",
    "hf.co/": "huggingface",
    "hf-mirror.com/": "huggingface",
    "modelscope.cn/models/": "modelscope",
    "www.modelscope.cn/models/": "modelscope",
    "modelscope.ai/models/": "modelscope",
    "www.modelscope.ai/models/": "modelscope",
}
_SCHEME = re.compile(r"https?:/{1,2}", re.IGNORECASE)
# What comes between an id and a revision in an address: tree/main, blob/main/config.json, resolve/..., commit/...
_REVISION = re.compile(r"(?:tree|blob|resolve|commit)/([^/]+)(?:/.*)?")


@dataclass(frozen=True)
class WebAddress:
    """Where an address leads.

    Attributes:
        hub: the hub's name; "" for an address of any other place.
        id: ``org/name`` or ``org/name@revision``, "" for an address of another kind of page.
    """

    hub: str
    id: str


def web_address(text: str) -> WebAddress | None:
    """What *text* is as a web address; None if it is none. ``https://`` may be left out before a hub's name."""
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else text
    for host, hub in _HOSTS.items():
        if rest.lower().startswith(host):
            return WebAddress(hub, _id(unquote(re.split(r"[?#]", rest[len(host) :])[0]).strip("/")))
    return WebAddress("", "") if scheme else None


def _id(path: str) -> str:
    """The id in the part of an address behind the hub's name."""
    organization, _, rest = path.partition("/")
    name, _, page = rest.partition("/")
    if organization in ("datasets", "spaces", "collections", "models", "docs", "papers"):
        return ""
    revision = _REVISION.fullmatch(page)
    return f"{organization}/{name}" + (f"@{revision[1]}" if revision and revision[1] != "main" else "")
