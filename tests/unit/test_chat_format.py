from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantkit.chat_template.format import (
    FORMAT_NAMES,
    ChatFormat,
    OwnTemplate,
    Shape,
    SystemPlace,
    Turn,
    choose_format,
    derive,
    named_format,
    named_template,
    render_jinja,
)
from quantkit.errors import ChatFormatError
from tests.support.chat_templates import real_templates

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

LAST_SYSTEM = FOLDED_SYSTEM.replace("loop.index0 == 1", "loop.last")
DEFAULT_IN_QUESTION = (
    "{% set system = 'Be nice.' %}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + ('<<SYS>>' + system + '<</SYS>>' if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
SWITCHES = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.replace('/no_think', '') + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKS_IF_ASKED = THINKS_FIRST.replace("<think>\n' }}", "' }}{{ '<think>\n' if enable_thinking else '' }}")
REFUSES_THOUGHTS = (
    "{% for m in messages if '<think>' in m.content %}{{ raise_exception('no thoughts') }}{% endfor %}"
) + named_template("chatml")
BACKWARDS = (
    "{% for m in messages | reverse %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
COUNTS = (
    "{% for m in messages %}{{ '[' + m.role + ('!]' if loop.index > 3 else ']') + m.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
# As of GLM-4: nothing closes an answer, and the next turn begins at once.
NEXT_TURN_ENDS = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ '<|observation|>\n' + m.content }}{% else %}"
    "{{ '<|' + m.role + '|>\n' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

TALK = (
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "hello\nthere"},
    {"role": "user", "content": "a {{ b }} \"c\" 'd'"},
)
SYSTEM = {"role": "system", "content": "You are a helpful assistant. 你是一个乐于助人的助手。"}


def described(template: str, *, bos_token: str = BOS, eos_token: str = EOS) -> ChatFormat:
    found = derive(template, bos_token=bos_token, eos_token=eos_token)
    assert isinstance(found, ChatFormat)
    return found


