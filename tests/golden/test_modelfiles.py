"""modelfiles/ against fresh renders, and Modelfiles and prompts against what a real Ollama server read and built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quantkit.chat_template.format import ChatFormat, derive, named_format, named_template, render_jinja
from quantkit.errors import ChatFormatError
from quantkit.ollama.modelfile import Command, parse_modelfile, print_modelfile
from quantkit.ollama.parameters import check_parameters
from quantkit.package.go_template import go_template
from quantkit.package.render import render_package
from quantkit.package.spec import PackagedModel, PackageSpec
from tests.support.go_prompts import ollama_prompt

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SCRIPT = ROOT / "scripts" / "render_modelfiles"

MODELFILES: list[dict[str, Any]] = json.loads((HERE / "ollama_modelfiles.json").read_text("utf-8"))["modelfiles"]
RENDERS: dict[str, Any] = json.loads((HERE / "ollama_renders.json").read_text("utf-8"))
CONVERSATIONS: dict[str, list[dict[str, str]]] = RENDERS["conversations"]
RENDERED: list[dict[str, str]] = RENDERS["renders"]

GEMMA_LIKE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n'"
    " + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
QWEN_LIKE = replace(named_format("chatml"), default_system="You are Qwen. 你是通义千问。")
ODD = replace(
    named_format("chatml"),
    assistant=replace(named_format("chatml").assistant, prefix='{{ "a" }}\\ "b"\t\u200d\n\n '),
)

SPEC = PackageSpec(
    name="it's a 中文 model",
    models=(PackagedModel("it's a 中文 model-q4_0.gguf", "q4_0"),),
    chat=replace(named_format("llama-3"), mentions_tools=True),
    system='You\'re "helpful".\n\n$(reboot) `reboot` 你是一个乐于助人的助手。‘引号’',
    parameters=(("temperature", "0.2"), ("stop", 'Say "User":\\'), ("num_keep", "24")),
    context_length=4096,
    base="org/base_model",
    adapters=("./my lora",),
    licenses=("Apache-2.0",),
    architecture="llama",
    parameter_count=8_030_261_248,
)


def recorded(command: Command) -> list[str]:
    """A command as Ollama's parser reports it."""
    if command.keyword == "MESSAGE":
        return ["message", f"{command.key}: {command.value}"]
    return [command.key or {"FROM": "model"}.get(command.keyword, command.keyword.lower()), command.value]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_committed_modelfiles_are_fresh() -> None:
    done = run("--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name.removesuffix(".Modelfile") for path in (ROOT / "modelfiles").glob("*.Modelfile")} == {
        *("Llama-3-Instruct", "Llama-3-Chinese-Instruct", "Llama-3.1-Instruct", "Llama-2-Chat", "Mistral-Instruct"),
        *("Gemma-3-Instruct", "Phi-3-Instruct", "Qwen2-Instruct", "Qwen3"),
    }


def test_stale_missing_and_foreign_modelfiles_are_named_and_repaired(tmp_path: Path) -> None:
    assert run("--folder", str(tmp_path)).returncode == 0
    assert run("--folder", str(tmp_path), "--check").returncode == 0
    changed = tmp_path / "Llama-3-Instruct.Modelfile"
    changed.write_bytes(changed.read_bytes().replace(b"8192", b"8193"))
    (tmp_path / "Qwen2-Instruct.Modelfile").unlink()
    (tmp_path / "Old.Modelfile").write_text("FROM a\n")
    done = run("--folder", str(tmp_path), "--check")
    assert done.returncode == 1
    assert [line.split(";")[0] for line in done.stderr.splitlines()] == [
        "stale: Llama-3-Instruct.Modelfile",
        "stale: Old.Modelfile",
        "stale: Qwen2-Instruct.Modelfile",
    ]
    assert run("--folder", str(tmp_path)).returncode == 0
    assert run("--folder", str(tmp_path), "--check").returncode == 0


def test_chinese_llama_as_people_know_it() -> None:
    commands = parse_modelfile((ROOT / "modelfiles" / "Llama-3-Chinese-Instruct.Modelfile").read_text("utf-8"))
    assert [command for command in commands if command.keyword != "TEMPLATE"] == [
        Command("FROM", "./Llama-3-Chinese-Instruct-q4_0.gguf"),
        Command("SYSTEM", "You are a helpful assistant. 你是一个乐于助人的助手。"),
        Command("PARAMETER", "<|eot_id|>", "stop"),
        Command("PARAMETER", "8192", "num_ctx"),
        Command("PARAMETER", "0.2", "temperature"),
        Command("PARAMETER", "1.1", "repeat_penalty"),
        Command("PARAMETER", "24", "num_keep"),
    ]


@pytest.mark.parametrize("case", MODELFILES, ids=lambda case: repr(case["text"]))
def test_reads_and_refuses_as_ollama(case: dict[str, Any]) -> None:
    def read() -> tuple[Command, ...]:
        commands = parse_modelfile(case["text"])
        check_parameters((c.key, c.value) for c in commands if c.keyword == "PARAMETER")
        return commands

    if "error" in case:
        with pytest.raises(ChatFormatError):
            read()
    else:
        commands = read()
        assert [recorded(command) for command in commands] == case["commands"]
        assert parse_modelfile(print_modelfile(commands)) == commands


def test_all_modelfiles_and_renders_are_there() -> None:
    assert len(MODELFILES) == 62
    assert sum("error" in case for case in MODELFILES) == 15
    assert len(RENDERED) == 224


