"""A small sample of scripts/campaign: every kind of fault against edit, the fastest command that makes a file; kills
and power cuts of merge, which leaves what can be continued; and kills of a build of two files that is continued.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from quantkit.kernels.cache import cache_folder
from tests.faults.cli import REPOSITORY, environment
from tests.support.campaign.kinds import KINDS
from tests.support.campaign.layer import compiler
from tests.support.campaign.make_inputs import make_inputs

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fault layer is for Linux"),
    pytest.mark.skipif(compiler() is None, reason="no C compiler"),
]

Rows = dict[tuple[str, str], dict[str, Any]]

_MERGE = "merge --fsync --overwrite"
_AMOUNTS = ("--kills", "3", "--signals", "1", "--sweep", "11", "--others", "1", "--seed", "3")
_SEEING = "build --mmproj --resume"
_SUBJECTS = ("--subject", "edit", "--subject", _MERGE, "--killed", _SEEING)
# These take the superuser, or a system that lets this process make a control group or mount a disk.
_NOT_EVERYWHERE = ("out of memory (cgroup)", "power cut of ext4")
_NOT_OF_EDIT = "output folder vanishes"  # its input is there


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The campaign's rows, by subject and kind of fault."""
    inputs = tmp_path_factory.mktemp("inputs")
    make_inputs(inputs, seed=3)
    command = [sys.executable, str(REPOSITORY / "scripts" / "campaign"), *_AMOUNTS, *_SUBJECTS, "--json", "--quiet"]
    command += ["--inputs", str(inputs), "--compiled", str(cache_folder("numba"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode in (0, 1), done.stderr
    return {(row["subject"], row["kind"]): row for row in json.loads(done.stdout)["rows"]}


def test_nothing_is_found(rows: Rows) -> None:
    assert [finding for row in rows.values() for finding in row["findings"]] == []


def test_every_kind_was_tried(rows: Rows) -> None:
    assert len({kind for _, kind in rows}) == len(KINDS)
    untried = [kind for (_, kind), row in rows.items() if not row["tried"]]
    assert [kind for kind in untried if kind not in _NOT_EVERYWHERE] == [_NOT_OF_EDIT]


def test_faults_strike(rows: Rows) -> None:
    """A campaign whose faults reach nothing would find nothing, too."""
    for kind in ("disk full from a call on", "read-only, stale from a call on"):
        assert rows["edit", kind]["refused"] == rows["edit", kind]["tried"], kind
    for subject in ("edit", _MERGE, _SEEING):
        assert rows[subject, "kill -9"]["ended"]
        assert rows[subject, "kill -9"]["cleared"]
    cuts = rows[_MERGE, "power cut after a call"]
    assert cuts["done"]
    assert cuts["ended"]
