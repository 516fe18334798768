"""A report.json that a stranger wrote: each value of another kind is refused by name, or is harmless."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantkit.cli.main import main
from quantkit.errors import CheckpointError, QuantkitError
from quantkit.files.json_file import read_json, write_json
from quantkit.package.manifest import read_manifest
from quantkit.page.values import read_page
from quantkit.verify.expected import read_expected
from quantkit.verify.report_file import REPORT, add_to_report, read_evaluated
from tests.support.fuzz.readers.packages import SOUND_REPORT
from tests.support.manifests import put_manifest

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 10**400, float("nan"), float("inf"), "", "\ud800", "x" * 1000, [], {}, [None], {"a": 1}),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def edited(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = new
    return value


def test_every_value_of_a_report(tmp_path: Path) -> None:
    manifest = read_manifest(put_manifest(tmp_path, "m-f16.gguf"))
    refused = []
    for place in list(places(SOUND_REPORT))[1:]:
        for value in VALUES:
            report = edited(SOUND_REPORT, place, value)
            try:
                read_expected(report.get("prompts") or ())
                read_page(manifest, report)
            except (QuantkitError, ValueError) as error:
                refused.append(error)
    assert len(refused) > 500
    assert not [error for error in refused if isinstance(error, UnicodeError) or len(str(error)) > 400]


def test_figures_of_an_evaluation_that_are_none(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text('{"evaluation": {"files": [{"file": "a", "kl_mean": "0.1"}]}}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r'"evaluation.files\[0\].kl_mean" must be a number, not .*0.1'):
        read_evaluated(tmp_path)


def test_half_a_character_stays_what_it_was(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text('{"a": "\\ud800 é", "passed": null}', encoding="utf-8")
    assert add_to_report("proof", {"b": 1}, tmp_path)
    assert read_json(tmp_path / REPORT) == {"a": "\ud800 é", "passed": None, "proof": {"b": 1}}
    write_json(tmp_path / "other", "é\ud800")
    assert (tmp_path / "other").read_bytes() == '"é\\ud800"\n'.encode()


def test_a_path_that_cannot_be_looked_at_is_no_failure_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "inspect", "chat", "report", "smoke"):
        with pytest.raises(SystemExit) as ended:
            main([command, "x" * 300])
        assert ended.value.code == 1
        said = capsys.readouterr().err
        assert "xxx: File name too long\nhint: correct the path" in said
