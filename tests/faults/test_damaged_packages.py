"""``quantkit verify``: what happened to a package since it was built, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantkit.cli.main import main
from quantkit.errors import QuantkitError, VocabularyError
from quantkit.gguf.header import read_header
from quantkit.jobs.build import build
from quantkit.jobs.recipe import Recipe
from quantkit.package.manifest import read_manifest
from quantkit.verify.folder import FolderReport, verify_folder
from quantkit.verify.manifest_fields import check_fields
from quantkit.verify.report import Check
from quantkit.verify.structure import check_files, check_modelfiles, check_models
from tests.faults.cli import Outcome, run_here

Maker = Callable[..., Path]
Capsys = pytest.CaptureFixture[str]
GGUF = "it-q8_0.gguf"


@pytest.fixture(scope="module")
def source(checkpoint: Maker) -> Path:
    return checkpoint("llama3-untied", layers=1)


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified package, not to be changed."""
    out = tmp_path_factory.mktemp("built") / "it"
    return build(Recipe(source, (), ("q8_0",), out, "it", system="Be brief. 请简短。")).folder


@pytest.fixture
def package(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "package"))


def structure(folder: Path, *, sha256: bool = False) -> dict[str, Check]:
    """The checks that load no model."""
    manifest = read_manifest(folder)
    found, models = check_files(folder, manifest), {}
    for listed, model, checks in check_models(folder, manifest, sha256=sha256, advance=lambda amount: None):
        found += checks
        if model is not None:
            models[listed.file] = model
    found += [*check_modelfiles(folder, manifest), *check_fields(folder, manifest, models)]
    return {check.name: check for check in found}


def failed(folder: Path, *, sha256: bool = False) -> list[str]:
    return [name for name, check in structure(folder, sha256=sha256).items() if not check.passed]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def swap_byte(path: Path, offset: int) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        (byte,) = file.read(1)
    overwrite(path, offset, bytes([byte ^ 1]))


def test_a_package_as_it_was_built(package: Path) -> None:
    found = structure(package, sha256=True)
    assert [name for name, check in found.items() if not check.passed] == []
    assert list(found) == [
        "files",
        "text files",
        "unexpected files",
        f"{GGUF}: header",
        f"{GGUF}: tensors",
        f"{GGUF}: chat template",
        "Modelfile",
        "manifest",
        "scripts and Modelfiles",
    ]
    assert found["files"].figure == "5 of 5"
    assert found["unexpected files"].figure == "none"


def test_a_file_that_is_gone(package: Path) -> None:
    (package / "chat.sh").unlink()
    (package / GGUF).unlink()
    found = structure(package)
    assert not found["files"].passed
    assert (found["files"].figure, found["files"].evidence) == ("3 of 5", f"missing: chat.sh, {GGUF}")
    assert "it, which does not exist" in found["Modelfile"].evidence.replace(f"./{GGUF}", "it")


def test_a_file_that_was_added_is_named_and_no_fault(package: Path) -> None:
    (package / "notes.txt").write_text("mine", encoding="utf-8")
    found = structure(package)
    assert found["unexpected files"].figure == "notes.txt"
    assert all(check.passed for check in found.values())


@pytest.mark.parametrize(
    ("old", "new", "also"),
    [
        ("num_ctx", "num_gpu", []),
        (f"FROM ./{GGUF}", "FROM llama3", ["Modelfile"]),
        (f"FROM ./{GGUF}", "FROM ../other.gguf", ["Modelfile"]),
        (f"FROM ./{GGUF}", f"FROM ./chat.sh\n# {GGUF}", ["Modelfile"]),
        (f"FROM ./{GGUF}", "FORM x", ["Modelfile"]),
    ],
)
def test_an_edited_modelfile(package: Path, old: str, new: str, also: list[str]) -> None:
    edit(package / "Modelfile", old, new)
    found = structure(package)
    assert [name for name, check in found.items() if not check.passed] == ["text files", *also]
    assert found["text files"].evidence.endswith(": Modelfile")


