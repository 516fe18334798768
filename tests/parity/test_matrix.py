"""The cells of the parity matrix, which ``make parity`` prints whole."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from quantkit.arch.families import ARCHITECTURES, FAMILIES
from quantkit.cli.build import command as build
from quantkit.cli.convert import command as convert
from tests.support.checkpoints import KINDS
from tests.support.parity_matrix import OUTTYPES, QUANTS, ParityMatrix, applicable
from tests.support.reference import ReferenceConverter

# The rows in which every type is compared, and those in which it is every third one, each from another one on: one for
# each way to store weights. In other rows it is a twentieth of the types, in turn, so that a type is compared
# in a twentieth of them, and F16 or BF16. ``make parity`` compares every type in every row.
EVERY_TYPE = frozenset({"llama3-tied", "qwen3-moe"})
THIRD_TYPE = {"gemma3": 0, "deepseek-v2": 1, "falcon-h1": 2, "qwen3.5": 0, "gpt-oss": 1}
_TURNS = 20
# Classes without a row: other names of a class that has one.
OTHER_NAMES = {
    "ChatGLMForConditionalGeneration": "ChatGLMModel",
    "BaiChuanForCausalLM": "BaichuanForCausalLM",
}


def types(kind: str) -> tuple[Sequence[str], Sequence[str]]:
    """The unquantized and the quantized types that are compared of a kind."""
    if kind in EVERY_TYPE:
        return OUTTYPES, QUANTS
    if kind in THIRD_TYPE:
        return OUTTYPES, QUANTS[THIRD_TYPE[kind] :: 3]
    number = list(KINDS).index(kind)
    return (("f16", "bf16")[number % 2],), QUANTS[number % _TURNS :: _TURNS]


def is_compared(kind: str, column: str) -> bool:
    outtypes, quants = types(kind)
    if column.startswith("tensors "):
        return column.removeprefix("tensors ") in outtypes
    return column not in QUANTS or column in quants


CELLS = [cell for cell in applicable() if is_compared(*cell)]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory, converter: ReferenceConverter) -> ParityMatrix:
    return ParityMatrix(tmp_path_factory.mktemp("matrix"), converter, types)


@pytest.mark.parametrize(("kind", "column"), CELLS, ids=[f"{kind}-{column}" for kind, column in CELLS])
def test_cell(matrix: ParityMatrix, kind: str, column: str) -> None:
    assert matrix.differences(kind, column) == []


def test_every_type_has_its_rows() -> None:
    assert set(KINDS) > EVERY_TYPE | THIRD_TYPE.keys()
    for quant in QUANTS:
        rows = {kind for kind, column in CELLS if column == quant}
        assert rows > EVERY_TYPE
        assert rows & THIRD_TYPE.keys()
        assert len(rows - EVERY_TYPE - THIRD_TYPE.keys()) >= 3


def test_every_architecture_of_the_help_has_a_row() -> None:
    rows = {name for kind in KINDS.values() for name in kind.config["architectures"]}
    for command in (build, convert):
        told = CliRunner().invoke(command, ["--help"]).output.rpartition("Supported architectures:")[2]
        names = told.strip().rstrip(".").replace("\n", " ").split(", ")
        assert [name.strip() for name in names] == list(ARCHITECTURES)
    assert rows | OTHER_NAMES.keys() == {*ARCHITECTURES}
    for name, same in OTHER_NAMES.items():
        assert FAMILIES[name] == FAMILIES[same]
