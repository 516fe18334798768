"""The connection to an Ollama server: the ``ollama`` client library, and what it has no method for.

Three things are missing there: the server's version, whether it has a blob already, and the fields REQUIRES, PARSER and
RENDERER of a create request. They are asked for in the library's own way. Whatever goes wrong becomes an
:class:`OllamaError` that says what to do.
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
            f"OLLAMA_HOST {host!r} is no address ({error})", hint="set it to an address such as 127.0.0.1:11434"
        )
    return OllamaError(
        f"no client for Ollama can be made ({error})", hint="correct the proxy or OLLAMA_API_KEY in the environment"
    )


try:  # it makes a client of its own as soon as it is imported
    import ollama
    from ollama._client import _parse_host
except (ValueError, httpx.InvalidURL) as error:
    raise _no_client(error) from None

_QUICK_SECONDS = 10.0
# Loading a large model from a slow disk; nothing else takes long without a word.
_PATIENCE_SECONDS = 600.0
_NOT_FOUND = 404
_LISTENING = ("0.0.0.0", "::")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Server(ollama.Client):
    """A server at ``OLLAMA_HOST``, or on this machine.

    Raises:
        OllamaError: ``OLLAMA_HOST`` is no address, or the environment has no usable proxy or key.
    """

    def __init__(self) -> None:
        try:
            url = httpx.URL(_parse_host(os.environ.get("OLLAMA_HOST")))
            if url.host in _LISTENING:  # set for a server that all machines may ask, and no address to ask at
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
        """Where it is."""
        return str(self._client.base_url).rstrip("/")

    def version(self) -> str:
        """The server's version, such as "0.33.0".

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
        """Whether there is a model of that name.

        Raises:
            OllamaError: the server does not say.
        """
        with self._told(f"the model {name}"):
            return self._found("POST", "/api/show", json={"model": name})

    def upload(self, file: Path, advance: Callable[[int], None]) -> str:
        """Bring a file to the server, unless it has it.

        Args:
            file: a GGUF file.
            advance: called with each number of bytes, once while the file is hashed and once while it is sent.

        Returns:
            Its digest, which is how the server knows it.

        Raises:
            GGUFError: the file cannot be read.
            OllamaError: the server does not take it.
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
        """Create a model, and say what the server is doing.

        Args:
            request: the body of the request, as Ollama's API documents it.

        Raises:
            OllamaError: the server refuses it.
        """
        body = {**request, "stream": True}
        with self._told(f"the model {request['model']}"):
            for progress in self._request(ollama.ProgressResponse, "POST", "/api/create", json=body, stream=True):
                yield progress.status or ""

    def answer(
        self, model: str, messages: Sequence[Mapping[str, str]], *, max_tokens: int
    ) -> Iterator[ollama.ChatResponse]:
        """The pieces of an answer, the last of which says how it ended.

        Raises:
            OllamaError: there is none.
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
        """Say what went wrong, in words for the user."""
        try:
            yield
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout):
            raise self._absent() from None
        except ollama.ResponseError as error:
            raise OllamaError(f"Ollama at {self.address}: {what}: {error.error}") from None
        except httpx.TimeoutException:
            raise OllamaError(f"Ollama at {self.address}: {what}: it does not answer any more") from None
        except httpx.HTTPError as error:
            raise OllamaError(f"Ollama at {self.address}: {what}: the connection broke ({error})") from None
        except (ValueError, ValidationError):  # neither JSON nor what the library knows
            raise self._foreign() from None

    def _absent(self) -> OllamaError:
        message = f"no Ollama answers at {self.address}"
        if os.environ.get("OLLAMA_HOST"):
            return OllamaError(message, hint="start the server there, or correct OLLAMA_HOST")
        if shutil.which("ollama"):
            return OllamaError(f"{message}: its server is not running", hint="start it: ollama serve")
        return OllamaError(
            f"{message}: it is not installed here",
            hint="install it from https://ollama.com/download; without it: quantkit chat DIR",
        )

    def _foreign(self) -> OllamaError:
        return OllamaError(
            f"{self.address} answers, but not as Ollama does", hint="set OLLAMA_HOST to the address of an Ollama server"
        )


def _blocks(file: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    try:
        for block in blocks(file):
            yield block
            advance(len(block))
    except OSError as error:
        raise GGUFError(f"{file}: cannot be read ({error.strerror or error})") from None
