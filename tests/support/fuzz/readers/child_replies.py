"""What the process of chat templates may answer, if a template made it: who asks refuses what is no answer."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from quantkit.chat_template import process, render
from quantkit.chat_template.answers import answer_format
from quantkit.errors import QuantkitError
from quantkit.system import limited_process
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.worded import bytes_of, text_of

_WORDS = (
    *(
        '{"value": ',
        '{"refused": ',
        '{"limit": ',
        '"text"',
        '"memory"',
        "null",
        "true",
        "1e999",
        "[" * 3000,
        "}\n",
        "}",
    ),
    *(
        '"thoughts": ',
        '"answer": {"open": "", "close": ""}',
        '"calls": ',
        '"no_calls": ""',
        '"switches": []',
        "[]",
        "{}",
    ),
    *('"efforts": []', '"variables": []', '"\\ud800"', "\n", ", ", '"name": ', '"stops": ', '"why": ', '"a"', "é"),
)
_SEEDS = (
    '{"value": "text"}\n',
    '{"refused": "a"}\n',
    '{"limit": "memory"}\n',
    '{"value": {"thoughts": null, "answer": {"open": "", "close": ""}, "calls": null, "no_calls": "", "switches": [], '
    '"efforts": [], "variables": []}}\n',
)


class Child:
    """In the place of the process: it has answered already."""

    def __init__(self, said: bytes) -> None:
        self.stdin, self.stdout, self.stderr = io.BytesIO(), io.BytesIO(said), io.BytesIO(b"")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        return 1

    def kill(self) -> None:
        self.returncode = 1

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()


_TOKENS: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
_READS: Sequence[Callable[[], object]] = (
    lambda: render.render_jinja("", [], **_TOKENS).encode("utf-8", "surrogatepass"),
    lambda: answer_format("", **_TOKENS),
)


def _read(data: bytes) -> None:
    said = text_of(data, _WORDS).encode()
    refusals: list[QuantkitError] = []
    for read in _READS:
        asked = process.TemplateProcess()
        with (
            mock.patch.object(process, "_shared", asked),
            mock.patch.object(limited_process, "start_module", return_value=Child(said)),
        ):
            try:
                read()
            except QuantkitError as error:
                refusals.append(error)
    if len(refusals) == len(_READS):
        raise refusals[0]


READER = Reader("child-replies", lambda: [bytes_of(seed, _WORDS) for seed in _SEEDS[:1]], _read)
