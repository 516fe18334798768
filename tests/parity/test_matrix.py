"""The cells of the parity matrix, which ``make parity`` prints whole."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from quantkit.arch.families import ARCHITECTURES
from quantkit.cli.build import command as build
from quantkit.cli.convert import command as convert
from tests.support.checkpoints import KINDS
from tests.support.parity_matrix import QUANTS, ParityMatrix, applicable
from tests.support.reference import ReferenceConverter

# The rows in which every type is compared: one for each way to store weights. In other rows it is a third of the types,
# in turn, so that a type is compared in a third of them.
EVERY_TYPE = frozenset({"llama3-tied", "qwen3-moe", "gemma3", "deepseek-v2", "granite-4", "qwen3.5", "gpt-oss"})
_TURNS = 3


def types(kind: str) -> Sequence[str]:
    """The quantized types that are compared of a kind."""
    return QUANTS if kind in EVERY_TYPE else QUANTS[list(KINDS).index(kind) % _TURNS :: _TURNS]


CELLS = [(kind, column) for kind, column in applicable() if column not in QUANTS or column in types(kind)]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory, converter: ReferenceConverter) -> ParityMatrix:
    return ParityMatrix(tmp_path_factory.mktemp("matrix"), converter, types)


@pytest.mark.parametrize(("kind", "column"), CELLS, ids=[f"{kind}-{column}" for kind, column in CELLS])
def test_cell(matrix: ParityMatrix, kind: str, column: str) -> None:
    assert matrix.differences(kind, column) == []


def test_every_type_has_its_rows() -> None:
    assert set(KINDS) > EVERY_TYPE
    for quant in QUANTS:
        assert sum(column == quant for _, column in CELLS) > len(KINDS) / _TURNS


def test_every_architecture_of_the_help_has_a_row() -> None:
    rows = {name for kind in KINDS.values() for name in kind.config["architectures"]}
    for command in (build, convert):
        told = CliRunner().invoke(command, ["--help"]).output.rpartition("Supported architectures:")[2]
        names = told.strip().rstrip(".").replace("\n", " ").split(", ")
        assert [name.strip() for name in names] == list(ARCHITECTURES)
    assert rows == {*ARCHITECTURES}