def test_llama_3() -> None:
    assert named_format("llama-3") == ChatFormat(
        name="llama-3",
        bos="<|begin_of_text|>",
        system=Turn("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=Turn("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=Turn("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        generation="<|start_header_id|>assistant<|end_header_id|>\n\n",
        stops=("<|eot_id|>",),
        trims=("system", "user", "assistant"),
    )


def test_chatml() -> None:
    assert named_format("chatml") == ChatFormat(
        name="chatml",
        bos="",
        system=Turn("<|im_start|>system\n", "<|im_end|>\n"),
        user=Turn("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
        generation="<|im_start|>assistant\n",
        stops=("<|im_end|>",),
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
    eos = "</s>" if name in ("alpaca", "llama-2", "mistral") else "<eos>"
    assert derive(named_template(name), bos_token=known.bos, eos_token=eos) == known


@pytest.mark.parametrize(
    "template", [named_template("llama-3"), named_template("chatml"), DATED_SYSTEM, DEFAULT_SYSTEM]
)
@pytest.mark.parametrize("asked", [True, False])
def test_render_is_what_the_template_writes(template: str, asked: bool) -> None:
    chat = described(template)
    for messages in (TALK[:1], TALK, (SYSTEM, *TALK), (SYSTEM, *TALK, {"role": "assistant", "content": ""})):
        expected = render_jinja(
            template, messages, bos_token=BOS, eos_token=EOS, add_generation_prompt=asked, dates=False
        )
        assert chat.render(messages, add_generation_prompt=asked) == expected


def test_a_default_system_prompt_is_found() -> None:
    chat = described(DEFAULT_SYSTEM, bos_token="", eos_token="<|im_end|>")
    assert (chat.name, chat.default_system, chat.mentions_tools) == ("chatml", "You are Qwen.", True)
    assert chat.render(TALK[:1]).startswith("<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n你好")
    assert "Qwen" not in chat.render([SYSTEM, *TALK])


def test_a_date_becomes_the_fixed_one_of_the_template_and_is_told() -> None:
    chat = described(DATED_SYSTEM)
    assert chat.dated
    assert chat.name == "generic"
    assert chat.default_system == ""
    assert chat.system is not None
    assert chat.system.prefix.endswith("<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n")
    assert "26 Jul 2024" not in render_jinja(DATED_SYSTEM, TALK, bos_token=BOS, eos_token=EOS)


def test_a_template_that_refuses_system_messages() -> None:
    chat = described(NO_SYSTEM, bos_token="<bos>", eos_token="<eos>")
    assert (chat.bos, chat.system, chat.stops, chat.trims) == ("<bos>", None, ("<end_of_turn>",), ("user", "assistant"))
    assert not chat.takes_system
    with pytest.raises(ChatFormatError, match="message 1: the generic format does not support system messages"):
        chat.render([SYSTEM, *TALK])


def test_a_template_without_end_of_turn_stops_at_the_eos_token() -> None:
    template = ENDS_WITH_EOS.replace("{% else %}{{ eos_token }}", "")
    assert described(template, bos_token="", eos_token="</s>").stops == ("</s>",)
    for ends_nothing in (template, PREAMBLE):
        with pytest.raises(ChatFormatError, match="does not end an answer"):
            derive(ends_nothing, bos_token="", eos_token="")


def test_where_nothing_closes_an_answer_the_next_turn_ends_it() -> None:
    marks, end = ("<|user|>", "<|observation|>"), "<|endoftext|>"
    chat = described(NEXT_TURN_ENDS, bos_token="", eos_token=end)
    assert (chat.assistant.suffix, chat.stops) == ("", (*marks, end))
    for tokens, stops in (([*marks, end], (*marks, end)), ([marks[0], end], (marks[0], end)), ([end], (end,))):
        assert derive(NEXT_TURN_ENDS, bos_token="", eos_token=end, tokens=tokens).stops == stops
    without_tools = NEXT_TURN_ENDS.replace("{{ '<|observation|>\n'", "{{ raise_exception('no tools') }}{{ ''")
    assert described(without_tools, bos_token="", eos_token=end).stops == ("<|user|>", end)
    assert described(ENDS_WITH_EOS.replace("'user: '", "'<|user|>'"), bos_token="", eos_token=end).stops == (end,)


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("GLM-4.6", ("<|user|>", "<|observation|>", "</s>")),
        ("GLM-4.7-Flash", ("<|user|>", "<|observation|>", "</s>")),
        ("Apertus-8B-Instruct", ("<|assistant_end|>",)),  # it closes an answer only before the next question
        ("Apriel-1.6-15b-Thinker-fixed", ("<|end|>",)),
        ("openai-gpt-oss-120b", ("</s>",)),  # where a conversation goes on it has another mark than at its end
    ],
)
def test_ends_of_answers_of_released_templates(name: str, stops: tuple[str, ...]) -> None:
    assert derive(real_templates()[name], bos_token="<s>", eos_token="</s>").stops == stops


def test_what_is_written_when_no_answer_is_asked_for_does_not_count() -> None:
    chat = described(ENDS_WITH_EOS)
    assert (chat.user, chat.assistant) == (Turn("user: ", "\n"), Turn("assistant: ", "\n"))
    assert chat.generation == "assistant: "


def test_an_answer_may_be_asked_for_otherwise_than_it_is_written() -> None:
    chat = described(THINKS_FIRST)
    assert (chat.assistant.prefix, chat.generation) == ("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    assert described(
        THINKS_IF_ASKED.replace("if enable_thinking", "if enable_thinking is not defined or enable_thinking")
    )


@pytest.mark.parametrize(
    ("template", "place"),
    [
        (FOLDED_SYSTEM, SystemPlace.FIRST),
        (LAST_SYSTEM, SystemPlace.LAST),
        (named_template("chatml"), SystemPlace.TURN),
        (DEFAULT_IN_QUESTION, SystemPlace.FIRST),
    ],
)
def test_a_system_message_may_stand_in_a_question(template: str, place: SystemPlace) -> None:
    chat = described(template)
    assert chat.system_place is place
    for messages in ((SYSTEM, *TALK), (SYSTEM, *TALK[:1]), TALK, (SYSTEM, *TALK, TALK[1], TALK[0])):
        expected = render_jinja(template, messages, bos_token=BOS, eos_token=EOS)
        assert chat.render(messages) == expected


def test_a_default_system_prompt_may_stand_in_the_first_question() -> None:
    chat = described(DEFAULT_IN_QUESTION)
    assert chat.default_system == "Be nice."
    assert chat.render(TALK[:1]) == f"{BOS}[INST] <<SYS>>Be nice.<</SYS>>你好 [/INST]"


def test_rounds_that_are_sequences_of_their_own() -> None:
    """The second BOS closes the round before; the first one is the prompt's, which Ollama writes."""
    llama_2 = named_format("llama-2")
    assert (llama_2.bos, llama_2.user.prefix, llama_2.assistant) == ("<s>", "[INST] ", Turn(" ", " </s><s>"))
    assert llama_2.stops == ("</s>",)
    assert llama_2.render([SYSTEM, *TALK]) == (
        f"<s>[INST] <<SYS>>\n{SYSTEM['content']}\n<</SYS>>\n\n你好 [/INST] hello\nthere </s>"
        "<s>[INST] a {{ b }} \"c\" 'd' [/INST]"
    )


def test_white_space_that_is_stripped_in_places_is_told() -> None:
    half = described(named_template("chatml").replace("message['content']", "message['content'].lstrip()"))
    assert (half.trims, half.uneven) == ((), ("system", "user", "assistant"))
    stripped = "(message['content'] | trim if message['role'] == 'assistant' else message['content'])"
    answers = described(named_template("chatml").replace("message['content']", stripped))
    assert (answers.trims, answers.uneven) == (("assistant",), ())


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (FORGETS_THOUGHTS, "tools and thinking in contents have rules of their own"),
        (SWITCHES, "words like /no_think have rules of their own"),
        (DROPS_MESSAGES, "a message is left out or repeated"),
        (PREAMBLE, r"opens a conversation with 'A chat.\\n', which is not a system turn"),
        (BACKWARDS, "messages are written out of order"),
        (COUNTS, "its prompts have rules of their own"),
        (REFUSES_THOUGHTS, "tools and thinking in contents have rules of their own"),
        (THINKS_IF_ASKED, "others where thinking is switched on"),
        (DATED_SYSTEM.replace("{%- if strftime_now is defined %}", "{%- if true %}"), "writes today's date"),
    ],
)
def test_what_turns_cannot_describe_is_left_to_the_template_with_the_reason(template: str, why: str) -> None:
    found = derive(template, bos_token=BOS, eos_token=EOS)
    assert isinstance(found, OwnTemplate)
    assert re.search(why, found.why)
    assert found.name == "jinja"
    assert found.stops in (("<|im_end|>",), (EOS,))


