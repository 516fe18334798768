"""The templates are found in a wheel and in a checkout, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quantkit.errors import QuantkitError
from quantkit.system import template_folder as module
from quantkit.system.template_folder import template_folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a quantkit that has no templates yet."""
    folder = tmp_path / "quantkit"
    (folder / "system").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(folder / "system" / "template_folder.py"))
    template_folder.cache_clear()
    yield folder
    template_folder.cache_clear()


def templates(folder: Path) -> Path:
    (folder / "templates" / "generic").mkdir(parents=True)
    (folder / "templates" / "generic" / "Modelfile").write_text("FROM x\n", encoding="utf-8")
    return folder / "templates"


def test_in_a_checkout(package: Path) -> None:
    ours = templates(package.parent)
    assert template_folder() == ours


def test_in_a_wheel(package: Path) -> None:
    templates(package.parent)
    ours = templates(package)
    assert template_folder() == ours


def test_nowhere(package: Path) -> None:
    (package.parent / "templates").mkdir()  # of another project in the same site-packages
    with pytest.raises(QuantkitError, match="this installation of quantkit is incomplete") as refused:
        template_folder()
    assert refused.value.hint == "install it again, in quantkit's checkout: pip install ."


def test_no_symbolic_links() -> None:
    """Git on Windows writes them as text files."""
    root = Path(__file__).parents[2]
    for name in ("quantkit", "templates", "modelfiles", "scripts", "tests", "docs"):
        assert not [path for path in (root / name).rglob("*") if path.is_symlink()]
