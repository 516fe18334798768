"""Arguments as a person writes them: what is accepted means the same, and everything else is refused by name."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path, PurePath
from typing import Any

import pytest

import quantkit
from quantkit.ggml.types import UNQUANTIZED
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.source import HubId
from quantkit.jobs.argument_kinds import ADAPTERS, DATA, MATRIX, PATH, SOURCE
from quantkit.jobs.arguments import read_adapter
from quantkit.jobs.fields import toml_line
from quantkit.jobs.recipe import BuildKeywords, Recipe, read_request
from quantkit.jobs.recipe_fields import RECIPE_FIELDS, RecipeKeywords
from quantkit.jobs.recipe_file import read_recipe
from quantkit.jobs.run_options import RUN_FIELDS, RunKeywords, RunOptions
from quantkit.material.data_file import CALIBRATION

ONE, TWO = AdapterSource(Path("one")), AdapterSource(HubId("org/two"))

# (field, what a person may write, what it means)
SPELLINGS: list[tuple[str, list[Any], Any]] = [
    ("model", ["m", Path("m"), PurePath("m")], Path("m")),
    ("model", ["org/m", HubId("org/m")], HubId("org/m")),
    ("model", ["modelscope:org/m@v1"], HubId("org/m", "v1", "modelscope")),
    ("adapters", ["one", Path("one"), ["one"], ("one",), [Path("one")], deque(["one"]), ONE, [ONE]], (ONE,)),
    ("adapters", [("one", 1), [("one", 1.0)], {"path": "one", "weight": 1}, [{"path": "one", "weight": 1}]], (ONE,)),
    ("adapters", [["one", "org/two"], ("one", "org/two"), [Path("one"), HubId("org/two")]], (ONE, TWO)),
    ("adapters", [[("one", 0.5), "org/two"]], (AdapterSource(Path("one"), 0.5), TWO)),
    ("adapters", [[], ()], ()),
    ("quants", ["q8_0", ["q8_0"], ("Q8-0",)], ("q8_0",)),
    ("tensor_types", ["a=q8_0", ["a=q8_0"]], ("a=q8_0",)),
    ("out", ["x/y", Path("x/y")], Path("x/y")),
    ("out", [None], None),
    ("parameters", [{"temperature": 0.2}, [("temperature", 0.2)], (("temperature", "0.2"),)],
     (("temperature", "0.2"),)),
    ("parameters", [{"stop": ["a", "b"]}, {"stop": ("a", "b")}, [("stop", "a"), ["stop", "b"]]],
     (("stop", "a"), ("stop", "b"))),
    ("parameters", [{"use_mmap": True}], (("use_mmap", "true"),)),
    ("parameters", [{"num_ctx": 4096}], (("num_ctx", "4096"),)),
    ("parameters", [{}, [], ()], ()),
    ("messages", [
        {"user": "a", "assistant": "b"},
        [("user", "a"), ("assistant", "b")],
        [{"user": "a"}, {"assistant": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    ], (("user", "a"), ("assistant", "b"))),
    ("split_max_size", [2_000_000_000, "2G", "2GB", "2000000000"], 2_000_000_000),
    ("split_max_size", [None, 0, "0", "0GB"], None),
    ("size", ["4.5GB", 4_500_000_000], 4_500_000_000),
    ("bits", [4.6], 4.6),
    ("fit", ["8GB"], 8_000_000_000),
    ("ignore", ["a", ["a"], ("a",)], ("a",)),
    ("template", ["no/such.jinja", Path("no/such.jinja")], "no/such.jinja"),
    ("system", ["Be brief."], "Be brief."),
    ("thinking", ["off"], "off"),
    ("rope_scaling", ["linear:2"], "linear:2"),
    ("rope_theta", [10000, 10000.0], 10000.0),
    ("mtp", ["drop"], "drop"),
    ("imatrix", ["im.gguf", Path("im.gguf")], Path("im.gguf")),
    ("calibrate", ["train.jsonl", Path("train.jsonl")], Path("train.jsonl")),
    ("calibrate", ["auto", CALIBRATION], CALIBRATION),
    ("via_llama_cpp", ["llama.cpp", Path("llama.cpp")], Path("llama.cpp")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "written", "meant"), [(name, written, meant) for name, many, meant in SPELLINGS for written in many]
)
def test_accepted(name: str, written: Any, meant: Any) -> None:
    recipe = Recipe(**{"model": "m", name: written})
    assert getattr(recipe, name) == meant
    assert Recipe(**{"model": "m", name: getattr(recipe, name)}) == recipe  # what was read is read again


def test_every_field_has_a_spelling() -> None:
    flags = {name for name, field in RECIPE_FIELDS.items() if isinstance(field.default, bool)}
    assert {name for name, _, _ in SPELLINGS} | flags >= set(RECIPE_FIELDS) - {
        *("name", "outtype", "choice_data", "output_tensor_type", "token_embedding_type")
    }


# (field, what is refused, what the error says)
REFUSED: list[tuple[str, Any, str]] = [
    ("calibrate", 5, "calibrate is 5; expected a text or conversations in a file, or 'auto'"),
    ("calibrate", "", "calibrate is ''; expected a text or conversations in a file, or 'auto'"),
    ("model", 5, "model is 5; expected a folder, or a hub id"),
    ("model", None, "model is None; expected a folder, or a hub id"),
    ("model", ["m"], r"model is \['m'\]; expected a folder, or a hub id"),
    ("model", b"m", "model is b'm'; expected a folder"),
    ("adapters", {"a"}, r"adapters is \{'a'\}; expected an adapter or a list of adapters"),
    ("adapters", iter(["a"]), "adapters is <list_iterator.*; expected an adapter or a list of adapters"),
    ("merge_again", "no", "merge_again is 'no'; expected true or false"),
    ("adapters", 5, "adapters is 5; expected an adapter or a list of adapters"),
    ("adapters", None, "adapters is None"),
    ("adapters", [5], "adapters is 5; expected a path, or a path and a weight"),
    ("adapters", [("a", "b")], r"adapters is \('a', 'b'\); expected a path and a number as its weight"),
    ("adapters", [("a", True)], "expected a path and a number as its weight"),
    ("adapters", {"path": "a"}, "expected a path, or a path and a weight"),
    ("quants", 5, "quants is 5; expected a text or a list of texts"),
    ("quants", [4], "quants is 4; expected text"),
    ("quants", {"q4_0"}, "quants is"),
    ("tensor_types", {"a": "q8_0"}, "tensor_types is"),
    ("out", b"x", "out is b'x'; expected a path"),
    ("out", "", "out is ''; expected a path"),
    ("out", 3, "out is 3; expected a path"),
    ("imatrix", 3, "imatrix is 3; expected a path, or a hub id"),
    ("via_llama_cpp", True, "via_llama_cpp is True; expected a path"),
    ("name", 3, "name is 3; expected text"),
    ("system", ["a"], r"system is \['a'\]; expected text"),
    ("template", 3, "template is 3; expected the name of a chat format, or a Jinja file"),
    ("outtype", "q4_0", "outtype 'q4_0' is unknown"),
    ("thinking", "maybe", "thinking 'maybe' is unknown"),
    ("mtp", "maybe", "mtp 'maybe' is unknown"),
    ("mtp", True, "mtp is True; expected text"),
    ("rope_scaling", 2, "rope_scaling is 2; expected text"),
    ("size", "big", "size is 'big'; expected a size such as '2G'"),
    ("size", 0, "size is 0; expected a size such as '2G'"),
    ("fit", -1, "fit is -1; expected a size such as '2G'"),
    ("bits", "4.5", "bits is '4.5'; expected a number"),
    *(("bits", value, "bits is .*; expected a number above zero") for value in (float("nan"), float("inf"), 0, -1.0)),
    ("choice_data", 5, "choice_data is 5; expected a path"),
    ("rope_theta", "10000", "rope_theta is '10000'; expected a number"),
    ("output_tensor_type", 3, "output_tensor_type is 3; expected text"),
    ("token_embedding_type", 3, "token_embedding_type is 3; expected text"),
    ("parameters", {"temperature": object()}, r"parameters\['temperature'\] is <object.*; expected a text, a number"),
    ("parameters", {"temperature": None}, r"parameters\['temperature'\] is None"),
    ("parameters", {1: 2}, "parameters is 1; expected text"),
    ("parameters", "temperature=0.2", "parameters is 'temperature=0.2'; expected a table of names and values"),
    ("parameters", ["temperature=0.2"], "parameters is 'temperature=0.2'; expected a table of names and values"),
    ("parameters", {"temperature"}, "expected a table of names and values"),
    ("messages", "hello", "messages is 'hello'; expected messages with a role and its text"),
    ("messages", ["hello"], "messages is 'hello'; expected messages with a role and its text"),
    ("messages", [("user", 3)], "messages is 3; expected text"),
    ("messages", [{"user": "a", "assistant": "b"}], "expected messages with a role and its text"),
    ("split_max_size", True, "split_max_size is True; expected a size such as '2G'"),
    ("split_max_size", 2.5, "split_max_size is 2.5; expected a size such as '2G'"),
    ("split_max_size", "big", "split_max_size is 'big'; expected a size such as '2G'"),
    ("split_max_size", -1, "split_max_size is -1; expected a size such as '2G'"),
    ("ignore", 5, "ignore is 5; expected a text or a list of texts"),
    ("keep_f16", 1, "keep_f16 is 1; expected true or false"),
    ("keep_f16", None, "keep_f16 is None; expected true or false"),
    ("pure", "yes", "pure is 'yes'; expected true or false"),
    ("leave_output_tensor", "no", "leave_output_tensor is 'no'; expected true or false"),
    ("adapter_gguf", 0, "adapter_gguf is 0; expected true or false"),
    ("mmproj", 0, "mmproj is 0; expected true or false"),
]


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(quantkit.QuantkitError, match=said) as caught:
        Recipe(**{"model": "m", name: value})
    assert name in ("outtype", "thinking", "mtp") or caught.value.hint.startswith(f"write it as {name}=")


def test_every_field_refuses() -> None:
    assert {name for name, _, _ in REFUSED} == set(RECIPE_FIELDS)


PATHS = [name for name, field in RECIPE_FIELDS.items() if field.kind in (SOURCE, ADAPTERS, PATH, MATRIX, DATA)]


@pytest.mark.parametrize("name", PATHS)
def test_no_path_can_be_it(name: str, tmp_path: Path) -> None:
    """A zero byte, a name that is too long for the system, a folder that may not be looked into."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    for path in ("a\0b", str(tmp_path / ("x" * 300)), *([] if os.access(closed, os.R_OK) else [str(closed / "x")])):
        with pytest.raises(quantkit.QuantkitError, match=f"{name} is|too long|denied"):
            Recipe(**{"model": "org/m", name: path})