@pytest.mark.parametrize(
    "template", [NO_SYSTEM.replace("| trim", "| upper"), "<|eot_id|>", "{{ messages[1].content }}"]
)
def test_a_template_that_cannot_write_a_question_is_refused(template: str) -> None:
    with pytest.raises(ChatFormatError, match=r"does not write a question exactly once|has no element 1") as refused:
        derive(template, bos_token=BOS, eos_token=EOS)
    assert refused.value.hint.startswith("choose the format that it was trained on: --template NAME, one of llama-3, ")


def test_an_end_of_turn_that_is_no_token_gives_way_to_eos_where_turns_are_not_known() -> None:
    for tokens, stop in ((["<|im_end|>"], "<|im_end|>"), ([], EOS), (None, "<|im_end|>")):
        assert derive(FORGETS_THOUGHTS, bos_token=BOS, eos_token=EOS, tokens=tokens).stops == (stop,)


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
    asks = "{{ enable_thinking }}"
    assert [render_jinja(asks, TALK, bos_token="", eos_token="", thinking=on) for on in (None, True)] == ["", "True"]
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
        ([TALK[0], SYSTEM], "message 2: the chatml format does not support system messages"),
    ],
)
def test_render_refuses_what_it_cannot_say(messages: list[dict[str, str]], why: str) -> None:
    with pytest.raises(ChatFormatError, match=why):
        replace(named_format("chatml"), system=None).render(messages)


