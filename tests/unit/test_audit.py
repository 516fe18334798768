"""``scripts/audit``: advisories are found, and what nobody has looked up is never called clean."""

from __future__ import annotations

import datetime
import json
import os
import runpy
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
AUDIT = ROOT / "scripts" / "audit"
TODAY = datetime.date(2026, 1, 31)

# As OSV answers.
ADVISORY = {
    "id": "GHSA-0000-0000-0000",
    "aliases": ["CVE-2000-1"],
    "summary": "it is wrong",
    "affected": [
        {
            "package": {"name": "alpha", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(AUDIT))


@pytest.fixture
def database() -> Iterator[str]:
    """The address of a database with one advisory, about alpha."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = [ADVISORY] if asked["package"]["name"] == "alpha" else []
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()
        thread.join()


def test_a_database_is_asked(database: str, tmp_path: Path) -> None:
    listed = tmp_path / "locked.txt"
    listed.write_text("alpha==1.0\nbeta==2.0\n", encoding="utf-8")
    command = [sys.executable, str(AUDIT), "--locked", str(listed), "--service", "osv", "--osv-url", database]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "NO_PROXY": "127.0.0.1"}
    )
    assert done.stdout == "alpha 1.0: CVE-2000-1, mended in 1.1\n", done.stderr
    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "error: 1 advisories in 2 packages"


def ended(script: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    code: object = 0
    try:
        script["main"]()
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("locked", "answers", "code", "says"),
    [
        ("alpha==1.0\n", [{"name": "alpha", "version": "1.0", "vulns": []}], 0, "1 packages, no advisories"),
        ("alpha==1.0\n", [{"name": "alpha", "skip_reason": "not found"}], 1, "osv does not know 1 of 1 packages"),
        ("alpha==1.0\nbeta==2\n", [{"name": "alpha", "version": "1.0", "vulns": []}], 1, "beta 2: not looked up"),
        ("jinja2==3.1.5\n", [], 3, "jinja2 3.1.5: CVE-2025-27516, mended in 3.1.6: a way out of the sandbox"),
    ],
)
def test_how_it_ends(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    locked: str, answers: list[dict[str, Any]], code: int, says: str,
) -> None:  # fmt: skip
    (tmp_path / "locked.txt").write_text(locked, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["audit", "--service", "osv", "--locked", str(tmp_path / "locked.txt")])
    monkeypatch.setitem(script["main"].__globals__, "ask", lambda *asked: answers)
    found, out, err = ended(script, capsys)
    assert found == code
    assert says in out + err


def test_without_an_answer(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit ends with a traceback if it does not reach a database, and with the exit code of an advisory."""
    traceback = "Traceback (most recent call last):\nConnectionError: no such host\n"
    monkeypatch.setattr("subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", traceback))
    with pytest.raises(SystemExit) as end:
        script["ask"]({"alpha": "1.0"}, "osv", "")
    assert end.value.code == 1
    assert "pip-audit has no answer of osv (exit code 1): ConnectionError: no such host" in capsys.readouterr().err


def test_accepted_advisories_expire(script: dict[str, Any]) -> None:
    vulns = [{"id": "GHSA-1", "aliases": ["CVE-1"], "fix_versions": []}, {"id": "CVE-2", "fix_versions": ["3"]}]
    answers = [{"name": "Alpha", "version": "1.0", "vulns": vulns}]
    accepted = [
        {"package": "alpha", "advisory": "CVE-1", "why": "not called", "until": TODAY},
        {"package": "alpha", "advisory": "CVE-2", "why": "not called", "until": TODAY - datetime.timedelta(days=1)},
        {"package": "beta", "advisory": "CVE-2", "why": "another package", "until": TODAY},
    ]
    found, unknown, passed = script["judge"]({"alpha": "1.0"}, answers, accepted, TODAY)
    assert passed == ["alpha 1.0: GHSA-1, mended in no release; accepted until 2026-01-31: not called"]
    assert found == ["alpha 1.0: CVE-2, mended in 3; was accepted until 2026-01-30"]
    assert unknown == []


def test_what_is_known(script: dict[str, Any]) -> None:
    """Our own bounds leave out the releases of which an advisory is known, and what is installed is none of them."""
    known = tomllib.loads((ROOT / "scripts" / "audit_known.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values()))
    floors = {one["package"]: Version(one["version"]) for one in known["floor"]}
    low = {}
    for one in asked:
        bounds = [Version(part.version) for part in one.specifier if part.operator in (">=", "==")]
        if one.name in floors and max(bounds, default=Version("0")) < floors[one.name]:
            low[one.name] = str(one.specifier)
    assert low == {}
    locked = script["resolved"](["ollama", "serve", "report"])
    assert {"torch", "jinja2", "llama-cpp-python", "starlette", "pillow"} <= {*locked}
    assert "+" not in locked["torch"]
    assert script["below_floors"](locked, known["floor"]) == []
    for one in known.get("accepted", ()):
        assert one.keys() == {"package", "advisory", "why", "until"}
        assert isinstance(one["until"], datetime.date)
