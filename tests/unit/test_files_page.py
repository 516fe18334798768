"""docs/files.md is what scripts/render_files makes of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quantkit.checkpoint.known_files import TABLE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "render_files"
PAGE = ROOT / "docs" / "files.md"


def render(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


def test_the_page_is_not_stale() -> None:
    done = render("--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_check_finds_a_stale_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = render("--check", "--file", page)
    assert (done.returncode, done.stderr) == (1, f"stale: {page}; run scripts/render_files\n")
    assert render("--file", page).returncode == 0
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_every_pattern_is_in_it() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("XXXXXXXX", "[0-9A-Fa-f]" * 8)
    assert [pattern for row in TABLE for pattern in row.patterns if f"`{pattern}`" not in text] == []
