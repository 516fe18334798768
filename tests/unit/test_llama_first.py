"""Every process that loads libllama imports llama_cpp before numpy, and says where it crashed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import quantkit
from quantkit.system.child_process import ChildError, ask_module
from quantkit.verify.report import crashed
from tests.support.patience import PATIENCE
from tests.unit.tiny_gguf import write_tiny_gguf

PACKAGE = Path(quantkit.__file__).parent

# Put in front of a program: numpy may only come after llama_cpp.
GUARD = """
import importlib.abc, sys
class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numpy" and "llama_cpp" not in sys.modules:
            raise AssertionError("numpy is imported before llama_cpp")
sys.meta_path.insert(0, Guard())
"""


def run(program: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARD + program],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def entries() -> list[str]:
    """The modules that run as processes of their own and load libllama."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and "llama" in text:
            found.append(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
    return found


def test_the_entries_are_those_that_are_known() -> None:
    assert entries() == [
        "quantkit.advise.context_worker",
        "quantkit.calibrate.group_worker",
        "quantkit.calibrate.worker",
        "quantkit.choose.divergence_worker",
        "quantkit.evaluate.worker",
        "quantkit.material.worker",
        "quantkit.plan.dry_run",
        "quantkit.prove.file_worker",
        "quantkit.run.chat_worker",
        "quantkit.run.grammar_walk",
        "quantkit.verify.sight_worker",
        "quantkit.verify.worker",
    ]


@pytest.mark.parametrize("module", entries())
def test_a_process_begins_with_llama_cpp(module: str) -> None:
    done = run(f"import {module}; assert 'llama_cpp' in sys.modules; import numpy")
    assert done.returncode == 0, done.stderr
    tree = ast.parse((PACKAGE.parent / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8"))
    main = next(node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
    assert ast.unparse(main.body[0]) == "begin()"


def test_the_process_that_asks_for_mixtures_is_small() -> None:
    heavy = "torch", "numpy", "jinja2", "diskcache", "tokenizers", "click"
    done = run(f"import quantkit.plan.dry_run; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("there", ["", "import llama_cpp; llama_cpp.Llama; "])
def test_functions_without_classes(there: str) -> None:
    """A package that is imported already stays; one that lacks its functions is left to the one that reports it."""
    code = f"{there}import quantkit.ggml.functions, llama_cpp; print(hasattr(llama_cpp, 'Llama'))"
    assert run(code).stdout == f"{bool(there)}\n"
    assert run(f"{there}from quantkit.ggml.llama import llama_cpp; llama_cpp.llama_model_quantize").returncode == 0
    broken = "sys.modules['llama_cpp.llama_cpp'] = None; import quantkit.plan.dry_run"
    assert "llama-cpp-python does not load" in run(broken).stderr


@pytest.mark.parametrize("command", ["chat", "smoke"])
def test_a_command_begins_with_llama_cpp(command: str, tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    done = run(f"from quantkit.cli.main import main; main([{command!r}, {str(gguf)!r}])", stdin="Hi\n")
    assert "numpy is imported before" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout


def test_serve_begins_with_llama_cpp(tmp_path: Path) -> None:
    done = run(f"from quantkit.cli.main import main; main(['serve', {str(tmp_path / 'none.gguf')!r}])")
    assert "no such file" in done.stderr, done.stderr


def test_the_guard_finds_a_wrong_order() -> None:
    done = run("import numpy; import llama_cpp")
    assert "numpy is imported before llama_cpp" in done.stderr


def test_nothing_else_imports_llama_cpp() -> None:
    importers = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            importers |= {file.relative_to(PACKAGE).as_posix() for name in names if name.split(".")[0] == "llama_cpp"}
    assert importers == {"ggml/llama.py"}


def test_a_crash_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "quantkit_crash" / "quantkit"
    package.mkdir(parents=True)
    code = (
        "import ctypes, sys\n"
        "from quantkit.ggml.llama import begin\n"
        "def load_it():\n"
        "    print('ggml: about to load', file=sys.stderr, flush=True)\n"
        "    ctypes.string_at(0)\n"
        "begin()\n"
        "load_it()\n"
    )
    (package / "crash.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(package))
    with pytest.raises(ChildError) as caught:
        ask_module("crash", {})
    error = caught.value
    assert error.how == "signal SIGSEGV"
    assert error.output == "ggml: about to load"
    assert error.call == "load_it (quantkit/crash.py, line 5)"
    check = crashed(error)
    assert check.figure == "signal SIGSEGV in load_it (quantkit/crash.py, line 5)"
    assert "--n-gpu-layers 0" in check.evidence
    assert json.dumps(check.evidence)
