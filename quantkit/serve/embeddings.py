"""``POST /v1/embeddings``: texts as vectors of length 1, for models that are served with ``--embeddings``."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from quantkit.errors import QuantkitError
from quantkit.serve.body import Bodies
from quantkit.serve.errors import RequestError, StoppingError
from quantkit.serve.json_endpoint import Endpoint, read_json
from quantkit.serve.prompts import Prompt, read_prompts
from quantkit.serve.refusals import refused
from quantkit.serve.worker import Worker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from quantkit.run.embeddings import Embedder

MOST_INPUTS = 2048
"""Texts of a request; OpenAI's limit."""


class EmbeddingsBody(BaseModel):
    """The parameters of a request for embeddings."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str | list[str] | list[int] | list[list[int]] = Field(
        description=f"A text, its tokens, or several of either, at most {MOST_INPUTS}."
    )
    model: str | None = Field(None, description="Ignored: there is one.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64 is that of the numbers as float32, the low byte first."
    )
    dimensions: int | None = Field(None, description="Only the model's own.")
    user: str | None = Field(None, description="Ignored.")


def embeddings(name: str, embedder: Embedder | None, n_vocab: int, bodies: Bodies) -> Endpoint:
    """The endpoint; without *embedder*, it says how to get one. What a client that has left asked for is not computed.

    Args:
        name: the model's.
        embedder: gives the embeddings.
        n_vocab: tokens of the model.
        bodies: the bodies of requests.
    """
    turn, worker = asyncio.Lock(), Worker()

    def read(body: bytes) -> tuple[EmbeddingsBody, list[Sequence[int]]]:
        asked = read_json(EmbeddingsBody, body)
        return asked, _inputs(asked, _required(embedder), n_vocab)

    async def answer(request: Request) -> Response:
        try:
            async with bodies.read(request) as body, turn:
                asked, inputs = await worker.run(partial(read, body))
                vectors = []
                for tokens in inputs:
                    if await request.is_disconnected():
                        return Response(status_code=400)
                    vectors.append(await worker.run(partial(_vector, tokens, _required(embedder))))
                return JSONResponse(_reply(name, asked, vectors, sum(map(len, inputs))))
        except ClientDisconnect:
            return Response(status_code=400)
        except QuantkitError as error:
            return refused(error, "input")

    return answer


def _required(embedder: Embedder | None) -> Embedder:
    if embedder is None:
        raise RequestError("this server gives no embeddings: start it with --embeddings")
    return embedder


def _inputs(asked: EmbeddingsBody, embedder: Embedder, n_vocab: int) -> list[Sequence[int]]:
    """The tokens of the texts."""
    if asked.dimensions not in (None, embedder.size):
        raise RequestError(f"dimensions is not supported but for {embedder.size}", param="dimensions")
    inputs = read_prompts(asked.input, n_vocab, "input")
    if len(inputs) > MOST_INPUTS:
        raise RequestError(f"input has {len(inputs)} texts; at most {MOST_INPUTS} are supported", param="input")
    return [_tokens(one, embedder) for one in inputs]


def _reply(name: str, asked: EmbeddingsBody, vectors: Sequence[npt.NDArray[np.float32]], count: int) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _written(vector, asked.encoding_format)}
            for index, vector in enumerate(vectors)
        ],
        "model": name,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _tokens(one: Prompt, embedder: Embedder) -> Sequence[int]:
    tokens = embedder.tokens(one) if isinstance(one, str) else one
    if not tokens:
        raise RequestError("input is empty", param="input")
    return tokens


def _vector(tokens: Sequence[int], embedder: Embedder) -> npt.NDArray[np.float32]:
    vector = embedder.embed(tokens)
    if vector is None:
        raise StoppingError("the server is shutting down")
    return vector


def _written(vector: npt.NDArray[np.float32], encoding: str | None) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
