"""manifest.json as a value: what is written is what is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from quantkit.jobs.build import build
from quantkit.jobs.recipe import Recipe
from quantkit.model import adapter_effect
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.package import manifest as values
from quantkit.package import manifest_answers, manifest_chat, manifest_entries, manifest_sources
from quantkit.package.manifest import Manifest, read_manifest, write_manifest
from quantkit.package.manifest_answers import AnswersEntry
from quantkit.package.manifest_chat import ChatEntry
from quantkit.package.manifest_entries import AdapterEntry, ModelEntry, TensorEntry, TextEntry
from quantkit.package.manifest_sources import InputEntry, InputsEntry, SourceEntry, SourcesEntry

Maker = Callable[..., Path]

TENSORS = {"a": TensorEntry("q4_0", "aa"), "b": TensorEntry("q6_k", "bb", "llama.cpp's mixture")}
EFFECT = AdapterEffect(
    adapter="lora",
    weight=1,
    matrices=4,
    changed=3,
    vectors=2,
    changed_vectors=1,
    norm=0.0131,
    correlation=-0.002,
    overlap=0.1,
    overlap_error=0.2,
    large=0,
    contained=1,
    plain=True,
)
PACKAGED = Manifest(
    name="模型",
    versions={"quantkit": "1", "torch": "2"},
    models=(
        ModelEntry("m-q4_0-1.gguf", "q4_0", 10, {"m-q4_0-1.gguf": "11"}, TENSORS, ("m-q4_0-1.gguf", "m-q4_0-2.gguf")),
        ModelEntry("m-f16.gguf", "f16", 20, {}, TENSORS),
    ),
    files=(TextEntry("Modelfile", 3, "ff"),),
    chat=ChatEntry(
        "chatml",
        None,
        {"top_k": "3", "stop": ("a", "b")},
        ("<|im_end|>", "a"),
        ({"role": "user", "content": "x"},),
        AnswersEntry(("<think>", "</think>"), ("enable_thinking",), ("low",), "", "it has no tools"),
    ),
    notes=("one",),
)
BUILT = replace(
    PACKAGED,
    recipe={"template": "chatml", "device": "cuda"},
    sources=SourcesEntry(SourceEntry(hub="huggingface", id="o/n", revision="main"), (SourceEntry(folder="lora"),)),
    inputs=InputsEntry((InputEntry("model.safetensors", 5),), ((InputEntry("adapter_model.safetensors", 2),), ())),
    effects=(EFFECT, replace(EFFECT, weight=0.5, unchanged="norm.weight", plain=False)),
    adapter_files=(AdapterEntry("lora.gguf", "o/lora", 16.0, 4, {"lora.gguf": "22"}, TENSORS),),
)
TEMPLATE = SourcesEntry(SourceEntry(folder="m"), (SourceEntry(folder="lora"),), SourceEntry(folder="lora"))


@pytest.mark.parametrize(
    "manifest", [PACKAGED, BUILT, replace(BUILT, adapter_files=()), replace(BUILT, sources=TEMPLATE)]
)
def test_what_is_written_is_what_is_read(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_what_is_derived() -> None:
    assert BUILT.file_names == ("Modelfile", "m-q4_0-1.gguf", "m-q4_0-2.gguf", "m-f16.gguf", "lora.gguf")
    assert (PACKAGED.own_template, BUILT.own_template) == (True, False)
    auto = replace(BUILT, recipe={"template": "auto"})
    assert (auto.own_template, replace(auto, sources=TEMPLATE).own_template) == (True, False)
    assert PACKAGED.chat.settings == {"top_k": "3"}
    assert PACKAGED.chat.all_stops == ("<|im_end|>", "a", "b")


def test_manifests_of_the_first_versions(tmp_path: Path) -> None:
    """They have no sums of headers, no sources and no messages; and a later one may have keys that nobody knows yet."""
    old = PACKAGED.to_json() | {"later": 1}
    del old["models"][0]["headers"], old["chat"]["messages"], old["chat"]["answers"]
    (tmp_path / "manifest.json").write_text(json.dumps(old), encoding="utf-8")
    found = read_manifest(tmp_path)
    assert (found.models[0].headers, found.chat.messages, found.sources, found.chat.answers) == ({}, (), None, None)


def test_a_build_records_the_device_that_was_used(checkpoint: Maker, tmp_path: Path) -> None:
    recipe = Recipe(checkpoint("llama3-untied", layers=1), (), ("q8_0",), tmp_path / "out", "it")
    folder = build(recipe, verify=False, device="auto").folder
    written = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert written["recipe"]["device"] in ("cpu", "cuda")
    assert list(written) == [
        *("schema", "name", "versions", "recipe", "sources", "inputs", "effects", "models", "adapter_files", "files"),
        *("modelfile", "chat", "notes"),
    ]
    assert read_manifest(folder).to_json() == written


@pytest.mark.parametrize(
    "entry",
    [
        value
        for module in (values, adapter_effect, manifest_answers, manifest_chat, manifest_entries, manifest_sources)
        for value in vars(module).values()
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.__name__
    ],
)
def test_every_key_is_described(entry: type) -> None:
    described = re.findall(r"^        (\w+): ", entry.__doc__ or "", re.MULTILINE)
    assert set(described) == {field.name for field in fields(entry)}
