"""Which tokenizer counts: the base's, the one beside an adapter, or the base's with the adapter's chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.errors import CheckpointError, VocabularyError
from quantkit.files.json_file import read_json
from quantkit.model.tokenizer_choice import choose_tokenizer
from quantkit.model.tokenizer_copy import write_tokenizer
from quantkit.vocab import files
from quantkit.vocab.templates import read_templates
from quantkit.vocab.vocabulary import read_vocabulary

Maker = Callable[..., Path]

OWN = "{% for message in messages %}{{ message['content'] }}<|eot_id|>{% endfor %}"


@pytest.fixture
def folders(vocabulary: Maker, tmp_path: Path) -> tuple[Path, Path]:
    """A base, and an adapter with the same tokenizer."""
    for name in ("base", "adapter"):
        shutil.copytree(vocabulary("llama-bpe"), tmp_path / name)
    return tmp_path / "base", tmp_path / "adapter"


def set_template(folder: Path, template: str | None) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["chat_template"] = template
    path.write_text(json.dumps(config), encoding="utf-8")


def test_the_same_tokenizer_changes_nothing(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    choice = choose_tokenizer(base, [adapter], None)
    assert (choice.folder, choice.templates, choice.notes) == (base, base, ())
    assert choose_tokenizer(base, [], None) == choice


def test_the_same_tokens_and_another_template(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    set_template(adapter, None)
    (adapter / "chat_template.jinja").write_text(OWN, encoding="utf-8")
    choice = choose_tokenizer(base, [adapter], None)
    assert (choice.folder, choice.templates) == (base, adapter)
    assert "chat template of adapter is used" in choice.notes[0]
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(choice, out)
    assert (out / "chat_template.jinja").read_text(encoding="utf-8") == OWN
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_an_adapter_without_a_template_keeps_the_bases(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    set_template(adapter, None)
    choice = choose_tokenizer(base, [adapter], None)
    assert (choice.folder, choice.templates, choice.notes) == (base, base, ())


def test_a_base_without_a_template_gets_the_adapters(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    set_template(base, None)
    assert choose_tokenizer(base, [adapter], None).templates == adapter


def test_other_tokens_at_the_same_size(folders: tuple[Path, Path], vocabulary: Maker, tmp_path: Path) -> None:
    base, _ = folders
    shutil.copytree(vocabulary("llama-bpe", extra=("<think>",)), tmp_path / "grown")
    choice = choose_tokenizer(base, [tmp_path / "grown"], None)
    assert (choice.folder, choice.templates) == (tmp_path / "grown", tmp_path / "grown")
    assert "'<think>' (2007)" in choice.notes[0]


def test_a_token_without_a_row_is_left_out(folders: tuple[Path, Path], vocabulary: Maker, tmp_path: Path) -> None:
    """A padding token that a trainer added to the tokenizer and not to the model."""
    base, _ = folders
    shutil.copytree(vocabulary("llama-bpe", extra=("<pad>",)), tmp_path / "padded")
    choice = choose_tokenizer(base, [tmp_path / "padded"], None, own=2007)
    assert (choice.folder, choice.templates) == (base, base)
    assert "'<pad>' (2007)" in choice.notes[0]
    assert choose_tokenizer(base, [tmp_path / "padded"], None, own=2008).folder == tmp_path / "padded"


def test_the_last_that_differs_from_the_base_counts(
    folders: tuple[Path, Path], vocabulary: Maker, tmp_path: Path
) -> None:
    base, adapter = folders
    set_template(adapter, OWN)
    shutil.copytree(vocabulary("llama-bpe"), tmp_path / "second")
    (tmp_path / "bare").mkdir()
    assert choose_tokenizer(base, [tmp_path / "second", adapter], None).templates == adapter
    assert choose_tokenizer(base, [adapter, tmp_path / "second"], None).templates == adapter
    assert choose_tokenizer(base, [adapter, tmp_path / "bare"], None).templates == adapter
    shutil.copytree(vocabulary("llama-bpe", extra=("<think>",)), tmp_path / "grown")
    choice = choose_tokenizer(base, [tmp_path / "grown", tmp_path / "second"], None)
    assert (choice.folder, choice.templates) == (tmp_path / "grown", tmp_path / "grown")


def test_two_templates_are_said_and_the_last_counts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    set_template(adapter, OWN)
    shutil.copytree(adapter, tmp_path / "second")
    set_template(tmp_path / "second", OWN + "!")
    choice = choose_tokenizer(base, [adapter, tmp_path / "second"], None)
    assert (choice.folder, choice.templates) == (base, tmp_path / "second")
    assert choice.notes[0] == "adapter, second have different chat templates: the last one is used"


def test_two_tokenizers_of_their_own_are_refused(folders: tuple[Path, Path], vocabulary: Maker, tmp_path: Path) -> None:
    base, _ = folders
    both = [tmp_path / "one", tmp_path / "other"]
    for folder, token in zip(both, ("<one>", "<other>"), strict=True):
        shutil.copytree(vocabulary("llama-bpe", extra=(token,)), folder)
    for rows, resizing in ((None, None), (2008, [both[0]])):
        with pytest.raises(
            VocabularyError, match=r"one and .*other: the adapters were trained with tokenizers"
        ) as caught:
            choose_tokenizer(base, both, rows, resizing=resizing)
        assert "build with only one of them" in caught.value.hint


def test_the_tokenizer_of_the_adapter_that_resizes(
    folders: tuple[Path, Path], vocabulary: Maker, tmp_path: Path
) -> None:
    """Another adapter behind it changes nothing of the vocabulary, and has the base's tokenizer beside it."""
    base, plain = folders
    shutil.copytree(vocabulary("llama-bpe", extra=("<think>",)), tmp_path / "grown")
    choice = choose_tokenizer(base, [tmp_path / "grown", plain], 2008, resizing=[tmp_path / "grown"])
    assert (choice.folder, choice.templates) == (tmp_path / "grown", tmp_path / "grown")
    assert "padding" in choose_tokenizer(base, [tmp_path / "grown", plain], 2048, resizing=[]).notes[0]


