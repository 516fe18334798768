"""Clients for scripts/load: honest ones that measure, and hostile ones; over plain sockets, which cost little time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_RETRY = re.compile(rb"retry-after: (\d+)", re.IGNORECASE)
_PATIENCE = 300.0  # seconds for an answer


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
        first: seconds to its first token.
        whole: seconds to its end.
        tokens: its tokens.
        refused: how often the server said before that it is busy.
    """

    first: float
    whole: float
    tokens: int
    refused: int


def post(body: Any, path: str = "/v1/chat/completions", head: str = "") -> bytes:
    """The bytes of a request."""
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n{head}\r\n".encode() + data


def chat(text: str, **parameters: Any) -> dict[str, Any]:
    """The body of a question."""
    return {"messages": [{"role": "user", "content": text}], **parameters}


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of its own."""
    there = urlsplit(url)
    return await asyncio.open_connection(there.hostname, there.port, limit=2**22)


async def ask(url: str, text: str, tokens: int) -> Sample:
    """Ask for a stream; where the server is busy, again when it says so. The time counts from the last try.

    Raises:
        RuntimeError: there is no answer.
    """
    body = chat(text, max_tokens=tokens, stream=True, stream_options={"include_usage": True})
    refused = 0
    async with asyncio.timeout(_PATIENCE):
        while True:
            began = time.perf_counter()
            reader, writer = await connect(url)
            try:
                writer.write(post(body, head="connection: close\r\n"))
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 503 ") and (wait := _RETRY.search(head)):
                    refused += 1
                    await asyncio.sleep(int(wait[1]))
                    continue
                if not head.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"no answer: {head!r}")
                await reader.readuntil(b"data: ")  # the role
                await reader.readuntil(b"data: ")
                first = time.perf_counter() - began
                rest = await reader.read(-1)
            finally:
                writer.close()
            whole = time.perf_counter() - began
            if (found := _TOKENS.search(rest)) is None or b"[DONE]" not in rest:
                raise RuntimeError(f"an answer broke off: {rest[-200:]!r}")
            return Sample(first, whole, int(found[1]), refused)


async def healthy(url: str, until: asyncio.Event, pause: float = 0.05) -> list[float]:
    """Ask for ``/health`` and ``/metrics`` again and again; how long each took."""
    took = []
    while not until.is_set():
        for path in ("/health", "/metrics"):
            began = time.perf_counter()
            status = await get(url, path)
            took.append(time.perf_counter() - began)
            if status != 200:
                raise RuntimeError(f"{path} has status {status}")
        await asyncio.sleep(pause)
    return took


async def get(url: str, path: str) -> int:
    """The status of a GET request."""
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await connect(url)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            return int((await reader.read(-1))[9:12])
        finally:
            writer.close()


async def small_requests(url: str, bodies: Sequence[bytes]) -> None:
    """Send requests one after another on one connection.

    Raises:
        RuntimeError: one of them has no answer.
    """
    reader, writer = await connect(url)
    for body in bodies:
        writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise RuntimeError(f"no answer: {head!r}")
        await reader.readexactly(int(length[1]))
    writer.close()


ATTACKS = (
    "silent",
    "half a head",
    "half a body",
    "garbage",
    "reads nothing",
    "tiny chunks",
    "leaves",
    "pipelines",
    "two lengths",
)
"""The kinds of :func:`attack`."""

_HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
_LONG = {"max_tokens": 400, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 8}


async def attack(url: str, kind: str, seconds: float) -> int:
    """Attack again and again for some seconds; how often."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        count += 1
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            reader, writer = await connect(url)
            try:
                async with asyncio.timeout(max(0.1, end - time.monotonic())):
                    await _attack(kind, reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.01)
    return count


async def _attack(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    match kind:
        case "silent":
            await reader.read(-1)
        case "half a head":
            writer.write(_HEAD.encode())
            await reader.read(-1)
        case "half a body":
            writer.write(f"{_HEAD}content-length: 1000000\r\n\r\n{{".encode())
            await reader.read(-1)
        case "garbage":
            writer.write(bytes(range(256)) * 64)
            await reader.read(-1)
        case "reads nothing":
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(post(chat("Tell me everything.", **_LONG)))
            await asyncio.sleep(3600)
        case "tiny chunks":
            writer.write(f"{_HEAD}transfer-encoding: chunked\r\n\r\n".encode() + b"1\r\nx\r\n" * 20000)
            await reader.read(-1)
        case "leaves":
            writer.write(post(chat("Tell me a story.", max_tokens=400, stream=True)))
            await reader.readuntil(b"data: ")
        case "pipelines":
            writer.write(post(chat("?", max_tokens=2)) * 50)
            await reader.readuntil(b"\r\n\r\n")
        case "two lengths":
            writer.write(f"{_HEAD}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n".encode())
            await reader.read(-1)
