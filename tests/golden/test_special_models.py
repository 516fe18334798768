"""Models that packages are often wrong for, each built and verified: what becomes of it is said here, fact by fact."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantkit.chat_template.format import ChatFormat, OwnTemplate, derive, named_template
from quantkit.errors import ChatFormatError
from quantkit.gguf.header import Header, read_header
from quantkit.jobs.build import BuildResult, build
from quantkit.jobs.recipe import Recipe
from quantkit.ollama.modelfile import parse_modelfile
from quantkit.verify.conversations import CONVERSATIONS
from quantkit.vocab.from_gguf import gguf_vocabulary, token_text
from tests.support.chat_templates import template_file

Maker = Callable[..., Path]

SYSTEM = "Be brief. 请简短。"
DONE = "<|done|>"
DEFAULT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@dataclass(frozen=True)
class Package:
    """A built and verified package, looked at from outside."""

    result: BuildResult
    header: Header

    @property
    def chat(self) -> ChatFormat | OwnTemplate:
        """What the file's own template is."""
        vocabulary = gguf_vocabulary(self.header)
        assert vocabulary.chat_template is not None
        return derive(
            vocabulary.chat_template,
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
            tokens=self.header.value("tokenizer.ggml.tokens"),
        )

    def commands(self, keyword: str) -> list[str]:
        """The values of one command of its Modelfile; those of PARAMETER are its stops."""
        commands = parse_modelfile((self.result.folder / "Modelfile").read_text(encoding="utf-8"))
        return [command.value for command in commands if command.keyword == keyword and command.key in ("", "stop")]

    def check(self, name: str) -> tuple[str, str]:
        """Figure and evidence of a check of the build."""
        assert self.result.report is not None
        assert self.result.report.passed
        found = next(check for check in self.result.report.checks if check.name.endswith(f": {name}"))
        return found.figure, found.evidence

    def prompt(self, name: str) -> str | None:
        """The text of one of the prompts that were compared."""
        kept = json.loads((self.result.folder / "report.json").read_text(encoding="utf-8"))["prompts"]
        text: str | None = next(one["text"] for one in kept if one["name"] == name)
        return text


def make(model: Path, root: Path, template: str, *, system: str | None = None) -> Package:
    file = root / "template.jinja"
    file.write_text(template, encoding="utf-8")
    result = build(Recipe(model, (), ("q8_0",), root / "out", "it", template=str(file), system=system))
    return Package(result, read_header(result.folder / "it-q8_0.gguf"))


def test_eos_that_is_not_the_end_of_turn(checkpoint: Maker, tmp_path: Path) -> None:
    """A control token that llama.cpp does not know by its name has to stand in the file as an end token."""
    template = named_template("llama-3").replace("<|eot_id|>", DONE)
    model = checkpoint("llama3-untied", layers=1, extra=(DONE,))
    made = make(model, tmp_path, template, system=SYSTEM)
    assert token_text(made.header, "eos") != DONE
    assert token_text(made.header, "eot") == DONE
    assert any(note.startswith(f"{DONE} ends a turn but is not the model's EOS") for note in made.result.plan.notes)
    assert made.check("stops at end of turn")[0] == "1 of 1"
    assert made.check("end of turn")[0] == DONE
    assert made.commands("PARAMETER") == [DONE]
    assert made.commands("TEMPLATE") != []


def test_a_model_without_bos(checkpoint: Maker, tmp_path: Path) -> None:
    made = make(checkpoint("qwen2", layers=1), tmp_path, named_template("chatml"), system=SYSTEM)
    assert made.header.value("tokenizer.ggml.add_bos_token") is False
    assert made.check("prompt BOS")[0] == "0"
    assert made.check("prompt token ids")[1] == f"{len(CONVERSATIONS) + 1} prompts"
    (template,) = made.commands("TEMPLATE")
    assert "<|endoftext|>" not in template  # which the file names as BOS, and which no prompt begins with
    assert made.prompt("a question") == ("<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\n")


def test_a_default_system_prompt(checkpoint: Maker, tmp_path: Path) -> None:
    """It stays the model's own: in the file's template, and in the TEMPLATE where nobody gives another one."""
    template = (
        f"{{% if messages[0].role != 'system' %}}<|im_start|>system\n{DEFAULT}<|im_end|>\n{{% endif %}}"
        + named_template("chatml")
    )
    model = checkpoint("qwen2", layers=1)
    made = make(model, tmp_path, template)
    assert isinstance(made.chat, ChatFormat)
    assert made.chat.default_system == DEFAULT
    assert made.commands("SYSTEM") == []
    (text,) = made.commands("TEMPLATE")
    assert DEFAULT in text
    assert DEFAULT in (made.prompt("a question") or "")
    assert DEFAULT not in (made.prompt("a system prompt") or DEFAULT)
    (tmp_path / "own").mkdir()
    own = make(model, tmp_path / "own", template, system=SYSTEM)
    assert own.commands("SYSTEM") == [SYSTEM]
    assert (own.prompt("the package's system prompt") or "").startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")


def test_a_template_that_refuses_a_system_role(checkpoint: Maker, tmp_path: Path) -> None:
    model = checkpoint("gemma2", layers=1)
    made = build(Recipe(model, (), ("q8_0",), tmp_path / "out", "it"))
    package = Package(made, read_header(made.folder / "it-q8_0.gguf"))
    assert not package.chat.takes_system
    assert package.commands("SYSTEM") == []
    assert ".System" not in package.commands("TEMPLATE")[0]
    assert "the template rejects a system prompt, an empty system prompt" in package.check("prompt token ids")[1]
    assert package.prompt("a system prompt") is None
    with pytest.raises(ChatFormatError, match="does not support a system message") as refused:
        build(Recipe(model, (), ("q8_0",), tmp_path / "with", "it", system=SYSTEM))
    assert refused.value.hint == "build without --system"
    assert not (tmp_path / "with").exists()


@pytest.mark.parametrize(
    ("kind", "file", "turns"),
    [
        ("llama3-untied", "meta-llama-Llama-3.1-8B-Instruct", True),
        ("qwen2", "Qwen-Qwen2.5-7B-Instruct", True),
        ("qwen3", "Qwen-Qwen3-0.6B", False),
    ],
)
def test_a_model_with_tools(kind: str, file: str, turns: bool, checkpoint: Maker, tmp_path: Path) -> None:
    """Tools stay in the file's Jinja, which a new Ollama takes; the TEMPLATE, for an old one, has plain turns."""
    made = make(checkpoint(kind, layers=1), tmp_path, template_file(file), system=SYSTEM)
    assert "tools" in (gguf_vocabulary(made.header).chat_template or "")
    assert bool(made.commands("TEMPLATE")) is turns
    assert made.commands("PARSER") == []  # it would take the tools away
    assert made.commands("SYSTEM") == [SYSTEM]
    assert made.check("prompt token ids")[0].endswith(" match")
    chat = made.chat
    if isinstance(chat, ChatFormat):
        assert chat.mentions_tools
        assert ".Tools" not in made.commands("TEMPLATE")[0]
    else:
        assert "tools and thinking" in chat.why
        assert any("a TEMPLATE cannot express the chat template" in note for note in made.result.plan.notes)
