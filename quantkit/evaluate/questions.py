"""Questions from a file: one on each line, or conversations as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.evaluate.evaluation import Asked
from quantkit.evaluate.process import Messages
from quantkit.material.data_file import read_data


def read_questions(path: Path, system: str | None, stops: Sequence[str], longest: int) -> Asked:
    """Read a file of questions.

    Args:
        path: a text with a question on each line; or conversations, without the answer that they end with.
        system: the system prompt of those that have none.
        stops: texts that end an answer.
        longest: tokens of an answer at most.

    Raises:
        QuantkitError: it cannot be read, or a conversation asks nothing.
    """
    data = read_data(path)
    talks: list[Messages] = []
    if data.talks:
        for where, talk in data.talks:
            asked = talk[:-1] if talk[-1]["role"] == "assistant" else talk
            if not asked or asked[-1]["role"] != "user":
                raise QuantkitError(f"{path}: {where}: asks nothing", hint="end it with a message of the user")
            talks.append(asked)
    else:
        lines = [line.strip() for line in data.text.splitlines()]
        talks = [[{"role": "user", "content": line}] for line in lines if line]
    opening = [{"role": "system", "content": system}] if system else []
    full = [list(talk) if talk[0]["role"] == "system" else [*opening, *talk] for talk in talks]
    return Asked(tuple(talk[-1]["content"] for talk in full), tuple(full), tuple(stops), longest)
