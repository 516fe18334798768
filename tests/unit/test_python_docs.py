"""docs/python.md: its blocks are one script, which runs, says what the page says, and satisfies mypy --strict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TEXTS: list[str] = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
# The worktree comes first, whatever is installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}

USER = """
from pathlib import Path

import quantkit

quantkit.build(model="x", adapters="y", quants="q4_0", parameters={"temperature": 0.2, "stop": ["a"]}, threads=2)
quantkit.build(
    Path("x"),
    adapters=["y", ("z", 0.5), quantkit.HubId("a/b"), quantkit.AdapterSource(Path("c"), 2.0)],
    quants=["q4_0", "q8_0"],
    messages=[("user", "a"), ("assistant", "b")],
    split_max_size="2G",
    run=quantkit.RunOptions(device="cpu"),
)
recipe = quantkit.Recipe("x", parameters=[("stop", "a"), ("temperature", 1)], out=Path("y"))
result: quantkit.BuildResult = quantkit.build(recipe, verify=False)
size: int = quantkit.plan(recipe).nbytes
packaged: Path = quantkit.package("a.gguf", "out")
passed: bool = quantkit.verify("out").report.passed
sources: tuple[quantkit.AdapterSource, ...] = recipe.adapters
quantkit.quantize("a.gguf", "b.gguf", quant="q4_0", pure=True, overwrite=True)
try:
    kind: str = quantkit.inspect("x")["kind"]
except quantkit.HubError as error:
    hint: str = error.hint
"""

# Each of these lines is refused, with this code of mypy.
WRONG = {
    'quantkit.build(model="x", adapters=5)': "arg-type",
    'quantkit.build(model="x", quant="q4_0")': "call-arg",
    'quantkit.Recipe("x", device="cpu")': "call-arg",
    'quantkit.convert("x", "y", threads="2")': "arg-type",
    'quantkit.build("x", parameters={"temperature": object()})': "dict-item",
    "quantkit.no_such_name": "attr-defined",
}


def test_the_page_is_one_script_that_runs(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(BLOCKS), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(script)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(TEXTS[0])
    assert "unknown quantization type 'q9_0'\nuse one of: " in done.stdout
    assert "unknown Ollama parameter 'temprature' | did you mean: temperature" in done.stdout
    assert "end_of_turn" in done.stdout
    assert "\nTrue\n" in done.stdout
    assert "FAIL" not in done.stdout
    assert done.stdout.endswith("q8_0\n")
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"page.py", "kit", "half-kit", "steps"}


def test_it_begins_with_five_lines() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 5


def test_it_shows_the_whole_tree_of_errors() -> None:
    import quantkit.errors

    shown = set(re.findall(r"\w+Error", TEXTS[1]))
    assert shown == {name for name in vars(quantkit.errors) if name.endswith("Error")}


def test_it_names_every_function_of_the_face() -> None:
    import quantkit

    for name in quantkit.__all__:
        if not name[0].isupper() and name != "__version__":
            assert f"quantkit.{name}(" in PAGE, name


def mypy(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """mypy on a user's script, as strict as on quantkit: it finds what the check of quantkit has cached."""
    (folder / "user.py").write_text(script, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "mypy", str(folder / "user.py")],
        cwd=ROOT,
        env={**ENVIRONMENT, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_a_strict_users_script(tmp_path: Path) -> None:
    wrong = "\n".join(WRONG)
    page = "\n".join(BLOCKS)
    done = mypy(tmp_path, f"{page}\n{USER}\n{wrong}\n")
    first = f"{page}\n{USER}\n".count("\n") + 1
    found = re.findall(r"user\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert found == [(str(first + at), code) for at, code in enumerate(WRONG.values())], done.stdout + done.stderr
