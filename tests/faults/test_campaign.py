"""A small sample of scripts/campaign: every kind of fault, against merge, which does all that touches a disk."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from quantkit.kernels.cache import cache_folder
from tests.faults.cli import REPOSITORY, environment
from tests.support.campaign.layer import compiler
from tests.support.campaign.make_inputs import make_inputs

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fault layer is for Linux"),
    pytest.mark.skipif(compiler() is None, reason="no C compiler"),
]

_AMOUNTS = ("--kills", "4", "--signals", "1", "--sweep", "11", "--others", "1", "--seed", "3")
_SUBJECTS = ("--subject", "merge", "--subject", "merge --fsync --overwrite")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The campaign's rows, by kind of fault."""
    inputs = tmp_path_factory.mktemp("inputs")
    make_inputs(inputs, seed=3)
    command = [sys.executable, str(REPOSITORY / "scripts" / "campaign"), *_AMOUNTS, *_SUBJECTS, "--json", "--quiet"]
    command += ["--inputs", str(inputs), "--compiled", str(cache_folder("numba"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode in (0, 1), done.stderr
    return {row["kind"]: row for row in json.loads(done.stdout)["rows"]}


def test_nothing_is_found(rows: dict[str, dict[str, Any]]) -> None:
    assert [finding for row in rows.values() for finding in row["findings"]] == []


def test_every_kind_was_tried(rows: dict[str, dict[str, Any]]) -> None:
    assert len(rows) == 14
    assert all(row["tried"] for row in rows.values())


def test_faults_strike(rows: dict[str, dict[str, Any]]) -> None:
    """A campaign whose faults reach nothing would find nothing, too."""
    for kind in ("disk full from a call on", "read-only, stale from a call on"):
        assert rows[kind]["refused"] == rows[kind]["tried"], kind
    assert rows["kill -9"]["ended"]
    assert rows["kill -9"]["cleared"]
    cuts = rows["power cut after a call"]
    assert cuts["done"]
    assert cuts["ended"]
