"""``._NAME``, which macOS puts beside each file on disks that are not its own, is never looked at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.errors import QuantkitError
from quantkit.files.visible import visible
from quantkit.hub.tokenizer_files import VOCABULARIES, matching
from quantkit.model.every_file import check_every_file
from quantkit.model.opening import open_model
from quantkit.package.manifest import read_manifest
from quantkit.package.plan_entries import weight_files
from quantkit.verify.encoders import tokenizer_file
from quantkit.vocab.templates import read_templates

COMPANION = b"\x00\x05\x16\x07\xff\xfe"


def companions(folder: Path) -> None:
    """Put one beside each file, and one that comes before all of them."""
    for file in [*folder.rglob("*")]:
        if file.is_file():
            file.with_name(f"._{file.name}").write_bytes(COMPANION)


def test_a_model_and_an_adapter_with_companions(
    checkpoint: Callable[..., Path], adapter: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(checkpoint("qwen", layers=1), tmp_path / "m")
    companions(model)
    with open_model(model) as opened:
        vocabulary = opened.vocabulary()
    assert vocabulary.metadata
    assert [file.name for file in matching(model, VOCABULARIES)] == ["qwen.tiktoken"]
    assert tokenizer_file(model) == model / "qwen.tiktoken"
    assert [entry.file for entry in weight_files(model)] == ["model.safetensors"]
    lora = shutil.copytree(adapter("q-and-v"), tmp_path / "a")
    companions(lora)
    assert check_every_file(model, [lora]) == ()


def test_named_templates(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ 1 }}", encoding="utf-8")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ 2 }}", encoding="utf-8")
    companions(tmp_path)
    assert read_templates(tmp_path, {}).named == (("tool_use", "{{ 2 }}"),)


def test_files_to_chat_with(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    companions(tmp_path)
    assert [path.name for path in visible(tmp_path, "*")] == ["model.gguf"]
    with pytest.raises(QuantkitError) as caught:
        read_manifest(tmp_path)
    assert "model.gguf" in caught.value.hint
    assert "._model.gguf" not in caught.value.hint
