"""Real chat templates: what is known of each, and that its turns and its TEMPLATE for Ollama write the same prompts.

chat_formats.json has a row for every template file of llama.cpp and for the families it has no file of: its turns, or
why turns cannot describe it, or why no conversation can be written with it at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from quantkit.chat_template.format import (
    FORMAT_NAMES,
    ChatFormat,
    OwnTemplate,
    derive,
    named_format,
    named_template,
    render_jinja,
)
from quantkit.errors import ChatFormatError
from quantkit.package.go_template import go_template
from tests.support.chat_templates import real_templates
from tests.support.go_prompts import Job, Talk, ollama_prompt, ollama_prompts

GOLDEN = Path(__file__).with_name("chat_formats.json")
TABLE: dict[str, dict[str, Any]] = json.loads(GOLDEN.read_text("utf-8"))

# Other texts than those that the turns were proven on.
SYSTEM = '你是一个乐于助人的助手。\n\nYou speak "briefly". {{ .System }} <|im_end|>'
TALK = ("你好，世界！", "Hi:\n\n- `a`\n- 'b'", "what is {{ x }}?", "𝒙 = \\frac{1}{2} 🙂", "</s> [INST] ok")
PADDED = ("\n a ", " b\n", " c\t")


def tokens(name: str) -> dict[str, str]:
    same = name == "OLMo-2"  # BOS is EOS there
    return {"bos_token": "<|endoftext|>" if same else "<s>", "eos_token": "<|endoftext|>" if same else "</s>"}


def conversation(contents: Sequence[str], system: str | None) -> list[dict[str, str]]:
    talk = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return talk if system is None else [{"role": "system", "content": system}, *talk]


def conversations(contents: Sequence[str], chat: ChatFormat) -> list[list[dict[str, str]]]:
    """Prompts with one, two and three questions, with and without a system message."""
    systems = [None, contents[0] if contents is PADDED else SYSTEM] if chat.takes_system else [None]
    return [conversation(contents[:n], system) for n in range(1, len(contents) + 1, 2) for system in systems]


def row(name: str) -> dict[str, Any]:
    """What the table says of a template; long texts by their start and hash."""
    try:
        found = derive(real_templates()[name], **tokens(name))
    except ChatFormatError as error:
        return {"refused": str(error)}
    values = asdict(found) | {"described": isinstance(found, ChatFormat)}
    return {key: brief(value) for key, value in values.items()}


def brief(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: brief(part) for key, part in value.items()}
    if isinstance(value, str) and len(value) > 120:
        return f"{value[:60]}... {len(value)} characters, {hashlib.sha256(value.encode()).hexdigest()[:12]}"
    return list(value) if isinstance(value, tuple) else value


def described() -> list[str]:
    return [name for name, known in TABLE.items() if known.get("described")]


def test_every_template_is_in_the_table() -> None:
    """Set UPDATE_GOLDENS=1 to write the table anew, then read the difference."""
    if os.environ.get("UPDATE_GOLDENS"):
        rows = {name: row(name) for name in sorted(real_templates(), key=str.lower)}
        GOLDEN.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table = json.loads(GOLDEN.read_text("utf-8"))
    assert table.keys() == real_templates().keys()
    assert len(described()) == 37
    assert sum("why" in known for known in table.values()) == 44
    assert sum("refused" in known for known in table.values()) == 4


@pytest.mark.parametrize("name", TABLE)
def test_what_is_known_of_a_template(name: str) -> None:
    assert row(name) == TABLE[name]


@pytest.mark.parametrize("name", described())
def test_turns_and_ollamas_template_write_the_prompts_of_the_jinja(name: str) -> None:
    found = derive(real_templates()[name], **tokens(name))
    assert isinstance(found, ChatFormat)
    talks = conversations(TALK, found)
    expected = [render_jinja(real_templates()[name], talk, **tokens(name), dates=False) for talk in talks]
    assert [found.render(talk) for talk in talks] == expected
    (prompts,) = ollama_prompts([Job(go_template(found), [Talk(talk) for talk in talks])])
    assert [found.bos + prompt for prompt in prompts] == expected


@pytest.mark.parametrize("name", described())
def test_white_space_around_contents_is_as_told(name: str) -> None:
    found = derive(real_templates()[name], **tokens(name))
    assert isinstance(found, ChatFormat)
    same = [
        found.render(messages) == render_jinja(real_templates()[name], messages, **tokens(name), dates=False)
        for messages in conversations(PADDED, found)
    ]
    assert all(same) is not bool(found.uneven)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_system_prompt_of_the_package_is_the_default_where_system_messages_stand(name: str) -> None:
    chat = named_format(name)
    for default, system in (("packaged", None), ("packaged", "own"), (None, "own")):
        template = go_template(chat, default_system=default)
        for length in (1, 3, 5):
            messages = conversation(TALK[:length], system)
            meant = conversation(TALK[:length], system or default)
            assert chat.bos + ollama_prompt(template, messages) == chat.render(meant)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_old_servers_without_messages_get_a_first_question_right(name: str) -> None:
    chat = named_format(name)
    for system in (None, "s"):
        messages = conversation(["q"], system)
        assert chat.bos + ollama_prompt(go_template(chat), messages, old=True) == chat.render(messages)


@pytest.mark.parametrize("file", ["meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"])
def test_llama_3_1_writes_tools_as_metas_template(file: str) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string", "description": "城市"}}}
    tools = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": parameters}}]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
    messages = [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": " 北京天气? "},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": {"degrees": 21}},
        {"role": "assistant", "content": "21 °C"},
        {"role": "user", "content": "thanks"},
    ]
    for shown, start, length in (
        (tools, 0, 2),
        (tools, 1, 2),
        (tools, 0, 4),
        (tools, 0, 6),
        (None, 0, 2),
        (None, 1, 2),
    ):
        ours, theirs = (
            render_jinja_template(
                [messages[start:length]],
                chat_template=template,
                tools=shown,
                add_generation_prompt=True,
                bos_token="<s>",
                eos_token="</s>",
            )[0]
            for template in (named_template("llama-3.1"), real_templates()[file])
        )
        assert ours == theirs


def test_a_template_that_turns_cannot_describe_still_ends() -> None:
    name = "Qwen-Qwen3-0.6B"
    known = derive(real_templates()[name], **tokens(name), tokens=["<|im_end|>", "</s>"])
    assert known == OwnTemplate("tools and thinking in contents have rules of their own", ("<|im_end|>",), True)
    other = derive(real_templates()[name], **tokens(name), tokens=["</s>"])
    assert other.stops == ("</s>",)
