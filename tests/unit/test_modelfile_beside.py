"""Modelfiles from elsewhere: beside a checkpoint, made for one, or with the TEMPLATE of another family."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

from quantkit.errors import GGUFError
from quantkit.jobs.package import package
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from quantkit.package.foreign_template import foreign_template_notes
from quantkit.system.progress import Reporter

Maker = Callable[..., Path]
CHATML = "{{ .System }}<|im_start|>{{ .Role }}{{ .Content }}<|im_end|>"
FACTORY = """FROM .

TEMPLATE [INST] {{ .Prompt }} [/INST]
SYSTEM Be Kit.
PARAMETER num_ctx 64
PARAMETER stop <|eot_id|>
"""


def notes(model: Path, **options: object) -> list[str]:
    with prepare(Recipe(model, **options)) as prepared:  # type: ignore[arg-type]
        return [note for note in prepared.plan.notes if "Modelfile" in note]


def test_a_build_offers_what_is_in_it(checkpoint: Maker, tmp_path: Path) -> None:
    model = Path(shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "tuned"))
    (model / "Modelfile").write_text(FACTORY, encoding="utf-8")
    assert notes(model) == [
        "tuned/Modelfile: its SYSTEM and PARAMETER lines are not used; to have them, pass --system 'Be Kit.' --param "
        "num_ctx=64"
    ]
    assert notes(model, system="Be Kit.", parameters={"num_ctx": 64}) == []
    (model / "Modelfile").write_text("FROM .\nPARAMETER nonsense 1\n", encoding="utf-8")
    assert notes(model)[0].startswith("tuned/Modelfile: not used, and cannot be read (")


def test_from_a_checkpoint(checkpoint: Maker, tmp_path: Path) -> None:
    model = Path(shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "tuned"))
    (model / "Modelfile").write_text(FACTORY, encoding="utf-8")
    with pytest.raises(GGUFError, match=r"Modelfile: FROM \. is a checkpoint") as caught:
        package((), tmp_path / "out", modelfile=model / "Modelfile")
    assert caught.value.hint == f"build it from the checkpoint: quantkit build {model}"


def test_a_template_of_another_family(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "it.gguf")
    modelfile = tmp_path / "Modelfile"
    for template, said in (("[INST] {{ .Prompt }} [/INST]", True), (None, False)):
        lines = "FROM ./it.gguf\n" + (f'TEMPLATE """{template}"""\n' if template else "")
        modelfile.write_text(lines, encoding="utf-8")
        reporter = Reporter()
        package((), tmp_path / str(said), modelfile=modelfile, reporter=reporter)
        found = [note for note in reporter.notes if "is not that of the model" in note]
        assert bool(found) is said
    assert "<|start_header_id|>" in foreign_template_notes("", "<|start_header_id|>", added=())[0]


def test_the_text_of_marks() -> None:
    prompt = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert foreign_template_notes(CHATML, prompt, added=("<s>",)) == []
    (note,) = foreign_template_notes("[INST] {{ .Prompt }} [/INST]", prompt, added=("<s>",))
    assert "does not write <|im_start|>, <|im_end|>, but [INST], [/INST];" in note
    assert foreign_template_notes("{{ .Prompt }}", "USER: Hi ASSISTANT:", added=()) == []
