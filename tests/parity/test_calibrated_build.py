"""``build --calibrate``: its files are those of ``quantkit imatrix`` and then ``build --imatrix``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from quantkit.cli.main import cli
from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import QuantkitError
from quantkit.files.json_file import read_json
from quantkit.jobs.build import build
from quantkit.jobs.imatrix import imatrix
from quantkit.jobs.plan import plan
from quantkit.jobs.run_stream import run_stream
from quantkit.jobs.verify import verify
from quantkit.material.data_file import EVALUATION, read_data
from quantkit.package.manifest import read_manifest
from quantkit.plan.imatrix import expected_importance, read_imatrix
from quantkit.system.progress import Reporter

QUICK: Any = {"threads": 1, "verify": False}
Maker = Callable[..., Path]
QUANTS = ("iq2_xxs", "q4_k_m")
LABELS = (*QUANTS, "f16")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text(read_data(EVALUATION).text[:8000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "kit"
    streams: list[tuple[str, list[str]]] = []

    def recorded(tensors: Any, outputs: Any, source: Any, *others: Any, **options: Any) -> Any:
        streams.append((type(source).__name__, [output.label for output in outputs]))
        return run_stream(tensors, outputs, source, *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantkit.jobs.unquantized.run_stream", recorded)
        build(BASE, adapters=ADAPTER, quants=QUANTS, keep_f16=True, name="kit", out=out, calibrate=data, **QUICK)
    assert streams == [("Merger", ["f16"]), ("GGUFSource", list(QUANTS))]  # merged once, written once
    return out


def test_the_bytes_are_those_of_two_commands(package: Path, data: Path, tmp_path: Path) -> None:
    made = imatrix(BASE, tmp_path / "matrix.gguf", adapters=ADAPTER, data=data, threads=1)
    assert (package / "kit-imatrix.gguf").read_bytes() == made.file.read_bytes()
    apart = tmp_path / "apart"
    build(BASE, adapters=ADAPTER, quants=QUANTS, keep_f16=True, name="kit", out=apart, imatrix=made.file, **QUICK)
    for label in LABELS:
        assert (package / f"kit-{label}.gguf").read_bytes() == (apart / f"kit-{label}.gguf").read_bytes()
    for key in ("models", "effects"):
        assert read_json(package / "manifest.json")[key] == read_json(apart / "manifest.json")[key]
    names = {path.name for path in package.iterdir()}
    assert names == {path.name for path in apart.iterdir()} | {"kit-imatrix.gguf"}


def test_the_manifest_says_what_it_was_made_from(package: Path, data: Path) -> None:
    matrix = read_manifest(package).imatrix
    assert matrix is not None
    assert (matrix.file, matrix.data, matrix.data_sha256) == ("kit-imatrix.gguf", "text.txt", read_data(data).sha256)
    assert matrix.tokens % matrix.context == 0
    recipe = read_json(package / "manifest.json")["recipe"]
    assert (recipe["calibrate"], recipe["imatrix"]) == ("text.txt", None)
    assert "calibrate" in read_json(package / "report.json")["seconds"]


def test_verify_knows_the_matrix(package: Path) -> None:
    def checks() -> dict[str, tuple[bool, str]]:
        return {check.name: (check.passed, check.evidence) for check in verify(package, quick=True).report.checks}

    found = checks()
    assert found["files"][0]
    assert found["text files"][0]
    assert found["unexpected files"][1] == "files that are not in the manifest"
    path = package / "kit-imatrix.gguf"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "kit-imatrix.gguf" in checks()["text files"][1]
        assert not checks()["text files"][0]
        path.unlink()
        assert not checks()["files"][0]
    finally:
        path.write_bytes(whole)


def test_the_plan_knows_which_tensors_will_have_importances(package: Path) -> None:
    planned = plan(BASE, adapters=ADAPTER, quants=QUANTS, keep_f16=True, name="kit", calibrate="auto")
    expected = expected_importance(planned.tensors)
    found = read_imatrix(package / "kit-imatrix.gguf")
    assert {name: values.size for name, values in expected.items()} == {n: v.size for n, v in found.items()}
    sizes = {output.file: output.nbytes for output in planned.outputs}
    assert sizes == {file: (package / file).stat().st_size for file in sizes}


@pytest.mark.parametrize("kind", ["mixtral", "qwen2-moe", "qwen3-moe", "gemma3", "llama3-tied"])
def test_so_it_does_in_other_families(checkpoint: Maker, data: Path, tmp_path: Path, kind: str) -> None:
    made = imatrix(checkpoint(kind), tmp_path / "matrix.gguf", data=data, context=64, chunks=2, threads=1)
    expected = expected_importance(plan(checkpoint(kind), quants="q4_k_m", calibrate=data).tensors)
    found = read_imatrix(made.file)
    assert {name: values.size for name, values in expected.items()} == {n: v.size for n, v in found.items()}


def test_what_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    bad = tmp_path / "train.jsonl"
    bad.write_text('{"instruction": "a", "output": "b"}\n{"text": "c"}\n', encoding="utf-8")
    short = tmp_path / "short.txt"
    short.write_text("A few words.", encoding="utf-8")
    for settings, message in (
        ({"calibrate": bad}, r"train\.jsonl: line 2: has the keys 'text'"),
        ({"calibrate": short}, r"short\.txt: [0-9]+ tokens; two chunks of 512 are the least"),
        ({"calibrate": "auto", "quants": "f16"}, "no file of this build is quantized"),
    ):
        reporter = Reporter()
        with pytest.raises(QuantkitError, match=message):
            build(BASE, out=tmp_path / "out", name="kit", reporter=reporter, **settings)
        assert not (tmp_path / "out").exists()


def test_a_recipe_file_and_the_plan_on_the_command_line(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'model = "{BASE}"\nquants = ["iq2_xxs"]\ncalibrate = "auto"\n', encoding="utf-8")
    done = CliRunner().invoke(cli, ["build", "--recipe", str(recipe), "--dry-run", "--json"])
    assert done.exception is None, done.output
    said = json.loads(done.output)
    assert [output["quant"] for output in said["outputs"]] == ["iq2_xxs"]
    assert any("importance matrix is computed first" in note for note in said["notes"])
