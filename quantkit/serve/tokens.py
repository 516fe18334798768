"""``POST /tokenize`` and ``/detokenize``, as llama.cpp's server has them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from quantkit.run.session import ChatModel
from quantkit.serve.body import Bodies
from quantkit.serve.errors import RequestError
from quantkit.serve.json_endpoint import Endpoint, json_endpoint


class TokenizeBody(BaseModel):
    """A text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    content: str
    add_special: bool = False
    parse_special: Literal[True] = True


class DetokenizeBody(BaseModel):
    """Tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: list[int] = Field(max_length=2**17)


def tokenize(model: ChatModel, bodies: Bodies) -> Endpoint:
    """The endpoint that gives the tokens of a text; with ``add_special`` and what the file adds to it."""

    def work(asked: TokenizeBody) -> dict[str, Any]:
        if asked.add_special:
            return {"tokens": model.text_tokens(asked.content)}
        return {"tokens": model.engine.tokenize_prompt(asked.content)}

    return json_endpoint(TokenizeBody, work, bodies)


def detokenize(model: ChatModel, bodies: Bodies) -> Endpoint:
    """The endpoint that gives the text of tokens."""

    def work(asked: DetokenizeBody) -> dict[str, Any]:
        if not all(0 <= token < model.engine.n_vocab for token in asked.tokens):
            raise RequestError(f"tokens must be from 0 to {model.engine.n_vocab - 1}", param="tokens")
        data = b"".join(model.engine.piece(token, special=True) for token in asked.tokens)
        return {"content": data.decode(errors="replace")}

    return json_endpoint(DetokenizeBody, work, bodies)