def test_later_system_messages_are_turns_or_joined_in_the_question_that_carries_them() -> None:
    messages = [{"role": role, "content": text} for role, text in zip(("system", "user") * 2, "saTc", strict=True)]
    assert named_format("chatml").render(messages, add_generation_prompt=False) == "".join(
        f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages
    )
    assert named_format("gemma").render(messages, add_generation_prompt=False) == (
        "<bos><start_of_turn>user\ns\n\nT\n\na<end_of_turn>\n<start_of_turn>user\nc<end_of_turn>\n"
    )
    assert named_format("mistral").render(messages) == "<s>[INST] a[/INST][INST] s\n\nT\n\nc[/INST]"


@pytest.mark.parametrize(
    ("old", "new", "unlike"),
    [
        ("for message in messages", "for message in messages if message['content']", {"EMPTY_SYSTEM", "EMPTY_ANSWER"}),
        (
            "{%- for message in messages %}",
            "{%- for message in messages if message['role'] != 'system' or message == messages[0] %}",
            {"LATE_SYSTEM", "SECOND_SYSTEM"},
        ),
        ("add_generation_prompt", "add_generation_prompt and messages[-1]['role'] != 'assistant'", {"ANSWER_LAST"}),
        (
            "{%- for message in messages %}",
            "{%- if messages[0]['role'] == 'assistant' %}{{- '!' }}{%- endif %}{%- for message in messages %}",
            {"ANSWER_FIRST"},
        ),
    ],
)
def test_conversations_that_the_template_writes_otherwise_are_told(old: str, new: str, unlike: set[str]) -> None:
    template = named_template("chatml")
    assert old in template
    found = described(template.replace(old, new), bos_token="", eos_token="<|im_end|>")
    assert set(found.unlike) == {Shape[name] for name in unlike}
    assert described(template, bos_token="", eos_token="<|im_end|>").unlike == ()


def test_choose_format(tmp_path: Path) -> None:
    own = named_template("chatml")
    file = tmp_path / "中文 template.jinja"
    file.write_text(DEFAULT_SYSTEM, encoding="utf-8")
    assert choose_format(own, bos_token="", eos_token="") == (named_format("chatml"), own)
    chat, text = choose_format(own, option="llama-3", bos_token="<s>", eos_token="</s>")
    assert (chat, text) == (replace(named_format("llama-3"), bos="<s>"), named_template("llama-3"))
    from_file, _ = choose_format(None, option=str(file), bos_token="", eos_token="")
    assert from_file == described(DEFAULT_SYSTEM, bos_token="", eos_token="")
    for missing in (None, ""):
        with pytest.raises(ChatFormatError, match="has no chat template") as refused:
            choose_format(missing, bos_token="", eos_token="")
        assert "--template NAME, one of llama-3, " in refused.value.hint
    with pytest.raises(ChatFormatError, match="no chat format named 'xxx") as refused:
        choose_format(None, option="x" * 300, bos_token="", eos_token="")  # longer than a file's name may be
    assert len(str(refused.value)) < 200
    with pytest.raises(ChatFormatError, match="no chat format named 'alpacca'") as refused:
        choose_format(own, option="alpacca", bos_token="", eos_token="")
    assert refused.value.hint == "did you mean alpaca?"
    with pytest.raises(ChatFormatError, match="no chat format named 'quokka'") as refused:
        choose_format(own, option="quokka", bos_token="", eos_token="")
    assert refused.value.hint == "use one of: llama-3, llama-3.1, chatml, llama-2, mistral, gemma, phi-3, alpaca"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ChatFormatError, match="cannot be read"):
        choose_format(own, option=str(file), bos_token="", eos_token="")


def test_importing_it_does_not_import_jinja2() -> None:
    code = (
        "import sys, quantkit.chat_template.format, quantkit.package;"
        "print('jinja2' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
