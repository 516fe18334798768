"""Chat templates as the process that runs them does: a text or a refusal, and nothing outside of the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from quantkit.chat_template.answer_format import read_answer_format
from quantkit.chat_template.worker import answer
from tests.support.fuzz.invariant import TooSlowError
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.worded import bytes_of, text_of
from tests.unit.tiny_gguf import LLAMA_3

_WORDS = (
    *(
        "{{ ",
        " }}",
        "{% for m in messages %}",
        "{% endfor %}",
        "{% if ",
        "{% else %}",
        "{% endif %}",
        "{% set x = ",
        " %}",
    ),
    *(
        "messages",
        "m['role']",
        "m.content",
        "m['content']",
        "loop.index0",
        "loop.first",
        "add_generation_prompt",
        "tools",
    ),
    *(
        "bos_token",
        "eos_token",
        "raise_exception('no')",
        "strftime_now('%Y')",
        "namespace(a=1)",
        "enable_thinking",
        "ns.a",
    ),
    *(
        " == 'user'",
        " == 'assistant'",
        " == 'system'",
        "<|im_start|>",
        "<|im_end|>\n",
        "<think>",
        "</think>",
        "tool_calls",
    ),
    *(
        "| tojson",
        "| trim",
        "| map(attribute='",
        "| join",
        "| string",
        "| list",
        "| attr('",
        "| format(",
        "'.__class__'",
    ),
    *(
        "__class__",
        "__mro__",
        "__subclasses__()",
        "__globals__",
        "__init__",
        ".format",
        "self",
        "cycler",
        "lipsum",
        "joiner",
    ),
    *(
        "range(9)",
        "{% macro f(a) %}",
        "{% endmacro %}",
        "{{ f(1) }}",
        "{% generation %}",
        "{% endgeneration %}",
        "{% break %}",
    ),
    *(
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% call f() %}",
        "{% filter upper %}",
        "{%- ",
        " -%}",
        "{# ",
        " #}",
    ),
    *(
        "{% block a %}",
        "{% extends 'x' %}",
        "{% raw %}",
        "{% endraw %}",
        "\u2028",
        "é",
        "\ud7ff",
        "m.tool_calls",
        "[0]",
        "[::-1]",
    ),
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>{% endif %}{% endif %}"
)
_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m['role'] }}{{ m.content }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% endif %}"
    "{{ eos_token }}{% endfor %}"
)
# These take as long as the process may, which its own limits end: they are tested elsewhere.
_LONG = re.compile(r"\*\*|\d{5}|range\([^)]*\d{3}|\*\s*\d{3}")
_TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def _read(data: bytes) -> None:
    template = text_of(data, _WORDS)
    if _LONG.search(template):
        return
    try:
        rendered = _asked(
            "render", template, messages=_TALK, add_generation_prompt=True, dates=False, thinking=None, told={}
        )
        assert rendered is None or isinstance(rendered, str)
        for what in ("describe", "opening", "thinking"):
            _asked(what, template)
        if found := _asked("answers", template):
            read_answer_format(json.loads(json.dumps(found)))
    except TooSlowError:  # the limit of the process does the same
        return


def _asked(what: str, template: str, **told: Any) -> Any:
    reply = answer({"do": what, "template": template, **_TOKENS, **told})
    json.dumps(reply)
    assert isinstance(reply.get("refused", ""), str)
    return reply.get("value")


def _seeds() -> Sequence[bytes]:
    return [bytes_of(seed, _WORDS) for seed in (_CHATML, LLAMA_3, _TOOLS)]


READER = Reader("templates", _seeds, _read, largest=1 << 10)
