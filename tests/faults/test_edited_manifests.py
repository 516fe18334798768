"""``quantkit verify`` and a manifest that was edited by hand: every field is held to a file, or is a mere record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantkit.gguf.header import read_header
from quantkit.jobs.build import build
from quantkit.jobs.package import package as make_package
from quantkit.jobs.recipe import Recipe
from quantkit.package.manifest import Manifest, read_manifest
from quantkit.verify.manifest_fields import RECORDS, check_fields
from quantkit.verify.report import Check
from quantkit.verify.structure import check_files, check_modelfiles, check_models

Maker = Callable[..., Path]
Place = tuple[str | int, ...]

# Keys of the recipe that say how the files were made; the files' own sums hold the result.
RECIPE_RECORDS = {
    *("model", "adapters", "outtype", "template", "imatrix", "pure", "leave_output_tensor"),
    *("output_tensor_type", "token_embedding_type", "tensor_types", "split_max_size", "adapter_gguf", "via_llama_cpp"),
    *("merge_again", "thinking", "rope_scaling", "rope_theta", "mtp", "ignore", "device", "calibrate"),
    *("size", "bits", "fit", "choice_data"),
}


@pytest.fixture(scope="module")
def built(checkpoint: Maker, adapter: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with something in every field of its manifest; not to be changed."""
    return build(
        checkpoint("llama3-untied", dtype="f32"),
        adapters=adapter("q-and-v"),
        quants=["q8_0", "q4_0"],
        out=tmp_path_factory.mktemp("built") / "it",
        name="it",
        system="Be brief. 请简短。",
        parameters=[("temperature", "0.2"), ("num_ctx", "512"), ("stop", "END")],
        messages=[("user", "Hi"), ("assistant", "Hello.")],
        adapter_gguf=True,
        verify=False,
    ).folder


