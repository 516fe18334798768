"""Adapters with weights: as values, and on the command line in the order in which they are merged."""

from __future__ import annotations

import math
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from quantkit.cli.options import adapter_options
from quantkit.errors import AdapterError
from quantkit.hub.adapter_source import AdapterSource, adapter_sources
from quantkit.hub.source import HubId


def test_what_has_no_weight_has_weight_one() -> None:
    half = AdapterSource(Path("a"), 0.5)
    assert adapter_sources([half, Path("b"), HubId("org/c")]) == (
        half,
        AdapterSource(Path("b"), 1.0),
        AdapterSource(HubId("org/c"), 1.0),
    )


def test_labels(tmp_path: Path) -> None:
    assert AdapterSource(tmp_path / "a").label == "a"
    assert AdapterSource(tmp_path / "a", 0.25).label == "a × 0.25"
    assert AdapterSource(HubId("org/c"), -1).label == "org/c × -1"


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_a_weight_is_a_number(weight: float) -> None:
    with pytest.raises(AdapterError, match=r"a: weight .* is not a finite number"):
        AdapterSource(Path("a"), weight)


@click.command()
@adapter_options(required=True)
def command(adapters: tuple[AdapterSource, ...]) -> None:
    for adapter in adapters:
        click.echo(f"{adapter.source} {adapter.weight:g}")


def test_the_two_options_keep_their_order() -> None:
    args = ["--adapter-scaled", "./a", "0.5", "--adapter", "./b", "--adapter-scaled", "./c", "-2", "--adapter", "./d"]
    done = CliRunner().invoke(command, args)
    assert (done.exit_code, done.output) == (0, "a 0.5\nb 1\nc -2\nd 1\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--adapter-scaled", "a", "half"], "weight 'half' of a is not a number"),
        (["--adapter-scaled", "a"], "requires 2 arguments"),
        ([], "Missing option '--adapter'"),
    ],
)
def test_wrong_usage(args: list[str], message: str) -> None:
    done = CliRunner().invoke(command, args)
    assert done.exit_code == 2
    assert message in done.output
