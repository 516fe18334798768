"""Figures on the card of a package: of its build, or put there later."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantkit.jobs import evaluated_card
from quantkit.jobs.evaluated_card import put_on_card
from quantkit.package.card import card, with_quality
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.package.quality import Quality, QualityRow
from tests.support.package_specs import SPEC
from tests.unit.tiny_gguf import write_tiny_gguf

ONE = Quality("a text.txt", 124, "f16", 28.7, (QualityRow("m-q4_0.gguf", 10**6, 4.5, 0.0123, 0.0004, 0.913, 29.1),))
OTHER = replace(ONE, text="another.txt", rows=(*ONE.rows, replace(ONE.rows[0], file="m-q8_0.gguf", kl=0.001)))
FOLLOWED = {"system": "You are kind.\n\n## Files\n\n## How good the files are", "parameters": (("temperature", "0.7"),)}


@pytest.mark.parametrize("changes", [{}, FOLLOWED], ids=["at the end", "before other sections"])
def test_figures_are_put_where_a_build_puts_them(changes: dict[str, Any]) -> None:
    spec = replace(SPEC, **{"system": None, "parameters": (), "messages": (), **changes})
    plain, one, other = card(spec), card(replace(spec, quality=ONE)), card(replace(spec, quality=OTHER))
    assert len({plain, one, other}) == 3
    assert with_quality(plain, ONE) == one
    assert with_quality(one, OTHER) == other
    assert with_quality(other, ONE) == one


def test_a_text_that_is_no_card_is_refused() -> None:
    with pytest.raises(ValueError, match="not found"):
        with_quality("# A model\n\nMine.\n", ONE)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from quantkit.jobs.package import package as make

    monkeypatch.setattr(evaluated_card, "quality", lambda found: found)
    return make([write_tiny_gguf(tmp_path / "tiny.gguf")], tmp_path / "made")


def test_the_manifest_has_the_new_card(package: Path) -> None:
    before = read_manifest(package)
    assert put_on_card(ONE, package) is None  # type: ignore[arg-type]
    data = (package / "README.md").read_bytes()
    assert b"0.0123" in data
    files = {entry.file: (entry.size, entry.sha256) for entry in read_manifest(package).files}
    assert files["README.md"] == (len(data), hashlib.sha256(data).hexdigest())
    assert list(files) == [entry.file for entry in before.files]
    assert not [path for path in package.iterdir() if path.name.startswith(".")]


def test_a_card_that_somebody_changed_is_left_alone(package: Path) -> None:
    path = package / "README.md"
    path.write_text(mine := path.read_text(encoding="utf-8") + "Mine.\n", encoding="utf-8")
    manifest = (package / MANIFEST).read_bytes()
    assert put_on_card(ONE, package) == f"{path} is not as it was made"  # type: ignore[arg-type]
    assert (path.read_text(encoding="utf-8"), (package / MANIFEST).read_bytes()) == (mine, manifest)
    path.unlink()
    assert put_on_card(ONE, package) == "made does not have a README.md"  # type: ignore[arg-type]