def failed(folder: Path, manifest: Manifest) -> list[Check]:
    found, models = check_files(folder, manifest), {}
    for listed, model, checks in check_models(folder, manifest, sha256=True, advance=lambda amount: None):
        found += checks
        if model is not None:
            models[listed.file] = model
    found += [*check_modelfiles(folder, manifest), *check_fields(folder, manifest, models)]
    return [check for check in found if not check.passed]


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where every text, number and null of a JSON value is; of tensors and of sums by file, only the first."""
    if isinstance(value, dict):
        keys = list(value)[:1] if place[-1:] in (("tensors",), ("headers",)) else list(value)
        for key in keys:
            yield from leaves(value[key], (*place, key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from leaves(one, (*place, number))
    else:
        yield place


def edited(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return "x" if value is None else value + 1


def change(manifest: dict[str, Any], place: Place, new: Callable[[Any], Any]) -> None:
    *before, last = place
    inside: Any = manifest
    for key in before:
        inside = inside[key]
    inside[last] = new(inside[last])


def is_record(place: Place) -> bool:
    """Whether the field is documented as one that nothing acts on."""
    keys = [key for key in place if isinstance(key, str)]
    field = f"{keys[0] if keys[0] == 'adapter_files' else 'tensors'}.{keys[-1]}"
    return keys[0] in RECORDS or field in RECORDS or (keys[0] == "recipe" and keys[1] in RECIPE_RECORDS)


def test_as_it_was_built(built: Path) -> None:
    assert failed(built, read_manifest(built)) == []


def test_every_field(built: Path) -> None:
    """Each fails the check that names it, unless it is a record."""
    text = (built / "manifest.json").read_text(encoding="utf-8")
    places = list(leaves(json.loads(text)))
    silent, unnamed, refused = [], [], []
    for place in places:
        values = json.loads(text)
        change(values, place, edited)
        try:
            manifest = Manifest.from_json(values)
        except ValueError:  # refused while it is read, as schema is
            refused.append(place)
            continue
        found = failed(built, manifest)
        names = " ".join(f"{check.name} {check.evidence}" for check in found)
        if not found and not is_record(place):
            silent.append(place)
        if found and is_record(place):
            unnamed.append(place)
        if place[0] in ("name", "chat") and str(place[1] if len(place) > 1 else place[0]) not in names:
            unnamed.append(place)
    assert silent == []
    assert ("schema",) in refused
    assert [place for place in unnamed if place[1:2] not in (("template",), ("stops",))] == []
    assert {"name", "recipe", "models", "files", "chat", "adapter_files"} <= {str(place[0]) for place in places}


CASES = [
    (("chat", "system"), "You obey me.", "manifest: chat.system", "SYSTEM of Modelfile"),
    (("chat", "system"), None, "manifest: chat.system", "SYSTEM of Modelfile"),
    (("chat", "parameters", "temperature"), "1.5", "manifest: chat.parameters.temperature", "Modelfile"),
    (("chat", "parameters", "stop"), ["END", "e"], "manifest: chat.parameters.stop", "Modelfile"),
    (("chat", "parameters"), {}, "manifest: chat.parameters.num_ctx", "Modelfile"),
    (("chat", "messages"), [], "manifest: chat.messages", "Modelfile"),
    (("chat", "stops"), [], "it-q8_0.gguf: chat template", "llama-3"),
    (("chat", "template"), "chatml", "it-q8_0.gguf: chat template", "llama-3"),
    (("name",), "other", "manifest: name", "chat.sh"),
    (("files",), [], "manifest: files", "also Modelfile, Modelfile.q4_0, chat.sh, chat.ps1, README.md"),
    (("models", 0, "quant"), "q2_k", "manifest: models[0].quant", "general.file_type"),
    (("adapter_files", 0, "alpha"), 3.0, "manifest: adapter_files[0].alpha", "adapter.lora.alpha"),
    (("recipe", "parameters"), [], "manifest: recipe.parameters", "chat.parameters"),
    (("recipe", "template"), "chatml", "manifest: recipe.template", "tokenizer.chat_template"),
    (("recipe", "quants"), ["q8_0"], "manifest: recipe.quants", "models"),
]


@pytest.mark.parametrize(("place", "value", "check", "evidence"), CASES)
def test_a_field(built: Path, place: Place, value: Any, check: str, evidence: str) -> None:
    values = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    change(values, place, lambda old: value)
    found = {one.name: one for one in failed(built, Manifest.from_json(values))}
    assert check in found
    assert any(evidence in one.evidence for one in found.values())


def test_models_in_another_order(built: Path) -> None:
    """The first is what chat and serve load, and what Modelfile and chat.sh name."""
    values = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    values["models"].reverse()
    names = [check.name for check in failed(built, Manifest.from_json(values))]
    assert "manifest: models[0].file" in names


def test_an_edited_system_prompt_in_manifest_and_recipe(built: Path) -> None:
    values = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    values["chat"]["system"] = values["recipe"]["system"] = "You obey me."
    assert [check.name for check in failed(built, Manifest.from_json(values))] == ["manifest: chat.system"]


def test_packages_of_every_shape_pass(built: Path, tmp_path: Path, checkpoint: Maker) -> None:
    """Without a recipe; with a system prompt that only a TEMPLATE or only the script can contain; split."""
    gguf = built / "it-q8_0.gguf"
    for number, system in enumerate((None, "  a \n", 'quotes """ and "', "it's $HOME\n`x`\u200b", "")):
        folder = make_package(gguf, tmp_path / f"package-{number}", system=system, parameters=[("use_mmap", "true")])
        assert failed(folder, read_manifest(folder)) == []
        values = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        values["chat"]["system"] = "other"
        assert "manifest: chat.system" in [check.name for check in failed(folder, Manifest.from_json(values))]
    recipe = Recipe(
        checkpoint("qwen2"), (), ("q8_0",), tmp_path / "split", "s", system="Be brief.", split_max_size=300_000
    )
    folder = build(recipe, verify=False).folder
    assert not (folder / "Modelfile").exists()
    assert failed(folder, read_manifest(folder)) == []
    values = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    values["chat"].update(system="x", parameters={"temperature": "2"})
    names = [check.name for check in failed(folder, Manifest.from_json(values))]
    assert names == [
        "manifest: chat.system",
        "manifest: chat.parameters",
        "manifest: recipe.system",
        "manifest: recipe.parameters",
    ]


def test_the_alpha_in_the_file_is_a_number(built: Path) -> None:
    """So that comparing it means something."""
    entry = read_manifest(built).adapter_files
    assert entry is not None
    assert read_header(built / entry[0].file).value("adapter.lora.alpha") == entry[0].alpha
