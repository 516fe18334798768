"""Recipes: defaults, names, and TOML files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from quantkit.errors import QuantizationError, QuantkitError
from quantkit.ggml.types import GGMLType
from quantkit.hub.adapter_source import AdapterSource
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_file import read_recipe
from quantkit.plan.type_choices import TypeChoices


def test_defaults() -> None:
    recipe = Recipe(Path("models/Llama-3"))
    assert (recipe.name, recipe.folder, recipe.quants, recipe.outtype) == ("Llama-3", Path("Llama-3"), ("q4_0",), "f16")
    assert (recipe.template, recipe.keep_f16) == ("auto", False)
    assert (recipe.adapters, recipe.system, recipe.parameters, recipe.imatrix) == ((), None, (), None)


def test_the_name_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Recipe(Path("base"), (Path("x/one"), Path("two/"))).name == "base-one-two"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert Recipe(Path(".")).name == "here"
    assert Recipe(Path("base"), out=Path("x/out"), name="n").folder == Path("x/out")


def test_quants_by_any_of_their_names() -> None:
    assert Recipe(Path("m"), quants=("Q4_K", "q8-0", "q4_k_m")).quants == ("q4_k_m", "q8_0")
    with pytest.raises(QuantizationError, match="unknown quantization type 'q4'"):
        Recipe(Path("m"), quants=("q4",))


def test_nothing_to_build() -> None:
    with pytest.raises(QuantkitError, match="nothing to build"):
        Recipe(Path("m"), quants=())
    assert Recipe(Path("m"), quants=(), keep_f16=True).quants == ()


def test_an_unknown_base_type() -> None:
    with pytest.raises(QuantkitError, match="outtype 'q4_0' is unknown") as caught:
        Recipe(Path("m"), outtype="q4_0")
    assert caught.value.hint == "use one of: f16, bf16, f32"


@pytest.mark.parametrize("name", ["a", "Llama-3.1_8B", "模型", "with space", "a" * 200, "x'y", "1"])
def test_names(name: str) -> None:
    assert Recipe(Path("m"), name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        "-option",
        " space",
        "a/b",
        "a\\b",
        "..",
        "a:b",
        "a*",
        "a?",
        'a"',
        "<a>",
        "a|b",
        "a\nb",
        "a\0",
        "你" * 67,
    ],
    ids=repr,
)
def test_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(QuantkitError, match="cannot be part of a file name") as caught:
        Recipe(Path("m"), name=name)
    assert "--name" in caught.value.hint


def test_a_name_that_is_refused_is_not_printed_whole() -> None:
    with pytest.raises(QuantkitError, match="cannot be part of a file name") as caught:
        Recipe(Path("m"), name="x" * 100_000)
    assert len(str(caught.value)) < 200


def test_a_template_longer_than_a_files_name_may_be(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(f'model = "m"\ntemplate = "{"x" * 300}"\n', encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.toml")["template"] == "x" * 300


def test_json_has_no_absolute_paths(tmp_path: Path) -> None:
    recipe = Recipe(
        tmp_path / "base",
        (tmp_path / "one", tmp_path / "two"),
        out=tmp_path / "out",
        imatrix=tmp_path / "im.gguf",
        parameters=(("temperature", "0.2"), ("stop", "x")),
        system="be brief",
        tensor_types=("attn_v=q8_0",),
        via_llama_cpp=tmp_path / "llama.cpp",
        ignore="checkpoint-*",
    )
    plain = recipe.to_json()
    assert plain == {
        "model": "base",
        "adapters": ["one", "two"],
        "quants": ["q4_0"],
        "name": "base-one-two",
        "size": None,
        "bits": None,
        "fit": None,
        "choice_data": None,
        "merge_again": False,
        "keep_f16": False,
        "outtype": "f16",
        "rope_scaling": None,
        "rope_theta": None,
        "mtp": "keep",
        "template": "auto",
        "thinking": None,
        "system": "be brief",
        "parameters": [["temperature", "0.2"], ["stop", "x"]],
        "imatrix": "im.gguf",
        "calibrate": None,
        "pure": False,
        "leave_output_tensor": False,
        "output_tensor_type": None,
        "token_embedding_type": None,
        "tensor_types": ["attn_v=q8_0"],
        "split_max_size": None,
        "adapter_gguf": False,
        "mmproj": False,
        "ignore": ["checkpoint-*"],
        "via_llama_cpp": "llama.cpp",
        "messages": [],
    }
    assert str(tmp_path) not in json.dumps(plain)
    half = Recipe(tmp_path / "base", (AdapterSource(tmp_path / "one", 0.5),))
    assert half.to_json()["adapters"] == [{"path": "one", "weight": 0.5}]
    assert half.adapters[0].label == "one × 0.5"


def toml(folder: Path, text: str) -> dict[str, Any]:
    (folder / "quantkit.toml").write_text(text, encoding="utf-8")
    return read_recipe(folder / "quantkit.toml")


def test_types_and_sizes_in_a_recipe_file(tmp_path: Path) -> None:
    settings = toml(
        tmp_path,
        """
        model = "base"
        pure = true
        leave_output_tensor = true
        output_tensor_type = "q8_0"
        token_embedding_type = "q6_k"
        tensor_types = ["attn_v=q8_0", "ffn=Q4_K"]
        split_max_size = "2G"
        via_llama_cpp = "../llama.cpp"
        """,
    )
    recipe = Recipe(**settings)
    assert (recipe.split_max_size, recipe.via_llama_cpp) == (2_000_000_000, tmp_path / ".." / "llama.cpp")
    assert recipe.choices == TypeChoices(
        pure=True,
        leave_output=True,
        output=GGMLType.Q8_0,
        embedding=GGMLType.Q6_K,
        tensors=(("attn_v", GGMLType.Q8_0), ("ffn", GGMLType.Q4_K)),
    )
    assert toml(tmp_path, 'model = "base"\nsplit_max_size = 1000') == {
        "model": tmp_path / "base",
        "split_max_size": 1000,
    }


def test_a_whole_recipe_file(tmp_path: Path) -> None:
    settings = toml(
        tmp_path,
        """
        model = "base"
        adapters = ["one", "/elsewhere/two", { path = "three", weight = 0.5 }]
        quants = ["Q4_0", "q8_0"]
        out = "../out"
        name = "n"
        keep_f16 = true
        outtype = "bf16"
        template = "llama-3"
        system = "你好"
        imatrix = "im.dat"
        device = "cpu"
        threads = 3

        [parameters]
        temperature = 0.2
        num_ctx = 4096
        """,
    )
    assert (settings.pop("device"), settings.pop("threads")) == ("cpu", 3)
    assert Recipe(**settings) == Recipe(
        tmp_path / "base",
        (
            AdapterSource(tmp_path / "one"),
            AdapterSource(Path("/elsewhere/two")),
            AdapterSource(tmp_path / "three", 0.5),
        ),
        ("q4_0", "q8_0"),
        tmp_path / "../out",
        "n",
        keep_f16=True,
        outtype="bf16",
        template="llama-3",
        system="你好",
        parameters=(("temperature", "0.2"), ("num_ctx", "4096")),
        imatrix=tmp_path / "im.dat",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "not valid TOML"),
        ("model = 'a'\nmodel = 'b'", "not valid TOML"),
        ("modle = 'a'", "unknown key 'modle'"),
        ("model = 3", "model is 3; expected a folder, or a hub id"),
        ("out = ''", "out is ''; expected a path"),
        ("adapters = 5", "adapters is 5; expected an adapter or a list of adapters"),
        ("adapters = [1]", "adapters is 1; expected a path, or a path and a weight"),
        ("adapters = [{ path = 'one' }]", "adapters is {'path': 'one'}; expected a path, or a path and a weight"),
        (
            "adapters = [{ path = 'one', weight = '1' }]",
            r"adapters is \('one', '1'\); expected a path and a number as its weight",
        ),
        ("adapters = [{ path = 1, weight = 1 }]", "adapters is 1; expected a folder, or a hub id"),
        ("quants = 4", "quants is 4; expected a text or a list of texts"),
        ("keep_f16 = 'yes'", "keep_f16 is 'yes'; expected true or false"),
        ("threads = 0", "threads is 0; expected a positive whole number"),
        ("threads = '2'", "threads is '2'; expected a positive whole number"),
        ("parameters = ['a']", "expected a table"),
        ("system = ['a']", "expected text"),
    ],
)
def test_broken_recipe_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(QuantkitError, match=rf"quantkit\.toml: .*{message}"):
        toml(tmp_path, text)


def test_recipe_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(QuantkitError, match="cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(QuantkitError, match="not UTF-8"):
        read_recipe(tmp_path / "x.toml")


@pytest.mark.parametrize("written", [r"C:\models\qwen", r"C:\Users\me", r"C:\new\table", r"D:\模型"])
def test_a_windows_path_in_a_recipe_file(tmp_path: Path, written: str) -> None:
    """TOML reads escapes in double quotes, some of which are valid: a path must not become another one."""
    for line in (
        f'model = "{written}"',
        f'adapters = ["a", {{ path = "{written}", weight = 0.5 }}]',
        f'out = "{written}"',
    ):
        with pytest.raises(QuantkitError, match=r"quantkit\.toml: ") as caught:
            toml(tmp_path, line)
        assert r"'C:\models\qwen'" in caught.value.hint
    assert toml(tmp_path, f"model = '{written}'") == {"model": tmp_path / written}
    (tmp_path / "marked.toml").write_text('model = "模型"', encoding="utf-8-sig")
    assert read_recipe(tmp_path / "marked.toml") == {"model": tmp_path / "模型"}


def test_a_template_file_has_no_absolute_path(tmp_path: Path) -> None:
    recipe = Recipe(Path("m"), template=str(tmp_path / "x.jinja"))
    assert str(tmp_path) not in json.dumps(recipe.to_json())


def test_values_of_parameters(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[parameters]\nstop = ['a', 'b']\npenalize_newline = true", encoding="utf-8")
    assert read_recipe(path)["parameters"] == (("stop", "a"), ("stop", "b"), ("penalize_newline", "true"))


def test_threads_true(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("threads = true", encoding="utf-8")
    with pytest.raises(QuantkitError, match="threads"):
        read_recipe(tmp_path / "r.toml")


def test_a_folder_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(QuantkitError, match="part of a file name"):
        Recipe(folder)


def test_a_template_file_is_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "x.jinja").write_text("{{ messages }}", encoding="utf-8")
    (tmp_path / "r.toml").write_text("template = 'x.jinja'", encoding="utf-8")
    assert read_recipe(tmp_path / "r.toml")["template"] == str(tmp_path / "x.jinja")
    (tmp_path / "r.toml").write_text("template = 'chatml'", encoding="utf-8")
    assert read_recipe(tmp_path / "r.toml")["template"] == "chatml"
