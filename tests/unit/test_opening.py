"""Templates that open no answer, or open it with a text that the model never saw, are named with what mends them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_gguf import LLAMA_3, Tiny, write_tiny_gguf

from quantkit.chat_template.advice import opening_notes
from quantkit.chat_template.format import derive, named_template
from quantkit.chat_template.opening import Opening, opening_fault
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from tests.faults.cli import run_here

Maker = Callable[..., Path]
TOKENS = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
TURNS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
UNLIKE = TURNS.replace("<|im_start|>", "[").replace("'\n' + m['content']", "']' + m['content']")
ASK = "{% if add_generation_prompt %}{{ 'OPENING' }}{% endif %}"


def notes(template: str) -> list[str]:
    return opening_notes(template, derive(template, **TOKENS), **TOKENS)


@pytest.mark.parametrize(
    ("template", "said", "remedy"),
    [
        (
            TURNS,
            "opens no answer, but past answers with '<|im_start|>assistant",
            "--template chatml has the same turns",
        ),
        (
            UNLIKE,
            "opens no answer, but past answers with '[assistant]'",
            "append {% if add_generation_prompt %}{{ '[assi",
        ),
        (TURNS + ASK.replace("OPENING", "<|im_start|>{role}\n"), "a placeholder, '{role}' in", "--template chatml"),
        (
            TURNS + ASK.replace("OPENING", "<|im_start|>{{ role }}\n"),
            "a placeholder, '{{ role }}'",
            "--template chatml",
        ),
        (UNLIKE + ASK.replace("OPENING", "[{role}]"), "a placeholder, '{role}'", "correct a copy of the template"),
        (
            UNLIKE + ASK.replace("OPENING", "Bot: "),
            "opens an answer with 'Bot: ', but past answers with",
            "correct a copy",
        ),
    ],
)
def test_openings_that_are_named(template: str, said: str, remedy: str) -> None:
    (note,) = notes(template)
    assert note.startswith("the chat template ")
    assert said in note
    assert remedy in note


def test_what_a_note_offers_mends_it() -> None:
    (note,) = notes(UNLIKE)
    ending = note[note.index("{% if") : note.index(" to a copy")]
    assert notes(UNLIKE + ending) == []
    assert notes(named_template("chatml")) == []


@pytest.mark.parametrize(
    ("asked", "past"),
    [
        ("", ""),  # [/INST] ends the question and opens the answer
        ("", " "),
        ("<|assistant|>", "<|assistant|>\n<think></think>\n"),
        ("<|assistant|><think>", "<|assistant|></think>"),
    ],
)
def test_openings_that_are_sound(asked: str, past: str) -> None:
    assert opening_fault(Opening(asked, past)) == ""


def test_a_build_says_so(checkpoint: Maker, tmp_path: Path) -> None:
    model = Path(shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "model"))
    template = tmp_path / "t.jinja"
    template.write_text(LLAMA_3[: LLAMA_3.index("{% if add_gen")], encoding="utf-8")
    with prepare(Recipe(model, template=template)) as prepared:
        assert [note for note in prepared.plan.notes if "opens no answer" in note and "--template llama-3 has" in note]


def test_a_package_says_to_build_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_tiny_gguf(tmp_path / "it.gguf", Tiny(template=LLAMA_3[: LLAMA_3.index("{% if add_gen")]))
    done = run_here(["package", str(file), "-o", str(tmp_path / "out")], capsys)
    assert done.code == 0
    assert "opens no answer" in done.stderr
    assert "build the file again from its checkpoint: --template llama-3" in done.stderr
