"""The proof's figures, its bounds, and where it finds its sources."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from quantkit.errors import QuantkitError
from quantkit.files.json_file import read_json, write_json
from quantkit.jobs.prove import _recorded, _weights
from quantkit.package.manifest_sources import SourceEntry
from quantkit.prove.bounds import Bounds, bounds, check_distance
from quantkit.prove.measure import distance
from quantkit.prove.sequences import LONGEST, prompts, sequence
from quantkit.verify.expected import Expected
from quantkit.verify.report_file import add_to_report

ONE = [sequence("a question", (5, 6))]


def logits(*rows: tuple[float, ...]) -> np.ndarray:
    """Logits of these probabilities, off by a constant, as softmax allows."""
    return (np.log(np.array(rows)) + 3).astype(np.float32)


def test_the_divergence_is_kullback_leiblers() -> None:
    theirs, ours = logits((0.5, 0.25, 0.25), (0.7, 0.2, 0.1)), logits((0.25, 0.5, 0.25), (0.7, 0.2, 0.1))
    found = distance(ours, theirs, ONE)
    largest = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert found.largest == pytest.approx(largest, rel=1e-6)
    assert found.mean == pytest.approx(largest / 2, rel=1e-6)
    assert (found.where, found.positions, found.agreement) == ("a question, position 0", 2, 0.5)
    assert found.first is not None
    assert (found.first.position, found.first.ours, found.first.theirs) == (0, 1, 0)
    assert found.first.gap == pytest.approx(math.log(2), rel=1e-6)


def test_positions_of_several_parts_and_sequences() -> None:
    random = np.random.default_rng(1)
    theirs = random.normal(size=(150, 7)).astype(np.float32)
    ours = theirs.copy()
    ours[140] = ours[140][::-1] + 9
    found = distance(ours, theirs, [sequence("one", range(100)), sequence("two", range(50))])
    assert found.where == "two, position 40"
    assert distance(theirs, theirs, [sequence("one", range(150))]).first is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_does_not_pass(value: float) -> None:
    ours, theirs = logits((0.5, 0.5), (0.5, 0.5)), logits((0.5, 0.5), (0.5, 0.5))
    ours[1, 0] = value
    with np.errstate(invalid="ignore"):
        assert not check_distance(distance(ours, theirs, ONE), bounds("f16", experts=False)).passed


def test_bounds() -> None:
    found = distance(logits((0.5, 0.5), (0.4, 0.6)), logits((0.5, 0.5), (0.5, 0.5)), ONE)
    assert check_distance(found, Bounds(found.mean, found.largest)).passed
    assert not check_distance(found, Bounds(found.mean / 2, found.largest)).passed
    assert not check_distance(found, Bounds(found.mean, found.largest / 2)).passed
    assert check_distance(found, Bounds(found.mean, None)).passed
    quantized = check_distance(found, bounds("q4_0", experts=False))
    assert (quantized.passed, quantized.threshold) == (True, "")
    assert "50 % of 2 positions" in quantized.figure


def test_sequences_are_cut_and_rejected_conversations_left_out() -> None:
    long = sequence("long", range(LONGEST + 5))
    assert (len(long.ids), long.whole) == (LONGEST, LONGEST + 5)
    assert [one.name for one in prompts([Expected("no", (), None), Expected("yes", (), "x", (1, 2))])] == ["yes"]


def test_sources_that_the_manifest_names(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    with pytest.raises(QuantkitError, match="built from a folder 'base'") as caught:
        _recorded(package, SourceEntry(folder="base"), "--model MODEL")
    assert "--model MODEL" in caught.value.hint
    (tmp_path / "base").mkdir()
    assert _recorded(package, SourceEntry(folder="base"), "--model MODEL") == tmp_path / "base"
    hub = _recorded(package, SourceEntry(hub="huggingface", id="a/b", revision="c"), "")
    assert str(hub) == "a/b@c"


def test_weights_that_the_manifest_names() -> None:
    assert _weights({"adapters": ["one", {"path": "two", "weight": 0.5}]}, 2) == [1.0, 0.5]


def test_a_proof_is_put_into_the_report(tmp_path: Path) -> None:
    assert not add_to_report("proof", {"passed": True}, tmp_path)
    write_json(tmp_path / "report.json", {"schema": 1, "checks": [], "proof": None})
    assert add_to_report("proof", {"passed": False}, tmp_path)
    assert read_json(tmp_path / "report.json") == {"schema": 1, "checks": [], "proof": {"passed": False}}
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
