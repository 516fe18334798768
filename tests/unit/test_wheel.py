"""The wheel is whole: installed elsewhere, without the checkout, it runs the demo; and it is the same each time."""

from __future__ import annotations

import hashlib
import os
import runpy
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints; without the variables that would lead Python or pip elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(source: Path, out: Path, *kinds: str) -> Path:
    """A distribution of a source tree, made by its build backend in the environment of the tests."""
    run(sys.executable, "-m", "hatchling", "build", "-d", out, *(f"-t{kind}" for kind in kinds), cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_it_has_what_is_not_python(wheel: Path) -> None:
    found = set(names(wheel))
    templates = {f"quantkit/{path.relative_to(ROOT)}" for path in (ROOT / "templates").rglob("*") if path.is_file()}
    assert templates <= found
    assert {
        "quantkit/serve/page/static/index.html",
        "quantkit/serve/page/static/main.js",
        "quantkit/demo/base/model.safetensors",
        "quantkit/kernels/cuda.cu",
    } <= found
    assert {f"quantkit/material/texts/quantkit-{use}.txt" for use in ("calibration", "evaluation")} <= found
    assert {name.split("/")[0] for name in found} == {"quantkit", f"{wheel.name.split('-py3')[0]}.dist-info"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="scripts/wheel builds a commit, and this is no clone")
def test_the_same_each_time(tmp_path: Path) -> None:
    """In another folder, with other permissions, times, locale and time zone; and nothing that git does not track."""
    sums = run(sys.executable, ROOT / "scripts" / "wheel", "--check", "-o", tmp_path / "out", cwd=tmp_path)
    assert sums == (tmp_path / "out" / "SHA256SUMS").read_text(encoding="utf-8")
    listed = dict(reversed(line.split("  ")) for line in sums.splitlines())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*listed, "SHA256SUMS"}
    assert [name.rpartition(".")[2] for name in listed] == ["gz", "whl"]
    for name, digest in listed.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    made = tmp_path / "out" / [*listed][1]
    assert not [name for name in names(made) if "__pycache__" in name or name.startswith("tests/")]
    script = runpy.run_path(str(ROOT / "scripts" / "wheel"))
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("quantkit/__pycache__/more.pyc", b"")
    with pytest.raises(SystemExit, match=r"not the tracked files of the package: quantkit/__pycache__/more\.pyc"):
        script["require_tracked"](made, "HEAD")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="scripts/wheel builds a commit, and this is no clone")
def test_what_is_not_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "wheel"))

    def another_time(commit: str, folder: Path, around: object = None) -> list[Path]:
        folder.mkdir(parents=True)
        (folder / "x.whl").write_text(str(folder), encoding="utf-8")
        return [folder / "x.whl"]

    monkeypatch.setitem(script["main"].__globals__, "build", another_time)
    monkeypatch.setitem(script["main"].__globals__, "require_tracked", lambda wheel, commit: None)
    monkeypatch.setattr(sys, "argv", ["wheel", "--check", "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"x\.whl: other bytes in the second build"):
        script["main"]()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_same_from_the_source_distribution(wheel: Path, tmp_path: Path) -> None:
    source = build(ROOT, tmp_path / "sdist", "sdist")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (folder,) = (tmp_path / "source").iterdir()
    assert names(build(folder, tmp_path / "wheel", "wheel")) == names(wheel)


def test_the_demo_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", programs / "python"),
        *("install", "--quiet", "--no-deps", "--no-index", wheel),
        cwd=elsewhere,
    )
    # The dependencies are those of the tests. An editable quantkit there stays away: Python follows no .pth file of a
    # folder that comes from a .pth file.
    places = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(programs / "python", "-c", places, cwd=elsewhere).strip())
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")

    where = "import quantkit; from quantkit.system.template_folder import template_folder as templates; "
    where += "print(quantkit.__file__, templates(), sep='\\n')"
    loaded = [Path(line) for line in run(programs / "python", "-c", where, cwd=elsewhere).splitlines()]
    assert loaded == [packages / "quantkit" / "__init__.py", packages / "quantkit" / "templates"]
    said = run(programs / "quantkit", "demo", cwd=elsewhere)
    assert "15 of 15 answers are exactly what the adapter was trained to say." in said
    assert (elsewhere / "quantkit-demo" / "chat.sh").is_file()
