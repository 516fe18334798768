"""Files of a chosen size, of the trained model of the demo: llama.cpp's bytes for the printed options, and closer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from quantkit.calibrate.make import make_imatrix
from quantkit.choose.altered import Alterable
from quantkit.choose.divergence import divergence_from, sequences
from quantkit.cli.main import main
from quantkit.demo.data import ADAPTER, BASE
from quantkit.engine.crew import opened_crew
from quantkit.engine.device import Workers
from quantkit.engine.gguf_source import gguf_tensors, open_source
from quantkit.errors import QuantizationError, QuantkitError
from quantkit.ggml.types import FTYPES, GGMLType
from quantkit.gguf.model import read_model
from quantkit.jobs.build import BuildResult, build
from quantkit.jobs.convert import convert
from quantkit.jobs.quantize import quantize
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.verify import verify
from quantkit.material.ask import tokens_of
from quantkit.material.data_file import CALIBRATION, EVALUATION, read_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("choose")


@pytest.fixture(scope="module")
def f16(folder: Path) -> Path:
    return convert(BASE, folder / "f16.gguf", adapters=ADAPTER)


@pytest.fixture(scope="module")
def imatrix(folder: Path, f16: Path) -> Path:
    found = tokens_of(f16, CALIBRATION, 2048)
    make_imatrix(f16, found, folder / "imatrix.gguf", context=512, threads=1)
    return folder / "imatrix.gguf"


@pytest.fixture(scope="module")
def mixture(folder: Path, f16: Path, imatrix: Path) -> Path:
    """llama.cpp's own type."""
    return quantize(f16, folder / "q4_k_m.gguf", quant="q4_k_m", imatrix=imatrix)


