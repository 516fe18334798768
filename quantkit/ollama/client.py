"""The connection to an Ollama server: the ``ollama`` client library, and three features that it lacks.

They are the server's version, whether it already has a blob, and the fields REQUIRES, PARSER and RENDERER of a create
request. They use the library's own way of sending requests. Every failure becomes an :class:`OllamaError` that says
what to do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from quantkit.errors import GGUFError, OllamaError
from quantkit.files.fileio import blocks, sha256_of


def _no_client(error: Exception) -> OllamaError:
    if host := os.environ.get("OLLAMA_HOST"):
        return OllamaError(
            f"OLLAMA_HOST {host!r} is not a valid address ({error})",
            hint="set it to an address such as 127.0.0.1:11434",
        )
    return OllamaError(
        f"cannot set up the Ollama client ({error})", hint="check the proxy and OLLAMA_API_KEY in the environment"
    )


try:  # importing it already creates a client
    import ollama
    from ollama._client import _parse_host
except (ValueError, httpx.InvalidURL) as error:
    raise _no_client(error) from None

_QUICK_SECONDS = 10.0
# Loading a large model from a slow disk takes long; nothing else does without sending progress.
_PATIENCE_SECONDS = 600.0
_NOT_FOUND = 404
_LISTENING = ("0.0.0.0", "::")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Server(ollama.Client):
    """A server at ``OLLAMA_HOST``, or on this machine.

    Raises:
        OllamaError: ``OLLAMA_HOST`` is not an address, or a proxy or key in the environment is invalid.
    """

    def __init__(self) -> None:
        try:
            url = httpx.URL(_parse_host(os.environ.get("OLLAMA_HOST")))
            if url.host in _LISTENING:  # where a server listens, not an address to connect to
                url = url.copy_with(host="127.0.0.1")
            super().__init__(
                str(url),
                timeout=httpx.Timeout(_PATIENCE_SECONDS, connect=_QUICK_SECONDS),
                trust_env=url.host not in _LOOPBACK,  # a proxy of the environment does not reach this machine
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise _no_client(error) from None

    @property
    def address(self) -> str:
        """The server's URL."""
        return str(self._client.base_url).rstrip("/")

    def version(self) -> str:
        """Ask for the server's version, such as "0.33.0".

        Raises:
            OllamaError: there is no server, or it is not Ollama.
        """
        with self._told("its version"):
            answer = self._send("GET", "/api/version", timeout=_QUICK_SECONDS).json()
        version = answer.get("version") if isinstance(answer, Mapping) else None
        if not isinstance(version, str):
            raise self._foreign()
        return version

    def has_model(self, name: str) -> bool:
        """Whether the server has a model of that name.

        Raises:
            OllamaError: the server does not answer.
        """
        with self._told(f"the model {name}"):
            return self._found("POST", "/api/show", json={"model": name})

    def upload(self, file: Path, advance: Callable[[int], None]) -> str:
        """Upload a file, unless the server already has it.

        Args:
            file: a GGUF file.
            advance: called with the number of bytes done, once while hashing and once while sending.

        Returns:
            Its digest, by which the server identifies it.

        Raises:
            GGUFError: the file cannot be read.
            OllamaError: the server does not accept it.
        """
        digest = f"sha256:{sha256_of(_blocks(file, advance))}"
        blob = f"/api/blobs/{digest}"
        size = file.stat().st_size
        with self._told(f"the file {file.name}"):
            if self._found("HEAD", blob):
                advance(size)
            else:
                self._send("POST", blob, content=_blocks(file, advance), headers={"Content-Length": str(size)})
        return digest

    def create_model(self, request: Mapping[str, Any]) -> Iterator[str]:
        """Create a model and yield the server's progress messages.

        Args:
            request: the body of the request, as Ollama's API documents it.

        Raises:
            OllamaError: the server refuses it.
        """
        body = {**request, "stream": True}
        with self._told(f"the model {request['model']}"):
            for progress in self._request(ollama.ProgressResponse, "POST", "/api/create", json=body, stream=True):
                yield progress.status or ""

    def push_model(self, name: str) -> Iterator[ollama.ProgressResponse]:
        """Push a model that the server has to the registry that its name says, and yield the server's progress.

        Raises:
            OllamaError: the server or the registry refuses it.
        """
        with self._told(f"pushing {name}"):
            body = {"model": name, "stream": True}
            yield from self._request(ollama.ProgressResponse, "POST", "/api/push", json=body, stream=True)

    def answer(
        self, model: str, messages: Sequence[Mapping[str, str]], *, max_tokens: int
    ) -> Iterator[ollama.ChatResponse]:
        """Yield the pieces of an answer; the last one says how it ended.

        Raises:
            OllamaError: the server does not answer.
        """
        with self._told(f"a chat with {model}"):
            yield from self.chat(model, messages, stream=True, options={"num_predict": max_tokens})

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        response: httpx.Response = self._request_raw(method, path, **options)  # type: ignore[no-untyped-call]
        return response

    def _found(self, method: str, path: str, **options: Any) -> bool:
        try:
            self._send(method, path, **options)
        except ollama.ResponseError as error:
            if error.status_code == _NOT_FOUND:
                return False
            raise
        return True

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn failures into errors for the user."""
        try:
            yield
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout):
            raise self._absent() from None
        except ollama.ResponseError as error:
            raise OllamaError(f"Ollama at {self.address}: {what}: {error.error}") from None
        except httpx.TimeoutException:
            raise OllamaError(f"Ollama at {self.address}: {what}: the server stopped responding") from None
        except httpx.HTTPError as error:
            raise OllamaError(f"Ollama at {self.address}: {what}: the connection was lost ({error})") from None
        except (
            ValueError,
            ValidationError,
            AttributeError,
            TypeError,
            KeyError,
            RecursionError,
        ):  # not what Ollama says
            raise self._foreign() from None

    def _absent(self) -> OllamaError:
        message = f"no Ollama server responds at {self.address}"
        if os.environ.get("OLLAMA_HOST"):
            return OllamaError(message, hint="start the server there, or correct OLLAMA_HOST")
        if shutil.which("ollama"):
            return OllamaError(f"{message}: Ollama is not running", hint="start it: ollama serve")
        return OllamaError(
            f"{message}: Ollama is not installed here",
            hint="install it from https://ollama.com/download, or chat without it: quantkit chat DIR",
        )

    def _foreign(self) -> OllamaError:
        return OllamaError(
            f"{self.address} responded, but is not an Ollama server",
            hint="set OLLAMA_HOST to the address of an Ollama server",
        )


def _blocks(file: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    try:
        for block in blocks(file):
            yield block
            advance(len(block))
    except OSError as error:
        raise GGUFError(f"{file}: cannot be read ({error.strerror or error})") from None