def test_a_modelfile_that_is_no_text(package: Path) -> None:
    (package / "Modelfile").write_bytes(b"FROM \xff\xfe")
    assert failed(package) == ["text files", "Modelfile"]


def test_a_byte_of_a_tensor(package: Path) -> None:
    """Only reading everything finds it."""
    header = read_header(package / GGUF)
    info = header.tensors["output.weight"]
    swap_byte(package / GGUF, header.data_offset + info.offset + 5)
    assert failed(package) == []
    found = structure(package, sha256=True)[f"{GGUF}: tensors"]
    assert (found.passed, found.figure, found.evidence) == (False, "1 changed", "changed: output.weight")


def test_a_file_that_is_cut_off(package: Path) -> None:
    path = package / GGUF
    path.write_bytes(path.read_bytes()[:-1000])
    found = structure(package)[f"{GGUF}: header"]
    assert (found.passed, found.figure) == (False, "damaged")


def test_a_file_that_has_grown(package: Path) -> None:
    with (package / GGUF).open("ab") as file:
        file.write(b"\0" * 64)
    assert "bytes, but the manifest says" in structure(package)[f"{GGUF}: header"].evidence


def test_a_changed_entry_of_the_header(package: Path) -> None:
    """Of any metadata: here the context's length."""
    key = b"llama.context_length"
    at = (package / GGUF).read_bytes().index(key) + len(key) + 4
    overwrite(package / GGUF, at, b"\x10\0\0\0")
    found = structure(package)[f"{GGUF}: header"]
    assert (found.passed, found.figure) == (False, "changed")
    assert "metadata or vocabulary were changed" in found.evidence
    # Packages of the first version have no sum of it; then the Modelfile contradicts the model's context.
    edit_manifest(package, lambda manifest: [model.pop("headers") for model in manifest["models"]])
    found = structure(package)
    assert [name for name, check in found.items() if not check.passed][:1] == ["manifest: chat.parameters.num_ctx"]
    assert found["manifest: chat.parameters.num_ctx"].evidence == (
        f"manifest.json, from context_length of {GGUF}, says '16', but Modelfile says '8192'"
    )


@pytest.mark.parametrize(
    ("old", "new", "figure"),
    [
        (b"<|end_header_id|>\n\n'+", b"<|end_header_id|>\\t'+", "generic"),
        (b"{% set content = ", b"{% set content @ ", "broken"),
    ],
)
def test_another_chat_template(package: Path, old: bytes, new: bytes, figure: str) -> None:
    data = (package / GGUF).read_bytes()
    assert len(old) == len(new)
    overwrite(package / GGUF, data.index(old, data.index(b"tokenizer.chat_template")), new)
    assert failed(package) == [f"{GGUF}: header", f"{GGUF}: chat template"]
    found = structure(package)[f"{GGUF}: chat template"]
    assert (found.figure, found.threshold) == (figure, "llama-3, ending at <|eot_id|>")


def test_tensors_that_are_not_those_of_the_manifest(package: Path) -> None:
    edit_manifest(package, lambda manifest: manifest["models"][0]["tensors"].pop("output.weight"))
    assert structure(package)[f"{GGUF}: header"].evidence == "tensors differ: output.weight"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.update(schema=2), '"schema" is 2'),
        (lambda m: m.pop("models"), '"models" is missing'),
        (lambda m: m.update(models=[]), '"models" is empty'),
        (
            lambda m: m["models"][0].update(file="../it.gguf"),
            "must be the name of a file in the folder, not '../it.gguf'",
        ),
        (lambda m: m["models"][0].update(parts=["/etc/passwd"]), '"models[0].parts" must be the name of a file in the'),
        (lambda m: m["models"][0].update(parts=["other.gguf"]), "must be a list that begins with 'it-q8_0.gguf'"),
        (lambda m: m["models"][0].update(file=".."), "must be the name of a file in the folder, not '..'"),
        (lambda m: m["models"][0].update(headers={"../x": "y"}), '"models[0].headers" must be the name of a file in'),
        (lambda m: m["files"][0].update(file="a\\b"), '"files[0].file" must be the name of a file in the folder'),
        (lambda m: m["files"][0].update(sha256=3), '"files[0].sha256" must be a text, not 3'),
        (lambda m: m["chat"].update(stops=[1]), '"chat.stops" must be a list of texts, not [1]'),
        (lambda m: m.update(chat=None), '"chat" must be an object, not None'),
        (lambda m: m["files"][0].update(size=float("inf")), "not valid JSON (Infinity is not a number in JSON)"),
        (lambda m: m["files"][0].update(size=-1), '"files[0].size" must be a whole number from 0 on, not -1'),
    ],
)
def test_a_manifest_that_is_none(package: Path, change: Callable[[dict[str, Any]], object], why: str) -> None:
    edit_manifest(package, change)
    with pytest.raises(QuantkitError, match=r"manifest\.json") as refused:
        verify_folder(package)
    assert why in str(refused.value)