@pytest.fixture(scope="module")
def text(folder: Path) -> Path:
    """One short sequence: each of the many evaluations of a choice takes a third of the time."""
    path = folder / "text.txt"
    path.write_text(read_data(CALIBRATION).text[:1200], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(folder: Path, imatrix: Path, mixture: Path, text: Path) -> BuildResult:
    size, out = mixture.stat().st_size, folder / "built"
    return build(BASE, adapters=ADAPTER, size=size, imatrix=imatrix, choice_data=text, name="demo", out=out, threads=1)


def divergences(reference: Path, files: Sequence[Path], kept: Path) -> list[float]:
    """Of text that neither the importances nor the choice have seen."""
    ids = sequences(tokens_of(reference, EVALUATION).ids, 2)
    with divergence_from(reference, ids, kept, threads=1, offload=False) as divergence:
        return [divergence.of(file) for file in files]


def test_the_file_is_no_larger_and_closer_than_the_mixture(
    built: BuildResult, f16: Path, mixture: Path, tmp_path: Path
) -> None:
    choice = built.plan.choice
    assert choice is not None
    file = built.folder / f"demo-{choice.label}.gguf"
    assert file.stat().st_size == choice.nbytes <= mixture.stat().st_size
    ours, theirs = divergences(f16, [file, mixture], tmp_path / "kept")
    assert 0 < ours < theirs
    assert choice.compared is not None
    assert choice.predicted_kl < choice.compared.predicted_kl
    assert choice.gap == 0
    assert read_model(file).value("general.file_type") == FTYPES[choice.quant]


def test_the_printed_options_give_the_same_file(built: BuildResult, f16: Path, imatrix: Path, tmp_path: Path) -> None:
    choice = built.plan.choice
    assert choice is not None
    again = build(
        BASE,
        adapters=ADAPTER,
        quants=choice.quant,
        tensor_types=choice.tensor_types,
        imatrix=imatrix,
        name="demo",
        out=tmp_path / "again",
        verify=False,
    )
    same = again.folder / f"demo-{choice.quant}.gguf"
    made = built.folder / f"demo-{choice.label}.gguf"
    assert hashlib.sha256(same.read_bytes()).digest() == hashlib.sha256(made.read_bytes()).digest()


def test_experts_are_tensors_like_the_others(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = checkpoint("mixtral", layers=1)
    made = build(model, bits=7.0, name="experts", out=tmp_path / "made", verify=False)
    choice = made.plan.choice
    assert choice is not None
    assert len({tensor.type for tensor in choice.tensors if "_exps" in tensor.name}) > 1
    assert not any("ffn_gate_inp" in tensor.name for tensor in choice.tensors)
    again = build(
        model,
        quants=choice.quant,
        tensor_types=choice.tensor_types,
        name="experts",
        out=tmp_path / "again",
        verify=False,
    )
    file, same = made.folder / f"experts-{choice.label}.gguf", again.folder / f"experts-{choice.quant}.gguf"
    assert file.read_bytes() == same.read_bytes()


def test_the_package_says_how_it_was_chosen_and_verifies(built: BuildResult) -> None:
    choice = built.plan.choice
    assert choice is not None
    manifest = json.loads((built.folder / "manifest.json").read_text(encoding="utf-8"))
    report = json.loads((built.folder / "report.json").read_text(encoding="utf-8"))
    assert manifest["choice"] == report["choice"] == choice.to_json()
    page = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
    keys = {key for object_ in (manifest["choice"], *manifest["choice"]["tensors"]) for key in object_}
    assert {key for key in keys if f"`{key}`" not in page} == set()
    assert {tensor["name"]: tensor["type"] for tensor in manifest["choice"]["tensors"]}.items() <= {
        name: slot.type.label for name, slot in built.plan.outputs[0].tensors.items()
    }.items()
    assert verify(built.folder).report.passed
    assert not list(built.folder.parent.glob(".*"))  # no intermediate file is left


@pytest.mark.parametrize("field", ["tensor_types", "tensors", "bytes"])
def test_an_edited_choice_is_found(built: BuildResult, field: str, tmp_path: Path) -> None:
    """Whatever of it leads to another file."""
    folder = tmp_path / "edited"
    shutil.copytree(built.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    choice = manifest["choice"]
    if field == "tensor_types":
        choice[field] = choice[field][1:]
    elif field == "tensors":
        choice[field][0]["type"] = "f32"
    else:
        choice[field] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    failed = [check for check in verify(folder, quick=True).report.checks if not check.passed]
    assert [check.name for check in failed] == [f"manifest: choice.{field}"]


def test_the_choice_is_the_same_with_other_threads(
    built: BuildResult, imatrix: Path, text: Path, tmp_path: Path
) -> None:
    choice = built.plan.choice
    assert choice is not None
    again = build(
        BASE, adapters=ADAPTER, size=int(choice.asked.value), imatrix=imatrix, choice_data=text, name="demo",
        out=tmp_path / "again", threads=3, verify=False,
    )  # fmt: skip
    assert again.plan.choice == choice


@pytest.fixture(scope="module")
def changes(f16: Path, folder: Path) -> list[tuple[list[str], Path]]:
    """Copies of the file in which some tensors are other ones, the tied embedding too."""
    tensors = {tensor.name: tensor for tensor in gguf_tensors(read_model(f16))}
    found = []
    for number, names in enumerate((["blk.0.attn_v.weight"], ["token_embd.weight"], ["blk.1.ffn_down.weight"])):
        copy = Path(shutil.copy(f16, folder / f"changed-{number}.gguf"))
        with open_source(read_model(copy)) as source, opened_crew(Workers(1)) as crew:
            alterable = Alterable(source, {}, crew, folder / "kept-weights")
            with alterable.altered({tensors[name]: GGMLType.Q4_0 for name in names}) as path:
                found.append((names, Path(shutil.copy(path, folder / f"changed-{number}-kept.gguf"))))
    return found


SHORT = [tuple(range(300, 400))]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_loaded_model_follows_its_file(
    f16: Path, changes: list[tuple[list[str], Path]], mapped: bool, tmp_path: Path
) -> None:
    """To the last digit as if each changed file was loaded anew, and back again."""
    one = Path(shutil.copy(f16, tmp_path / "one.gguf"))
    with divergence_from(one, SHORT, tmp_path / "kept", threads=1, offload=False, mapped=mapped) as divergence:
        for names, changed in changes:
            one.write_bytes(changed.read_bytes())  # in place: as the pages that llama.cpp may have
            assert divergence.again(names) == divergence.of(changed) > 0
        one.write_bytes(f16.read_bytes())
        assert divergence.again([]) == 0
        assert not divergence.reloaded


@pytest.mark.parametrize("mapped", [True, False])
def test_what_cannot_be_followed_is_loaded_again(
    f16: Path, changes: list[tuple[list[str], Path]], mapped: bool, tmp_path: Path
) -> None:
    """And said: here a tensor that is in no graph, and a file that is not the one whose pages are loaded."""
    one = Path(shutil.copy(f16, tmp_path / "one.gguf"))
    names, changed = changes[0]
    with divergence_from(one, SHORT, tmp_path / "kept", threads=1, offload=False, mapped=mapped) as divergence:
        Path(shutil.copy(changed, tmp_path / "two.gguf")).replace(one)
        again = divergence.again(names if mapped else ["in.no.graph", *names])
        assert again == divergence.of(changed) > 0
        assert divergence.reloaded == (set(names) if mapped else {"in.no.graph"})


def test_a_file_that_llama_cpp_refuses_is_named(f16: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(f16.read_bytes()[:5000])
    with (
        divergence_from(f16, [tuple(range(100))], tmp_path / "kept", threads=1, offload=False) as divergence,
        pytest.raises(QuantkitError, match=r"broken\.gguf: "),
    ):
        divergence.of(broken)
    assert not (tmp_path / "kept").exists()


def test_without_importances_a_dry_run_tells_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["build", str(BASE), "--bits", "5", "--dry-run", "--json"])
    assert not ended.value.code
    choice = json.loads(capsys.readouterr().out)["choice"]
    assert choice["least"] < choice["bytes"] < choice["most"]
    assert choice["evaluations"] == 1 + len(choice["tensors"])
    assert {kind for kinds in choice["tensors"].values() for kind in kinds}.isdisjoint({"iq2_xxs", "iq2_xs"})


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"bits": 1.5}, "is too small for this model: the smallest file has"),
        ({"bits": 20.0}, "is more than this model can fill"),
        ({"fit": "1MB"}, "is too little memory: without weights the model needs"),
    ],
)
def test_impossible_sizes_are_refused(asked: dict[str, object], expected: str, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=expected):
        build(BASE, out=tmp_path / "out", **asked)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_choice_is_measured_on_the_text_of_the_calibration(
    imatrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another one is given."""
    text, other = tmp_path / "mine.txt", tmp_path / "other.txt"
    for path in (text, other):
        path.write_text(EVALUATION.read_text(encoding="utf-8"), encoding="utf-8")
    asked: list[Path | None] = []

    def choose(recipe: Recipe, *others: object) -> None:
        asked.append(recipe.choice_data)
        raise QuantkitError("far enough")

    monkeypatch.setattr("quantkit.jobs.choose.with_choice", choose)
    monkeypatch.setattr(
        "quantkit.jobs.build_calibration.make_imatrix",
        lambda gguf, tokens, out, **options: shutil.copy(imatrix, out),
    )
    for given in (None, other):
        with pytest.raises(QuantkitError, match="far enough"):
            build(BASE, bits=7.0, calibrate=text, choice_data=given, out=tmp_path / "out", verify=False)
    assert asked == [text, other]


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match=r"no\.txt: cannot be read"):
        build(BASE, bits=5.0, choice_data=tmp_path / "no.txt", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_text_that_is_too_short_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("A ship. A sea.\n", encoding="utf-8")
    with pytest.raises(QuantkitError, match=r"short\.txt: \d+ tokens are too few to choose types by; at least 256"):
        build(BASE, bits=7.0, choice_data=text, out=tmp_path / "out", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]
