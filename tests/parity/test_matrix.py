"""Every cell of the parity matrix, as ``make parity`` prints it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from quantkit.arch.families import ARCHITECTURES
from quantkit.cli.build import command as build
from quantkit.cli.convert import command as convert
from tests.support.checkpoints import KINDS
from tests.support.parity_matrix import ParityMatrix, applicable
from tests.support.reference import ReferenceConverter

CELLS = applicable()


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory, converter: ReferenceConverter) -> ParityMatrix:
    return ParityMatrix(tmp_path_factory.mktemp("matrix"), converter)


@pytest.mark.parametrize(("kind", "column"), CELLS, ids=[f"{kind}-{column}" for kind, column in CELLS])
def test_cell(matrix: ParityMatrix, kind: str, column: str) -> None:
    assert matrix.differences(kind, column) == []


def test_every_architecture_of_the_help_has_a_row() -> None:
    rows = {name for kind in KINDS.values() for name in kind.config["architectures"]}
    for command in (build, convert):
        told = CliRunner().invoke(command, ["--help"]).output.rpartition("Supported architectures:")[2]
        names = told.strip().rstrip(".").replace("\n", " ").split(", ")
        assert [name.strip() for name in names] == list(ARCHITECTURES)
    assert rows == {*ARCHITECTURES}
