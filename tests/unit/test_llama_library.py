"""``scripts/llama_library``: progress from pip's log, a cache for each way to compile, an end that says what to do."""

from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "llama_library"


@pytest.fixture
def script() -> dict[str, Any]:
    """The names of the script, as its functions see them."""
    names: dict[str, Any] = runpy.run_path(str(SCRIPT))["install"].__globals__
    return names


def ninja(steps: int, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[str]:
    """pip's log of a build whose steps take that many seconds each."""
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    yield "Building wheel for llama-cpp-python\n"
    for step in range(1, steps + 1):
        yield f"  [{step}/{steps}] /usr/bin/c++ -o {step}.o\n"
        clock += seconds
    yield "  Created wheel\n"


def test_a_line_every_half_minute(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = script["show"](ninja(10, monkeypatch, seconds=12))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("compiling llama.cpp, once")
    assert lines[1:] == ["  4 of 10 steps, 36 s", "  7 of 10 steps, 72 s", "  10 of 10 steps, 108 s"]
    assert (last[0], last[-1]) == ("Building wheel for llama-cpp-python\n", "  Created wheel\n")


def test_one_line_in_a_terminal(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    script["show"](ninja(2, monkeypatch, seconds=1))
    assert sys.stderr.getvalue().split("\n")[1:] == [  # type: ignore[attr-defined]
        "\r  1 of 2 steps, 0 s\r  2 of 2 steps, 1 s\r  2 of 2 steps, 1 s", "",
    ]  # fmt: skip


def test_nothing_is_said_where_nothing_is_compiled(script: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    script["show"](["Requirement already satisfied: llama-cpp-python>=0.3.36\n"])
    assert capsys.readouterr().err == ""


def test_a_cache_for_each_way_to_compile(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    usual = script["cache_folder"]([])
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    cuda = script["cache_folder"]([])
    other_index = script["cache_folder"](["--extra-index-url", "x"])
    assert usual.parent == tmp_path
    assert len({usual, cuda, other_index}) == 3


def test_what_is_installed_stays(script: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert script["install"](["--no-index"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("files", "lacking"), [(["libllama.so"], True), (["libllama.so", "libmtmd.so"], False), (["mtmd.dll"], False)]
)
def test_an_installed_one_without_mtmd_is_replaced(
    files: list[str], lacking: bool, script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in files:
        (package / "lib" / name).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    assert script["lacks_mtmd"]() is lacking


def test_the_library_of_this_environment_sees() -> None:
    """What `make install` compiles has all that quantkit loads; the tests of pictures would else fail one by one."""
    code = "from quantkit.ggml.llama import libmtmd; libmtmd()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_failure_shows_pip_s_last_lines_and_a_way_out(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(script, "requirement", lambda: "quantkit-needs-no-such-thing")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert script["install"](["--no-index"]) != 0
    said = capsys.readouterr().err
    assert "No matching distribution found" in said
    assert said.splitlines()[-1].startswith("hint: install a C++ compiler")


def test_the_source_is_known_by_its_sum(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unless one is installed, or somebody names compiled ones."""
    reference = runpy.run_path(str(SCRIPT.with_name("reference")))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_ONLY_BINARY"):
        monkeypatch.delenv(name, raising=False)
    assert script["asked"]([], tmp_path) == [script["requirement"]()]
    monkeypatch.setitem(script, "lacks_mtmd", lambda: True)
    assert script["asked"](["--index-url", "mirror"], tmp_path)[:2] == ["--require-hashes", "--requirement"]
    (listed,) = (tmp_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert listed == f"llama-cpp-python=={reference['VERSION']} --hash=sha256:{reference['SHA256']}"
    assert script["asked"](["--extra-index-url=wheels"], tmp_path) == [script["requirement"]()]
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")
    assert script["asked"]([], tmp_path) == [script["requirement"]()]


def test_another_source_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By pip, before anything of it runs; and by the script, should pip let it pass."""
    reference = runpy.run_path(str(SCRIPT.with_name("reference")))
    name = f"llama_cpp_python-{reference['VERSION']}.tar.gz"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / name).write_bytes(b"another archive")
    for variable, value in (
        ("PIP_NO_INDEX", "1"),
        ("PIP_FIND_LINKS", str(tmp_path / "there")),
        ("PIP_CONFIG_FILE", os.devnull),
    ):
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match="pip could not download llama-cpp-python"):
        reference["fetch"](tmp_path)
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in capfd.readouterr().err
    monkeypatch.setattr("subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    (tmp_path / name).write_bytes(b"another archive")
    with pytest.raises(SystemExit, match=rf"{name}: sha256 is [0-9a-f]{{64}}, expected {reference['SHA256']}"):
        reference["fetch"](tmp_path)