def test_numbers_that_no_float_holds() -> None:
    for name, value in (("bits", 10**400), ("rope_theta", 10**400), ("adapters", ("a", 10**400))):
        with pytest.raises(quantkit.QuantkitError, match=r"expected a number above zero|not a finite number"):
            Recipe(**{"model": "org/m", name: value})


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(quantkit.QuantkitError) as caught:
        Recipe("m", keep_f16="x" * 10_000)  # type: ignore[typeddict-item]
    assert len(str(caught.value)) < 200


def test_an_unknown_field_and_the_closest_known_one() -> None:
    with pytest.raises(quantkit.QuantkitError, match="unknown argument 'qants'") as caught:
        Recipe(model="m", qants="q4_0")
    assert caught.value.hint.startswith("did you mean quants? known are: adapter_gguf, adapters, ")


@pytest.mark.parametrize("name", ["device", "threads", "overwrite", "fsync", "reporter"])
def test_how_is_not_what(name: str) -> None:
    with pytest.raises(quantkit.QuantkitError, match=f"{name} is not a field of a recipe") as caught:
        Recipe(**{"model": "m", name: None})
    assert f"quantkit.build(recipe, {name}=...)" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": 3}, "device is 3; expected text"),
        ({"threads": 0}, "threads is 0; expected a positive whole number"),
        ({"threads": "2"}, "threads is '2'; expected a positive whole number"),
        ({"threads": True}, "threads is True; expected a positive whole number"),
        ({"overwrite": "yes"}, "overwrite is 'yes'; expected true or false"),
        ({"fsync": 1}, "fsync is 1; expected true or false"),
        ({"reporter": print}, "reporter is <built-in function print>; expected a quantkit.Reporter"),
        ({"reporter": quantkit.Reporter}, "reporter is <class .*; expected a quantkit.Reporter"),
    ],
)
def test_run_options_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(quantkit.QuantkitError, match=said):
        RunOptions(**options)
    for call in (
        lambda: quantkit.build("m", **options),
        lambda: quantkit.plan("m", **options),
        lambda: quantkit.convert("m", "x.gguf", **options),
        lambda: quantkit.convert_adapter("m", "x.gguf", adapter="a", **options),
        lambda: quantkit.merge("m", "x", adapters="a", **options),
        lambda: quantkit.quantize("m.gguf", "x.gguf", quant="q4_0", **options),
        lambda: quantkit.package("m.gguf", "x", **options),
        lambda: quantkit.verify("x", **options),
    ):
        with pytest.raises(quantkit.QuantkitError, match=said):
            call()


