from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantkit.chat_format import (
    FORMAT_NAMES,
    ChatFormat,
    Turn,
    choose_format,
    derive,
    named_format,
    named_template,
    render_jinja,
)
from quantkit.errors import ChatFormatError

BOS, EOS = "<|begin_of_text|>", "<|eot_id|>"

# Small templates with the habits of real ones.
DATED_SYSTEM = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}{%- set text = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set text = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + text + '<|eot_id|>' }}"
    "{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
DEFAULT_SYSTEM = (
    "{%- if tools %}{{- '# Tools' }}{%- endif %}"
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
FOLDED_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% elif m.role == 'user' %}{{ '[INST] ' }}"
    "{% if messages[0].role == 'system' and loop.index0 == 1 %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
FORGETS_THOUGHTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKS_FIRST = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
ENDS_WITH_EOS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% else %}{{ eos_token }}{% endif %}"
)
DROPS_MESSAGES = (
    "{{ 'user: ' + messages[-1].content + '\n' }}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
PREAMBLE = (
    "{{ 'A chat.\n' }}{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

TALK = (
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "hello\nthere"},
    {"role": "user", "content": "a {{ b }} \"c\" 'd'"},
)
SYSTEM = {"role": "system", "content": "You are a helpful assistant. 你是一个乐于助人的助手。"}


def test_llama_3() -> None:
    assert named_format("llama-3") == ChatFormat(
        name="llama-3",
        bos="<|begin_of_text|>",
        system=Turn("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=Turn("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=Turn("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        stops=("<|eot_id|>",),
        trims=True,
        default_system=None,
    )


def test_chatml() -> None:
    assert named_format("chatml") == ChatFormat(
        name="chatml",
        bos="",
        system=Turn("<|im_start|>system\n", "<|im_end|>\n"),
        user=Turn("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
        stops=("<|im_end|>",),
        trims=False,
        default_system=None,
    )


def test_llama_3_prompt_as_people_know_it() -> None:
    assert named_format("llama-3").render([SYSTEM, {"role": "user", "content": " hi "}]) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "You are a helpful assistant. 你是一个乐于助人的助手。<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_named_template_derives_to_its_own_format(name: str) -> None:
    known = named_format(name)
    bos = known.bos
    assert derive(named_template(name), bos_token=bos, eos_token=known.stops[0]) == known


@pytest.mark.parametrize(
    "template", [named_template("llama-3"), named_template("chatml"), DATED_SYSTEM, DEFAULT_SYSTEM]
)
@pytest.mark.parametrize("asked", [True, False])
def test_render_is_what_the_template_writes(template: str, asked: bool) -> None:
    chat = derive(template, bos_token=BOS, eos_token=EOS)
    for messages in (TALK[:1], TALK, (SYSTEM, *TALK), (SYSTEM, *TALK, {"role": "assistant", "content": ""})):
        expected = render_jinja(
            template, messages, bos_token=BOS, eos_token=EOS, add_generation_prompt=asked, dates=False
        )
        assert chat.render(messages, add_generation_prompt=asked) == expected


def test_a_default_system_prompt_is_found() -> None:
    chat = derive(DEFAULT_SYSTEM, bos_token="", eos_token="<|im_end|>")
    assert (chat.name, chat.default_system, chat.mentions_tools) == ("chatml", "You are Qwen.", True)
    assert chat.render(TALK[:1]).startswith("<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n你好")
    assert "Qwen" not in chat.render([SYSTEM, *TALK])


def test_a_date_becomes_the_fixed_one_of_the_template_and_is_told() -> None:
    chat = derive(DATED_SYSTEM, bos_token=BOS, eos_token=EOS)
    assert chat.dated
    assert chat.name == "generic"
    assert chat.default_system == ""
    assert chat.system is not None
    assert chat.system.prefix.endswith("<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n")
    assert "26 Jul 2024" not in render_jinja(DATED_SYSTEM, TALK, bos_token=BOS, eos_token=EOS)


def test_a_template_that_refuses_system_messages() -> None:
    chat = derive(NO_SYSTEM, bos_token="<bos>", eos_token="<eos>")
    assert (chat.bos, chat.system, chat.stops, chat.trims) == ("<bos>", None, ("<end_of_turn>",), True)
    with pytest.raises(ChatFormatError, match="message 1: the generic format takes no system message"):
        chat.render([SYSTEM, *TALK])


def test_a_template_without_end_of_turn_stops_at_the_eos_token() -> None:
    template = ENDS_WITH_EOS.replace("{% else %}{{ eos_token }}", "")
    assert derive(template, bos_token="", eos_token="</s>").stops == ("</s>",)
    with pytest.raises(ChatFormatError, match="nothing ends an answer"):
        derive(template, bos_token="", eos_token="")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (FOLDED_SYSTEM, "does not begin as one that is asked for|folded into the first question"),
        (FORGETS_THOUGHTS, r"prompt for the conversation \(user, assistant, user.* has its own rules"),
        (THINKS_FIRST, "does not begin as one that is asked for"),
        (ENDS_WITH_EOS, "when no answer is asked for"),
        (DROPS_MESSAGES, "left out, repeated or out of order"),
        (PREAMBLE, r"opens a conversation with 'A chat.\\n', which is no system turn"),
        (NO_SYSTEM.replace("| trim", "| upper"), "left out, repeated or out of order"),
        (named_template("chatml").replace("message['content']", "message['content'].lstrip()"), "has its own rules"),
    ],
)
def test_what_turns_cannot_describe_is_refused_with_the_reason(template: str, why: str) -> None:
    with pytest.raises(ChatFormatError, match=why) as refused:
        derive(template, bos_token=BOS, eos_token=EOS)
    assert refused.value.hint == "name the format: --template llama-3 or --template chatml"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}", "not valid Jinja: line 1"),
        ("{{ 'a' + 1 }}", "fails: TypeError"),
        ("{{ messages[99].content.x.y }}", "refuses this conversation"),
        ("{{ 1 // 0 }}", "fails: ZeroDivisionError"),
        (
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "refuses this conversation: access to attribute '__class__'",
        ),
        ("{{ messages.append(1) }}", "refuses this conversation"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "fails: OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails: RecursionError"),
        ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "not valid Jinja|nested too deeply"),
    ],
)
def test_a_broken_or_hostile_template_is_one_error(template: str, why: str) -> None:
    with pytest.raises(ChatFormatError, match=why):
        render_jinja(template, TALK, bos_token=BOS, eos_token=EOS)
    with pytest.raises(ChatFormatError):
        derive(template, bos_token=BOS, eos_token=EOS)