# -- with the models -------------------------------------------------------------------------------------------------


def checked(found: FolderReport) -> list[str]:
    return [check.name for check in found.report.checks if not check.passed]


def test_prompts_are_those_that_the_build_kept(package: Path) -> None:
    found = verify_folder(package, threads=1)
    assert checked(found) == []
    check = next(check for check in found.report.checks if check.name == f"{GGUF}: prompt token ids")
    assert check.threshold == "the ids of the build in every prompt"
    assert check.evidence == "12 prompts"  # one of them has the package's system prompt
    assert [text.partition(" (")[0] for text in found.report.not_made] == ["token ids of single texts"]
    kept = json.loads((package / "report.json").read_text(encoding="utf-8"))
    kept["prompts"][3]["ids"] = kept["prompts"][3]["ids"].replace(" ", " 7 ", 1)
    (package / "report.json").write_text(json.dumps(kept), encoding="utf-8")
    assert checked(verify_folder(package, threads=1)) == [f"{GGUF}: prompt token ids"]
    kept["prompts"][3] = None
    (package / "report.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(QuantkitError, match=r"report\.json are damaged"):
        verify_folder(package)


def test_a_flipped_byte_is_found_unless_quick(package: Path, capsys: Capsys) -> None:
    header = read_header(package / GGUF)
    info = header.tensors["blk.0.attn_k.weight"]
    swap_byte(package / GGUF, header.data_offset + info.offset + 5)
    outcome = run_here(["verify", str(package)], capsys)
    assert outcome.code == 3
    assert f"{GGUF}: tensors" in outcome.only("error")
    assert "changed: blk.0.attn_k.weight" in outcome.stdout
    quick = run_here(["verify", str(package), "--quick"], capsys)
    assert quick.code == 0
    assert "not checked: checksums of the weights (left out by --quick)" in quick.stdout
    assert "checks passed" in quick.stdout.splitlines()[-1]
    both = run_here(["verify", str(package), "--quick", "--sha256"], capsys)
    assert (both.code, both.stdout) == (1, "")
    assert "--quick and --sha256 contradict each other" in both.only("error")


def test_what_could_not_be_compared_is_said(package: Path) -> None:
    (package / "report.json").unlink()
    found = verify_folder(package, threads=1)
    assert checked(found) == []
    assert not any("prompt token ids" in check.name for check in found.report.checks)
    assert [text for text in found.report.not_made if text.startswith("prompt token ids: the package does not have")]
    assert all("--s" in text for text in found.report.not_made)


def test_the_source_itself(package: Path, source: Path, checkpoint: Maker, capsys: Capsys) -> None:
    (package / "report.json").unlink()
    outcome = run_here(["verify", str(package), "--source", str(source), "--sha256", "--json"], capsys)
    assert outcome.code == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert (found["schema"], found["passed"], found["not_made"]) == (1, True, [])
    names = [check["name"] for check in found["checks"]]
    assert {f"{GGUF}: token ids match tokenizer.json", f"{GGUF}: prompt token ids", f"{GGUF}: prompt BOS"} <= {*names}
    assert found["sums"].keys() == {GGUF, "Modelfile", "chat.sh", "chat.ps1", "README.md"}
    # Another model's tokenizer.
    outcome = run_here(["verify", str(package), "--source", str(checkpoint("qwen2")), "--json"], capsys)
    assert outcome.code == 3
    wrong = [check["name"] for check in json.loads(outcome.stdout)["checks"] if not check["passed"]]
    names = ("text of the chat template", "token ids match tokenizer.json", "prompt token ids")
    assert wrong == [f"{GGUF}: {name}" for name in names]


@pytest.mark.parametrize("tokenizer", ["[1]", '{"version": "1.0"}'])
def test_a_source_whose_tokenizer_is_broken(package: Path, tmp_path: Path, capsys: Capsys, tokenizer: str) -> None:
    """The source is wrong then, and not the package."""
    (tmp_path / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    outcome = run_here(["verify", str(package), "--source", str(tmp_path), "--json"], capsys)
    error = json.loads(outcome.stdout)["error"]
    assert (outcome.code, error["message"]) == (1, outcome.only("error"))
    assert f"{tmp_path / 'tokenizer.json'}: not a tokenizer" in error["message"]
    assert error["hint"] == outcome.only("hint") == VocabularyError.default_hint


def test_what_a_failed_smoke_test_leaves_out_is_said(package: Path) -> None:
    data = (package / GGUF).read_bytes()
    overwrite(package / GGUF, data.index(b"{% set content", data.index(b"tokenizer.chat_template")), b"{% sat")
    found = verify_folder(package, threads=1)
    assert f"{GGUF}: chat template renders" in checked(found)
    assert f"{GGUF}: stops at end of turn, prompt token ids (an earlier check failed)" in found.report.not_made


def test_a_package_does_not_command_a_terminal(package: Path, capsys: Capsys) -> None:
    (package / "x\x1b[2J\u202e").write_text("", encoding="utf-8")
    edit_manifest(package, lambda manifest: manifest["chat"].update(template="a\x1b]0;t\x07\nok", stops=["\u2028"]))
    outcome = run_here(["verify", str(package)], capsys)
    assert outcome.code == 3
    assert "x␛[2J�" in outcome.stdout
    assert "(must be: a␛]0;t␇ ok, ending at �)" in outcome.stdout
    with pytest.raises(SystemExit):
        main(["verify", f"{package}\x1b[2J\u2028\nhint: x"])
    assert "␛[2J� hint: x: no such folder\nhint: " in capsys.readouterr().err


def test_a_failed_check_is_exit_code_3(package: Path, capsys: Capsys) -> None:
    edit(package / "README.md", "#", "##")
    overwrite(package / GGUF, 0, b"XXXX")  # no model is left to load
    outcome: Outcome = run_here(["verify", str(package), "--quick"], capsys)
    assert outcome.code == 3
    assert "3 of 7 checks failed: text files, it-q8_0.gguf: header, models" in outcome.only("error")
    assert "changed since the package was made: README.md" in outcome.stdout
    assert "not a GGUF file" in outcome.stdout
    assert "not checked: checksums of the weights (left out by --quick)" in outcome.stdout


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_no_color(
    package: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, variable: str, coloured: bool
) -> None:
    """In a terminal, whose part click's own question plays here."""
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream=None, color=None: color is False)
    monkeypatch.setenv("NO_COLOR", variable)
    overwrite(package / GGUF, 0, b"XXXX")
    outcome = run_here(["verify", str(package), "--quick"], capsys)
    assert outcome.code == 3
    assert ("\x1b[" in outcome.stdout) is coloured


@pytest.mark.parametrize("where", ["nowhere", "empty", "file"])
def test_what_is_no_package_is_exit_code_1(tmp_path: Path, where: str, capsys: Capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    outcome = run_here(["verify", str(tmp_path / where)], capsys)
    assert outcome.code == 1
    assert where in outcome.only("error")
    assert ("this is a file" in outcome.only("error")) is (where == "file")
    assert ("quantkit smoke" in outcome.only("hint")) is (where == "file")
    assert outcome.stdout == ""