def test_keywords_override_a_value_of_run_options() -> None:
    reporter = quantkit.Reporter()
    run = RunOptions(threads=3, overwrite=True, reporter=reporter)
    recipe, merged = read_request("m", run, threads=2, fsync=True, quants="q8_0", reporter=None)
    assert recipe == Recipe("m", quants="q8_0")
    assert merged == RunOptions(threads=2, overwrite=True, fsync=True, reporter=reporter)
    assert RunOptions().reporter is not RunOptions().reporter


def test_a_recipe_and_fields_of_one() -> None:
    recipe = Recipe("m")
    assert read_request(recipe, None, threads=2)[0] is recipe
    with pytest.raises(quantkit.QuantkitError, match="quants is given besides a recipe"):
        quantkit.build(recipe, quants="q4_0")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: quantkit.build("m", thread=2), "unknown argument 'thread'"),
        (lambda: quantkit.build("m", run=3), "run is 3; expected a quantkit.RunOptions"),
        (lambda: quantkit.build("m", verify="no"), "verify is 'no'; expected true or false"),
        (lambda: quantkit.build("m", profile=3), "profile is 3; expected a path"),
        (lambda: quantkit.convert(3, "x"), "model is 3; expected a folder, or a hub id"),
        (lambda: quantkit.convert("m", 3), "out is 3; expected a path"),
        (lambda: quantkit.convert("m", "x", adapters={"a"}), "adapters is"),
        (lambda: quantkit.convert("m", "x", outtype="q4_0"), "outtype 'q4_0' is unknown"),
        (lambda: quantkit.convert("m", "x", split_max_size="big"), "split_max_size is 'big'"),
        (lambda: quantkit.convert("m", "x", thread=3), "unknown argument 'thread'"),
        (lambda: quantkit.convert_adapter("m", "x", adapter=["a"]), r"adapter is \['a'\]; expected a path, or"),
        (lambda: quantkit.convert_adapter("m", "x", adapter="a", outtype="q"), "outtype 'q' is unknown"),
        (lambda: quantkit.merge("m", "x", adapters="a", dtype="q4_0"), "dtype 'q4_0' is unknown"),
        (lambda: quantkit.merge("m", "x", adapters="a", max_shard_size=None), "max_shard_size is None"),
        (lambda: quantkit.merge_lora("m", "x", loras=3), "loras is 3; expected a LoRA file or a list of LoRA files"),
        (lambda: quantkit.merge_lora("m", "x", loras=[3]), "loras is 3; expected a path"),
        (lambda: quantkit.merge_lora("m", "x", loras="l", quant=4), "quant is 4; expected text"),
        (lambda: quantkit.edit(3, name="x"), "gguf is 3; expected a path"),
        (lambda: quantkit.edit("m", name=3), "name is 3; expected text"),
        (lambda: quantkit.quantize(3, "x", quant="q4_0"), "gguf is 3; expected a path"),
        (lambda: quantkit.quantize("m", "x", quant=4), "quant is 4; expected text"),
        (lambda: quantkit.quantize("m", "x", quant="q4_0", pure=1), "pure is 1; expected true or false"),
        (lambda: quantkit.quantize("m", "x", quant="q4_0", puer=True), "unknown argument 'puer'"),
        (lambda: quantkit.package(3, "x"), "ggufs is 3; expected a path or a list of paths"),
        (lambda: quantkit.package([], "x"), "there is no GGUF file to package"),
        (lambda: quantkit.package("m", "x", parameters=3), "parameters is 3"),
        (lambda: quantkit.package("m", "x", system=3), "system is 3; expected text"),
        (lambda: quantkit.package("m", "x", modelfile=3), "modelfile is 3; expected a path"),
        (lambda: quantkit.package("m", "x", name=3), "name is 3; expected text"),
        (lambda: quantkit.verify(3), "folder is 3; expected a path"),
        (lambda: quantkit.verify("x", source=3), "source is 3; expected a path"),
        (lambda: quantkit.verify("x", sha256="yes"), "sha256 is 'yes'; expected true or false"),
        (lambda: quantkit.inspect(3), "source is 3; expected a folder, or a hub id"),
        (lambda: quantkit.read_recipe(3), "path is 3; expected a path"),
    ],
)  # fmt: skip
def test_arguments_of_the_functions(call: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(quantkit.QuantkitError, match=said) as caught:
        call()
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_one_adapter() -> None:
    assert read_adapter("adapter", ("one", 0.5)) == AdapterSource(Path("one"), 0.5)


def test_the_table_is_what_python_types_say() -> None:
    first = ["model", "adapters", "quants", "out", "name"]
    assert sorted([*first, *RecipeKeywords.__annotations__]) == sorted(RECIPE_FIELDS)
    assert sorted(Recipe.__dataclass_fields__) == sorted(RECIPE_FIELDS)
    assert set(RunKeywords.__annotations__) == {*RUN_FIELDS, "reporter"} == set(RunOptions.__dataclass_fields__)
    assert set(BuildKeywords.__annotations__) == {*RECIPE_FIELDS, *RunKeywords.__annotations__} - {"model"}
    assert RECIPE_FIELDS["outtype"].choices == tuple(UNQUANTIZED)
    assert all(getattr(Recipe("m"), name) == field.default for name, field in RECIPE_FIELDS.items()
               if name not in ("model", "name"))  # fmt: skip
    assert all(getattr(RunOptions(), name) == field.default for name, field in RUN_FIELDS.items())


@pytest.mark.parametrize("name", [*RECIPE_FIELDS, "device", "threads"])
def test_every_example_is_one(name: str, tmp_path: Path) -> None:
    """In a recipe file, and read again as Python's."""
    field = {**RECIPE_FIELDS, **RUN_FIELDS}[name]
    example = field.kind.example if field.example is None else field.example
    (tmp_path / "r.toml").write_text(toml_line(name, example), encoding="utf-8")
    (read,) = read_recipe(tmp_path / "r.toml").values()
    assert field.read(read) == read
    field.read(example)


def test_a_recipe_file_may_have_one_of_many(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("quants = 'q8_0'\nadapters = 'one'\nmessages = [['user', 'a'], ['assistant', 'b']]", "utf-8")
    assert read_recipe(file) == {
        "quants": ("q8_0",),
        "adapters": (AdapterSource(tmp_path / "one"),),
        "messages": (("user", "a"), ("assistant", "b")),
    }


def test_a_refusal_of_a_recipe_file_shows_toml(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("adapters = 5", encoding="utf-8")
    with pytest.raises(quantkit.QuantkitError) as caught:
        read_recipe(file)
    assert str(caught.value).startswith(f"{file}: adapters is 5; ")
    assert caught.value.hint == 'write it as adapters = ["my-lora", { path = "org/style-lora", weight = 0.5 }]'