def set_special(folder: Path, **tokens: str) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **tokens}), encoding="utf-8")


def test_the_end_token_goes_with_the_chat_template(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    set_template(adapter, OWN)
    set_special(base, eos_token="<|end_of_text|>")
    set_special(adapter, eos_token="<|eot_id|>", pad_token="<|begin_of_text|>")
    (base / "special_tokens_map.json").write_text('{"eos_token": "<|end_of_text|>"}', encoding="utf-8")
    choice = choose_tokenizer(base, [adapter], None)
    assert choice.special == {"eos_token": "<|eot_id|>"}
    assert choice.notes[1:] == (
        "the end-of-sequence token is '<|eot_id|>', which belongs to the chat template of adapter",
        "adapter has special tokens that differ from the base's (pad_token '<|begin_of_text|>'): the base's are used",
    )
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(choice, out)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        assert json.loads((out / name).read_text(encoding="utf-8"))["eos_token"] == "<|eot_id|>"


def test_other_names_without_a_template_are_noted(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    set_special(base, eos_token="<|end_of_text|>")
    set_special(adapter, eos_token="<|eot_id|>")
    choice = choose_tokenizer(base, [adapter], None)
    assert (choice.folder, choice.special) == (base, {})
    assert "(eos_token '<|eot_id|>'): the base's are used" in choice.notes[0]


def test_the_end_token_is_in_the_gguf_file(checkpoint: Maker, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside an adapter that was trained in a format of its own."""
    base = shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "model")
    set_special(base, eos_token="<|end_of_text|>")
    beside = tmp_path / "tuned"
    shutil.copytree(folders[1], beside)
    set_template(beside, OWN)
    set_special(beside, eos_token="<|eot_id|>")
    vocabularies = {}
    for folders_beside in ((), (beside,)):
        choice = choose_tokenizer(base, folders_beside, None)
        with open_checkpoint(base) as opened:
            vocabulary = read_vocabulary(opened, 2007, templates=choice.templates, special=choice.special)
        vocabularies[folders_beside] = vocabulary.eos_token
    assert vocabularies[()] != vocabularies[beside,] == "<|eot_id|>"


@pytest.mark.parametrize(("rows", "sound"), [(2007, True), (2008, True), (2016, True), (2048, True), (2010, False)])
def test_resized_without_a_tokenizer(folders: tuple[Path, Path], tmp_path: Path, rows: int, sound: bool) -> None:
    base, _ = folders
    (tmp_path / "bare").mkdir()
    if sound:
        assert "padding" in choose_tokenizer(base, [tmp_path / "bare"], rows).notes[0]
        return
    with pytest.raises(VocabularyError, match=r"2010 rows.*2007 tokens") as caught:
        choose_tokenizer(base, [tmp_path / "bare"], rows)
    assert "tokenizer.json" in caught.value.hint


def test_a_resized_vocabulary_takes_everything_from_the_adapter(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    set_template(adapter, None)
    (base / "tokenizer.model").write_bytes(b"of the base")
    choice = choose_tokenizer(base, [adapter], 2010)
    assert (choice.folder, choice.templates) == (adapter, adapter)
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(choice, out)
    assert sorted(file.name for file in out.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_a_broken_tokenizer_is_named(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    (adapter / "tokenizer.json").write_text('{"model": []}', encoding="utf-8")
    with pytest.raises(VocabularyError, match=r"adapter/tokenizer\.json: broken"):
        choose_tokenizer(base, [adapter], None)


def test_a_tokenizer_is_parsed_once(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = folders
    opened: list[Path] = []

    def read(path: Path) -> dict[str, Any]:
        opened.append(path)
        return read_json(path)

    monkeypatch.setattr(files, "read_json", read)
    parsed = files.ParsedFiles()
    choose_tokenizer(base, [adapter], None, parsed=parsed)
    assert parsed.read(base / "tokenizer.json") == parsed.read(adapter / "tokenizer.json")
    assert opened.count(base / "tokenizer.json") == 1  # the adapter's has the same content
    assert adapter / "tokenizer.json" not in opened
    tokenizer = read_json(adapter / "tokenizer.json")
    (adapter / "tokenizer.json").write_text(json.dumps({**tokenizer, "added_tokens": []}), encoding="utf-8")
    assert parsed.read(adapter / "tokenizer.json") is parsed.read(base / "tokenizer.json")  # until it is cleared
    parsed.clear()
    assert parsed.read(base / "tokenizer.json")["added_tokens"]
    assert parsed.read(adapter / "tokenizer.json")["added_tokens"] == []
    with pytest.raises(CheckpointError, match="missing"):
        parsed.read(base / "none.json")


def bare(folder: Path, *keep: str) -> Path:
    """An adapter's folder from which the trainer left other files of the tokenizer out."""
    for file in folder.iterdir():
        if file.name not in keep:
            file.unlink()
    return folder


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_without_a_vocabulary_counts(folders: tuple[Path, Path], tmp_path: Path, place: str) -> None:
    base, adapter = folders
    set_template(adapter, OWN)
    set_special(adapter, eos_token="<|eot_id|>")
    set_special(base, eos_token="<|end_of_text|>")
    (adapter / "chat_template.jinja").write_text(OWN, encoding="utf-8")
    choice = choose_tokenizer(base, [bare(adapter, place)], None)
    assert (choice.folder, choice.templates) == (base, adapter)
    assert choice.notes[0] == "the chat template of adapter is used, because the adapter was trained with it"
    assert choice.special == ({"eos_token": "<|eot_id|>"} if place == "tokenizer_config.json" else {})
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(choice, out)
    with_config = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    found = read_templates(out, with_config)
    assert (found.default, found.notes) == (OWN, ())


def slow(folder: Path, **more: int) -> Path:
    """The tokenizer of a folder as a slow one saves it: vocab.json, merges.txt and the settings."""
    tokenizer = read_json(folder / "tokenizer.json")
    (folder / "vocab.json").write_text(json.dumps({**tokenizer["model"]["vocab"], **more}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return bare(folder, "vocab.json", "merges.txt", "tokenizer_config.json")


def test_the_template_beside_a_slow_tokenizer_counts(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    set_template(adapter, OWN)
    choice = choose_tokenizer(base, [slow(adapter)], None)
    assert (choice.folder, choice.templates) == (base, adapter)
    assert len(choice.notes) == 1


def test_a_slow_tokenizer_with_other_tokens_is_used(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    slow(adapter, trained=2000)
    choice = choose_tokenizer(base, [adapter], None, own=2007)
    assert choice.folder == adapter
    assert "such as 'trained' (2000)" in choice.notes[0]
    assert choose_tokenizer(base, [adapter], None, own=2000).folder == base  # a token without a row


def test_tokens_that_a_bare_config_names_are_noted(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    bare(adapter, "tokenizer_config.json")
    set_special(adapter, added_tokens_decoder={"2000": {"content": "<|called|>"}})
    choice = choose_tokenizer(base, [adapter], None, own=2007)
    assert choice.notes[0].startswith(
        "adapter names a token that the base's tokenizer does not have ('<|called|>' (2000))"
    )


def test_a_broken_bare_config_is_named(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    bare(adapter, "tokenizer_config.json")
    set_special(adapter, added_tokens_decoder={"no number": {"content": "<|called|>"}})
    with pytest.raises(VocabularyError, match=r"adapter/tokenizer_config\.json: broken"):
        choose_tokenizer(base, [adapter], None)