def test_llama_3_gives_the_prompts_of_the_recorded_messages_template() -> None:
    template = go_template(named_format("llama-3"))
    for case in RENDERED:
        if case["template"] == "llama3-messages":
            prompt = ollama_prompt(template, CONVERSATIONS[case["conversation"]], system=case["system"])
            assert prompt == case["prompt"], case["conversation"]


def test_chatml_gives_the_prompts_of_the_recorded_classic_template() -> None:
    # The classic form leaves out empty messages and lets an unfinished answer go on; ours does as the Jinja does.
    template = go_template(named_format("chatml"))
    seen = 0
    for case in RENDERED:
        if case["template"] == "chatml-prompt" and case["conversation"] not in (
            "empty-user",
            "empty-system",
            "ends-with-assistant",
        ):
            prompt = ollama_prompt(template, CONVERSATIONS[case["conversation"]], system=case["system"])
            assert prompt == case["prompt"], case["conversation"]
            seen += 1
    assert seen == 26


def expressible(conversation: list[dict[str, str]], chat: ChatFormat) -> bool:
    """Whether a TEMPLATE can say it: roles alternate, a system message only first, nothing to trim."""
    roles = [message["role"] for message in conversation]
    return (
        all(a != b for a, b in pairwise(roles))
        and "system" not in roles[1:]
        and (chat.system is not None or "system" not in roles)
        and not (chat.trims and any(m["content"] != m["content"].strip() for m in conversation))
    )


@pytest.mark.parametrize(
    "chat",
    [
        named_format("llama-3"),
        named_format("chatml"),
        QWEN_LIKE,
        ODD,
        derive(GEMMA_LIKE, bos_token="<b>", eos_token=""),
    ],
    ids=["llama-3", "chatml", "default-system", "odd", "no-system"],
)
def test_template_equals_the_chat_format_without_its_bos(chat: ChatFormat) -> None:
    template = go_template(chat)
    asked = [conversation for conversation in CONVERSATIONS.values() if expressible(conversation, chat)]
    assert len(asked) >= 8
    for conversation in asked:
        assert chat.bos + ollama_prompt(template, conversation) == chat.render(conversation)


@pytest.mark.parametrize("system", ["plain", 'hard """\n"""\n\u200d\u202e {{ .Prompt }}'])
def test_a_system_prompt_inside_the_template_is_the_default(system: str) -> None:
    chat = named_format("llama-3")
    template = go_template(chat, default_system=system)
    question = {"role": "user", "content": "q"}
    own = {"role": "system", "content": "own"}
    assert chat.bos + ollama_prompt(template, [question]) == chat.render(
        [{"role": "system", "content": system}, question]
    )
    assert chat.bos + ollama_prompt(template, [own, question]) == chat.render([own, question])


def test_old_servers_without_messages_get_the_same_prompt() -> None:
    # They feed the same template round by round.
    system, asked = {"role": "system", "content": "s"}, {"role": "user", "content": "q"}
    answered = {"role": "assistant", "content": "a"}
    chatml = named_format("chatml")
    for chat, messages in (
        (QWEN_LIKE, [asked]),
        (QWEN_LIKE, [system, asked]),
        (chatml, [asked, answered, asked]),
        (chatml, [system, asked, answered, asked, answered, asked]),
    ):
        assert ollama_prompt(go_template(chat), messages, old=True) == chat.render(messages)


def test_jinja_agrees_with_the_recorded_llama_3_prompts() -> None:
    chat = named_format("llama-3")
    for case in RENDERED:
        conversation = CONVERSATIONS[case["conversation"]]
        if case["template"] == "llama3-messages" and not case["system"] and expressible(conversation, chat):
            prompt = render_jinja(named_template("llama-3"), conversation, bos_token="", eos_token="")
            assert prompt == case["prompt"], case["conversation"]


@pytest.mark.parametrize(
    "system",
    [
        "Be brief. 请简短。",
        'say """hi""" now',
        'a """\nb\n"""\nc"""',
        "{{ .Prompt }} {{- if }} }}",
        "👩\u200d👩\u200d👧 \u00a0 \u200fשלום\u202e",
        "\r\nfirst\r\n\tsecond\\n\r\n",
        "\x01\x1b[31m",
    ],
)
@pytest.mark.parametrize("chat", [named_format("llama-3"), QWEN_LIKE], ids=["llama-3", "chatml"])
def test_any_system_prompt_reaches_the_model_through_ollama(system: str, chat: ChatFormat) -> None:
    spec = replace(SPEC, chat=chat, system=system)
    values = {command.keyword: command.value for command in parse_modelfile(render_package(spec)["Modelfile"])}
    question = {"role": "user", "content": "你好"}
    prompt = ollama_prompt(values["TEMPLATE"], [question], system=values.get("SYSTEM", ""))
    assert chat.bos + prompt == chat.render([{"role": "system", "content": system}, question])


@pytest.mark.parametrize("name", ["Modelfile", "chat.sh", "chat.ps1", "README.md"])
def test_a_whole_package(name: str) -> None:
    """Set UPDATE_GOLDENS=1 to write the files anew, then read the difference."""
    golden = HERE / "package" / name
    text = render_package(SPEC)[name]
    if os.environ.get("UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_bytes(text.encode("utf-8"))
    assert golden.read_bytes().decode("utf-8") == text
