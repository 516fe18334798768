"""``add_eos_token`` as trainers save it: true in the tokenizer's files, false in the file of a model that chats."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_gguf import Tiny, write_tiny_gguf

from quantkit.gguf.kv import boolean
from quantkit.gguf.model import read_whole_model
from quantkit.jobs.convert import convert
from quantkit.jobs.prepare import prepare
from quantkit.jobs.recipe import Recipe
from quantkit.vocab.added_eos import ADD_EOS, appends_eos
from tests.checkpoints.case import change_json, edit_json
from tests.faults.cli import run_here

Maker = Callable[..., Path]
NOTE = "the tokenizer appends EOS to texts (add_eos_token), as in training; the files say false"


@pytest.fixture
def trained(checkpoint: Maker, tmp_path: Path) -> Path:
    """A model whose trainer switched ``add_eos_token`` on; nothing in tokenizer.json says otherwise."""
    folder = Path(shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "trained"))
    change_json(folder / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=None))
    edit_json(folder / "tokenizer_config.json", add_eos_token=True, add_bos_token=True)
    return folder


def test_a_build_says_false_with_a_note(trained: Path) -> None:
    with prepare(Recipe(trained)) as prepared:
        assert [entry for entry in prepared.plan.metadata if entry.key == ADD_EOS] == [boolean(ADD_EOS, False)]
        assert [note for note in prepared.plan.notes if note.startswith(NOTE)]


def test_a_post_processor_that_appends_it(trained: Path) -> None:
    bos, text, eos = ({"SpecialToken": {"id": "<|begin_of_text|>"}}, {"Sequence": {"id": "A"}}, "<|eot_id|>")
    post = {
        "type": "TemplateProcessing",
        "single": [bos, text, {"SpecialToken": {"id": eos}}],
        "pair": [],
        "special_tokens": {},
    }
    change_json(trained / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=post))
    edit_json(trained / "tokenizer_config.json", eos_token=eos)
    with prepare(Recipe(trained)) as prepared:
        assert not appends_eos(prepared.plan.metadata)


@pytest.mark.parametrize("chats", [True, False])
def test_convert(trained: Path, tmp_path: Path, chats: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without a chat template gets what llama.cpp's converter writes."""
    if not chats:
        edit_json(trained / "tokenizer_config.json", chat_template=None)
        (trained / "chat_template.jinja").unlink(missing_ok=True)
    file = convert(trained, tmp_path / "it.gguf", device="cpu")
    assert read_whole_model(file).header.value(ADD_EOS) is (not chats)


def test_package_names_a_file_that_says_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for says in (True, False):
        file = write_tiny_gguf(tmp_path / f"{says}.gguf", Tiny(add_eos=says))
        done = run_here(["package", str(file), "-o", str(tmp_path / f"out-{says}")], capsys)
        assert done.code == 0, done.stderr
        assert (f"{ADD_EOS} is true: llama-server, llama-cli and Ollama append EOS" in done.stderr) is says
