"""Prompts as OpenAI's API has them: a text, its tokens, or a list of either."""

from __future__ import annotations

from quantkit.serve.errors import RequestError

Prompt = str | tuple[int, ...]


def read_prompts(given: str | list[str] | list[int] | list[list[int]], n_vocab: int, name: str) -> list[Prompt]:
    """The prompts of a request; those of tokens have one at least.

    Args:
        given: the value of the parameter.
        n_vocab: tokens of the model.
        name: the parameter.

    Raises:
        RequestError: there is none, or the model has no such token.
    """
    found: list[Prompt] = []
    if isinstance(given, str):
        found = [given]
    elif given and isinstance(given[0], int):
        found = [_tokens(given, n_vocab, name)]
    else:
        found = [one if isinstance(one, str) else _tokens(one, n_vocab, name) for one in given]
    if not found or () in found:
        raise RequestError(f"{name} is empty", param=name)
    return found


def _tokens(tokens: object, n_vocab: int, name: str) -> tuple[int, ...]:
    assert isinstance(tokens, list)
    if any(not 0 <= token < n_vocab for token in tokens):
        raise RequestError(f"{name}: tokens must be from 0 to {n_vocab - 1}", param=name)
    return tuple(tokens)
