"""docs/reference.md is what scripts/render_reference makes of the code, and the code has what it needs for it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

import quantkit
from quantkit.adapter.config import NOT_MERGEABLE, RESIDUAL_INITS, SUPPORTED, UNSUPPORTED
from quantkit.adapter.other_cuts import CUTS
from quantkit.arch.families import FAMILIES, MISCOMPUTED, NOT_CHAT
from quantkit.checkpoint.name_tables import CLASSIFIERS, VALUE_HEADS, WRAPPERS
from quantkit.cli.main import COMMANDS, cli
from quantkit.demo.data import ADAPTER, BASE
from quantkit.ggml.types import FTYPES
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.material.data_file import EVALUATION

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def render() -> ModuleType:
    path = ROOT / "scripts" / "render_reference"
    loader = importlib.machinery.SourceFileLoader("render_reference", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_page_is_not_stale(render: ModuleType) -> None:
    assert "\n".join(render.lines()) + "\n" == TEXT, "stale: run scripts/render_reference"


def test_the_page_of_families_is_not_stale(render: ModuleType) -> None:
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert "\n".join(render.PAGES["families.md"]()).rstrip("\n") + "\n" == text, "stale: run scripts/render_reference"
    for name in (*FAMILIES, *MISCOMPUTED):
        assert f"`{name}`" in text


def test_the_page_of_tensor_names_is_not_stale(render: ModuleType) -> None:
    text = (ROOT / "docs" / "tensor_names.md").read_text(encoding="utf-8")
    assert "\n".join(render.names_lines()).rstrip("\n") + "\n" == text, "stale: run scripts/render_reference"
    for name in (*WRAPPERS, *VALUE_HEADS, *CLASSIFIERS, *CUTS, *NOT_CHAT, *FAMILIES):
        assert name in text
    for name in (
        "model.layers.N.mlp.experts.E.gate_proj.weight",
        "model.layers.N.block_sparse_moe.experts.E.w1.weight",
        "transformer.h.N.attn.c_attn.bias",
        "model.layers.N.self_attn.qkv_proj.weight",
    ):
        assert f"`{name}`" in text


def test_check_finds_a_stale_page(
    render: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["render_reference", "--check", "--file", str(page)])
    assert render.main() == 1
    assert capsys.readouterr().err == f"stale: {page}; run scripts/render_reference\n"
    assert not page.exists()
    monkeypatch.setattr("sys.argv", ["render_reference", "--file", str(page)])
    assert render.main() == 0
    assert page.read_text(encoding="utf-8") == TEXT


def test_everything_is_in_it() -> None:
    for name in (*COMMANDS, "ollama create"):
        assert name == "ollama" or f"### quantkit {name}\n" in TEXT
    names = (*RECIPE_FIELDS, *SUPPORTED, *NOT_MERGEABLE, *UNSUPPORTED, *RESIDUAL_INITS, *FAMILIES, *FTYPES)
    assert [name for name in names if f"`{name}`" not in TEXT] == []


def options(command: click.Command) -> list[click.Option]:
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    own = [one for one in command.params if isinstance(one, click.Option)]
    return [*own, *(option for one in inner for option in options(one))]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    command = cli.get_command(click.Context(cli, **cli.context_settings), name)
    assert command is not None
    for option in options(command):
        assert option.help, option.name
        assert option.help.endswith((".", "'", ")")), option.help


# Whose keys are names of files, tensors, libraries, settings or stages.
BY_NAME = ("models.headers", "models.tensors", "adapter_files.headers", "adapter_files.tensors", "versions", "recipe",
           "chat.parameters", "runs", "seconds")  # fmt: skip
# Of others' formats, or named in the text of the key before.
ELSEWHERE = re.compile(r"(chat\.messages|prompts\.messages|ollama)\.\w+")


def paths(value: object, where: str = "") -> set[str]:
    """The keys of a JSON value, those of objects in it after a dot."""
    if isinstance(value, list):
        return {path for item in value for path in paths(item, where)}
    if not isinstance(value, dict):
        return set()
    inner = {key: where if where in BY_NAME else f"{where}.{key}".lstrip(".") for key in value}
    return {*inner.values(), *(path for key, item in value.items() for path in paths(item, inner[key]))} - {""}


def test_the_keys_of_a_package_are_in_it(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(EVALUATION.read_text(encoding="utf-8")[:4000], encoding="utf-8")
    folder = quantkit.build(
        BASE, adapters=ADAPTER, quants="q8_0", out=tmp_path / "kit", adapter_gguf=True, calibrate=text
    ).folder
    for name in ("manifest.json", "report.json"):
        section = TEXT.partition(f"## {name}\n")[2].partition("\n## ")[0]
        listed = set(re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE))
        found = paths(json.loads((folder / name).read_text(encoding="utf-8")))
        assert {path for path in found - listed if not ELSEWHERE.fullmatch(path)} == set()
        # A choice takes a build with a size (tests/parity/test_choose.py holds docs/choosing.md to its keys), and an
        # mmproj file a model that sees.
        assert {path for path in listed - found if "." not in path} == ({"choice", "mmproj"} & listed) - found


@dataclass
class Inner:
    """A value in another.

    Attributes:
        size: in bytes.
    """

    size: int


@dataclass
class Outer:
    """A value.

    Attributes:
        name: its name,
            on two lines.
        parts: the ``parts``.
    """

    name: str
    parts: tuple[Inner, ...] | None


@dataclass
class Bare:
    """A value.

    Attributes:
        name: its name.
    """

    name: str
    size: int


def test_keys_are_described_by_their_docstrings(render: ModuleType) -> None:
    assert [(key, " ".join(text.split())) for key, text in render.described(Outer)] == [
        ("name", "its name, on two lines."),
        ("parts", "the `parts`."),
        ("parts.size", "in bytes."),
    ]
    with pytest.raises(AssertionError, match=r"Bare\.size has no line under Attributes"):
        list(render.described(Bare))
