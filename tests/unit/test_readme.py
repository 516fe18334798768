"""What the README says is so: its table has every command, its demo answers are the demo's, its packages ours."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import quantkit
from quantkit.cli.main import COMMANDS
from quantkit.demo.data import EXAMPLES
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_file import read_recipe
from tests.support.documents import blocks

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_table_lists_every_command() -> None:
    assert re.findall(r"^\| `quantkit (\w+)", README, re.MULTILINE) == list(COMMANDS)


def test_make_targets_exist() -> None:
    lines = [line for block in blocks(ROOT / "README.md") for line in block.commands()]
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (recipe,) = (block for block in blocks(ROOT / "docs" / "build.md") if block.language == "toml")
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.text, encoding="utf-8")
    built = Recipe(**read_recipe(path))
    assert built.quants == ("q4_k_m", "q8_0")
    assert built.parameters == (("temperature", "0.2"), ("repeat_penalty", "1.1"))


def test_the_demo_shown_is_the_demo() -> None:
    shown = [block.text for block in blocks(ROOT / "README.md") if "with adapter" in block.text]
    assert len(shown) == 1
    by_question = {example.question: example for example in EXAMPLES}
    for question, base, adapted in re.findall(r"> (.+)\n +base +(.+)\n +with adapter +(.+?)  \[", shown[0]):
        assert (base, adapted) == (by_question[question].base_answer, by_question[question].adapted_answer)
    assert f"{len(EXAMPLES)} of {len(EXAMPLES)} answers" in shown[0]


def test_nobody_is_told_to_install_another_project() -> None:
    """The package index has a quantkit that is not ours."""
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "scripts").iterdir()]
    texts += [*(ROOT / "quantkit").rglob("*.py"), *(ROOT / "templates" / "generic").iterdir()]
    for path in filter(Path.is_file, texts):
        assert not re.search(r"pip install ['\"]?quantkit(?![-\w])", path.read_text(encoding="utf-8")), path


def test_changelog_has_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert versions[0] == quantkit.__version__


# What only some need is an extra; the others work without it.
EXTRAS = {
    "quantkit/cluster": "ray",
    "quantkit/farm": "ray",
    "quantkit/hub/lock.py": "ray",
    "quantkit/jobs/spread": "ray",
    "quantkit/hub/modelscope": "modelscope",
    "quantkit/kernels": "fast",
    "quantkit/kernels/cuda": "cuda",
    "quantkit/ollama/client.py": "ollama",
    "quantkit/page/plots.py": "report",
    "quantkit/serve": "serve",
}
IMPORTED_AS = {
    "cuda-bindings": "cuda",
    "huggingface-hub": "huggingface_hub",
    "modelscope-hub": "modelscope_hub",
    "llama-cpp-python": "llama_cpp",
    "markdown-it-py": "markdown_it",
    "pyyaml": "yaml",
}


def test_every_package_that_is_imported_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in sorted((ROOT / "quantkit").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        wanted = list(project["dependencies"])
        for prefix, extra in EXTRAS.items():
            wanted += project["optional-dependencies"][extra] if place.startswith(prefix) else []
        names = [re.split(r"[\[<>=]", text)[0] for text in wanted]
        known = {IMPORTED_AS.get(name, name) for name in names} | sys.stdlib_module_names | {"quantkit"}
        for node in ast.walk(ast.parse(path.read_bytes())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module.split(".")[0] in known, f"{place} imports {module}"


def test_architecture_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for path in (ROOT / "quantkit").glob("*.py"):
        if not path.name.startswith("__"):
            assert path.name in text, path.name
