"""How likely tokens were, in the forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantkit.run.logprobs import Candidate, TokenScore

_LEAST = -9999.0
"""For what is as good as impossible, as OpenAI's; JSON has no infinity."""


def chat_logprobs(tokens: Sequence[TokenScore]) -> dict[str, Any]:
    """Those of a chat: all tokens of an answer in their order, also of its thoughts and calls."""
    content = [{**_entry(one), "top_logprobs": [_entry(other) for other in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[TokenScore], *, before: int = 0) -> dict[str, Any]:
    """Those of a continuation, as lists beside each other.

    Args:
        tokens: the tokens.
        before: characters before the answer.
    """
    return {
        "tokens": [_name(one) for one in tokens],
        "token_logprobs": [_finite(one.logprob) for one in tokens],
        "top_logprobs": [_alternatives(one) for one in tokens],
        "text_offset": [before + one.start for one in tokens],
    }


def _entry(one: Candidate) -> dict[str, Any]:
    text = one.data.decode(errors="replace")
    return {"id": one.id, "token": text, "bytes": list(one.data), "logprob": _finite(one.logprob)}


def _alternatives(one: TokenScore) -> dict[str, float]:
    found: dict[str, float] = {}
    for other in one.top:
        found.setdefault(_name(other), _finite(other.logprob))
    return found


def _name(one: Candidate) -> str:
    """The text of a token; a part of a character as its bytes, as OpenAI writes them."""
    try:
        return one.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in one.data)


def _finite(logprob: float) -> float:
    return max(_LEAST, logprob)  # also for NaN, which compares with nothing