def test_what_transformers_offers_a_template_is_there() -> None:
    template = (
        "{% generation %}{{ messages[0] | tojson }}{% endgeneration %}"
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role[0] }}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ tools is none }}"
    )
    assert render_jinja(template, TALK, bos_token="", eos_token="") == '{"role": "user", "content": "你好"}ua4True'
    with pytest.raises(ChatFormatError, match="refuses this conversation: not for you"):
        render_jinja("{{ raise_exception('not for you') }}", TALK, bos_token="", eos_token="")


@pytest.mark.parametrize(
    "template",
    [
        named_template("llama-3"),
        named_template("chatml"),
        DATED_SYSTEM,
        DEFAULT_SYSTEM,
        FOLDED_SYSTEM,
        FORGETS_THOUGHTS,
    ],
)
def test_renders_as_transformers_does(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for messages in (TALK[:1], TALK, (SYSTEM, *TALK)):
        for asked in (True, False):
            rendered, _ = render_jinja_template(
                [list(messages)], chat_template=template, add_generation_prompt=asked, bos_token=BOS, eos_token=EOS
            )
            ours = render_jinja(template, messages, bos_token=BOS, eos_token=EOS, add_generation_prompt=asked)
            assert ours == rendered[0]


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"role": "tool", "content": "x"}], "message 1: the chatml format has no role 'tool'"),
        ([TALK[0], SYSTEM], "message 2: a system message must be the first one"),
    ],
)
def test_render_refuses_what_it_cannot_say(messages: list[dict[str, str]], why: str) -> None:
    with pytest.raises(ChatFormatError, match=why):
        named_format("chatml").render(messages)


def test_choose_format(tmp_path: Path) -> None:
    own = named_template("chatml")
    file = tmp_path / "中文 template.jinja"
    file.write_text(DEFAULT_SYSTEM, encoding="utf-8")
    assert choose_format(own, bos_token="", eos_token="") == (named_format("chatml"), own)
    chat, text = choose_format(own, option="llama-3", bos_token="<s>", eos_token="</s>")
    assert (chat, text) == (replace(named_format("llama-3"), bos="<s>"), named_template("llama-3"))
    assert choose_format(None, option=str(file), bos_token="", eos_token="")[0].default_system == "You are Qwen."
    for missing in (None, ""):
        with pytest.raises(ChatFormatError, match="no chat template of its own") as refused:
            choose_format(missing, bos_token="", eos_token="")
        assert refused.value.hint == "name the format: --template llama-3 or --template chatml"
    with pytest.raises(ChatFormatError, match="no chat format named 'alpacca'") as refused:
        choose_format(own, option="alpacca", bos_token="", eos_token="")
    assert refused.value.hint == "use one of: llama-3, chatml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ChatFormatError, match="cannot be read"):
        choose_format(own, option=str(file), bos_token="", eos_token="")


def test_importing_it_does_not_import_jinja2() -> None:
    code = "import sys, quantkit.chat_format, quantkit.package; print('jinja2' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
