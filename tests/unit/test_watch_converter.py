"""The script that says what of llama.cpp's converter is lacking or has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from converter_rules import compare, projector, read_rules
from families_page import LACKING

from quantkit.arch.families import FAMILIES
from quantkit.arch.vision.families import TOWERS
from tests.support.reference import reference_folder

ROOT = Path(__file__).parents[2]
BASE = "class ModelBase: ...\nclass TextModel(ModelBase): ...\nclass MmprojModel(ModelBase): ...\n"
LLAMA = """
from .base import ModelBase, TextModel, gguf
@ModelBase.register("LlamaForCausalLM", "OtherForCausalLM")
@ModelBase.example("a/b")
class LlamaModel(TextModel):
    model_arch = gguf.MODEL_ARCH.LLAMA
    def modify(self):
        return 1
"""
CHILD = """
from .llama import LlamaModel
@ModelBase.register("ChildForCausalLM")
class ChildModel(LlamaModel):
    pass
@ModelBase.register("LlamaForCausalLM")
class Eyes(MmprojModel):
    raise SystemExit("this must not run")
"""
LLAMAS = {"LlamaForCausalLM", "OtherForCausalLM"}
TENSORS = "MODEL_TENSORS: dict[MODEL_ARCH, list[MODEL_TENSOR]] = {MODEL_ARCH.LLAMA: [MODEL_TENSOR.A]}\n"


def tree(folder: Path, **files: str) -> Path:
    (folder / "conversion").mkdir(parents=True)
    (folder / "gguf-py" / "gguf").mkdir(parents=True)
    contents = {"base": BASE, "llama": LLAMA, "child": CHILD, **files}
    (folder / "gguf-py" / "gguf" / "constants.py").write_text(contents.pop("tensors", TENSORS), encoding="utf-8")
    for name, text in contents.items():
        (folder / "conversion" / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {name: rules.sha256[:16] for name, rules in read_rules(folder).items()}


def test_names_files_and_kinds(tmp_path: Path) -> None:
    found = read_rules(tree(tmp_path / "tree"))
    assert {name: (rules.name, rules.module, rules.mmproj) for name, rules in found.items()} == {
        "LlamaForCausalLM": ("LlamaModel", "llama", False),
        "OtherForCausalLM": ("LlamaModel", "llama", False),
        "ChildForCausalLM": ("ChildModel", "child", False),
        "mmproj:LlamaForCausalLM": ("Eyes", "child", True),
    }


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({"llama": LLAMA.replace("return 1", "# one\n\n        return 1")}, set()),
        ({"llama": LLAMA.replace("return 1", "return 2")}, {*LLAMAS, "ChildForCausalLM"}),
        ({"tensors": TENSORS.replace("TENSOR.A", "TENSOR.B")}, LLAMAS),
        ({"child": CHILD.replace("    pass", "    x = 1")}, {"ChildForCausalLM"}),
        ({"base": BASE + "x = 1\n"}, set()),
    ],
    ids=["a comment", "a rule", "tensors", "a child", "the common base"],
)
def test_what_changes_the_hash(tmp_path: Path, files: dict[str, str], changed: set[str]) -> None:
    before, after = hashes(tree(tmp_path / "before")), hashes(tree(tmp_path / "after", **files))
    assert {name for name in before if before[name] != after[name]} == changed


def test_compare(tmp_path: Path) -> None:
    found = read_rules(tree(tmp_path / "tree"))
    seen = {name: rules.sha256[:16] for name, rules in found.items() if name != "OtherForCausalLM"}
    changed = ("LlamaForCausalLM", "mmproj:LlamaForCausalLM", "ChildForCausalLM", "OldForCausalLM")
    seen |= dict.fromkeys(changed, "another")
    result = compare(found, seen, ("LlamaForCausalLM", "OldForCausalLM", "QWenLMHeadModel"))
    assert result.changed == ("LlamaForCausalLM",)
    assert result.gone == ("OldForCausalLM",)
    assert result.new == ("OtherForCausalLM",)
    assert result.changed_elsewhere == ("ChildForCausalLM", "mmproj:LlamaForCausalLM")
    assert result.lacking == ("ChildForCausalLM", "OtherForCausalLM", "mmproj:LlamaForCausalLM")
    text, others = (result.by_module(found, mmproj=mmproj) for mmproj in (False, True))
    assert text == {"child": ["ChildForCausalLM"], "llama": ["OtherForCausalLM"]}
    assert others == {"child": ["LlamaForCausalLM"]}


def test_the_reference_is_as_it_was_looked_at() -> None:
    """A new version of the reference makes somebody look: read what changed, then scripts/watch_converter --record."""
    found = read_rules(reference_folder())
    seen = json.loads((ROOT / "scripts" / "converter_seen.json").read_text(encoding="utf-8"))
    assert hashes(reference_folder()) == seen
    assert not FAMILIES.keys() - found.keys()
    assert not set(map(projector, TOWERS)) - found.keys()


def test_command(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "watch_converter")]
    done = subprocess.run([*command, str(reference_folder())], capture_output=True, text=True, check=True)
    assert "text models that quantkit lacks: " in done.stdout
    assert "parts that see or hear that quantkit lacks: " in done.stdout
    assert "  mamba: " in done.stdout
    changed = tree(tmp_path / "tree")
    done = subprocess.run([*command, str(changed), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "LlamaForCausalLM" in json.loads(done.stdout)["changed"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_what_the_page_of_families_lacks_is_known_to_the_converter() -> None:
    assert {name for row in LACKING for name in row.classes} <= read_rules(reference_folder()).keys()
