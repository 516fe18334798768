"""A tokenizer's files are in one list: each of them is downloaded, carried along, and taken from an adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from quantkit.hub.files import Kind, small_files
from quantkit.hub.source import HubId
from quantkit.hub.tokenizer_files import TEMPLATE_FOLDER, TOKENIZER_FILES
from quantkit.jobs.merge import merge
from quantkit.model.tokenizer_choice import TokenizerChoice
from quantkit.model.tokenizer_copy import write_tokenizer
from quantkit.vocab.vocabulary import READERS

Maker = Callable[..., Path]

NAMES = [*(pattern.replace("*", "x") for pattern in TOKENIZER_FILES), f"{TEMPLATE_FOLDER}/x.jinja"]


def put(folder: Path) -> dict[str, bytes]:
    """Each file that is not there, with something in it; what they all have."""
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        if not (folder / name).exists():
            (folder / name).write_bytes(b"{}")
    return {name: (folder / name).read_bytes() for name in NAMES}


@pytest.mark.parametrize("kind", get_args(Kind))
def test_they_are_downloaded(kind: Kind) -> None:
    config = "adapter_config.json" if kind == "adapter" else "config.json"
    assert small_files(HubId("org/tiny"), [*NAMES, config, f"deeper/{NAMES[0]}"], kind) == sorted([*NAMES, config])


def test_a_merged_folder_has_them(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base = Path(shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "base"))
    wanted = put(base)
    made = merge(base, tmp_path / "out", adapters=[], ignore=["chat_templatex.jinja"])
    assert {name: (made / name).read_bytes() for name in NAMES} == wanted


def test_they_are_taken_from_an_adapter(tmp_path: Path) -> None:
    wanted = put(tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    write_tokenizer(TokenizerChoice(tmp_path / "adapter", tmp_path / "adapter"), tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in NAMES} == wanted


def test_every_reader_reads_a_file_of_the_list() -> None:
    assert {file for file, _ in READERS.values()} <= {*TOKENIZER_FILES}
