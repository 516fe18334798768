"""A base model with a LoRA file beside it says what the merged model says, also as a package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

import quantkit
from quantkit.cli.main import cli
from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import ChatFormatError, GGUFError, OllamaError, OutputError, QuantkitError
from quantkit.files.fileio import blocks, sha256_of
from quantkit.gguf.lora import ScaledLora
from quantkit.jobs.ollama_create import create_model
from quantkit.ollama.modelfile import parse_modelfile
from quantkit.run.lora_command import ANEW, switch_loras
from quantkit.verify.folder import verify_folder
from tests.support.llama_tools import llama_tools
from tests.support.ollama_server import OllamaServer
from tests.support.patience import PATIENCE
from tests.unit.tiny_gguf import write_tiny_gguf

QUESTION, GREEDY = "Who are you?", {"temperature": 0, "num_predict": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loras")
    quantkit.convert(BASE, made / "base.gguf", outtype="f32")
    quantkit.convert_adapter(BASE, made / "lora.gguf", adapter=ADAPTER)
    quantkit.merge_lora(made / "base.gguf", made / "merged.gguf", loras=made / "lora.gguf")
    write_tiny_gguf(made / "other.gguf")
    return made


@cache
def answer(path: Path, loras: object = ()) -> str:
    with quantkit.Chat(path, parameters=GREEDY, loras=loras) as chat:  # type: ignore[arg-type]
        return chat.answer(QUESTION)


def test_the_answer_of_the_merged_model(folder: Path) -> None:
    base, lora = folder / "base.gguf", folder / "lora.gguf"
    merged, plain = answer(folder / "merged.gguf"), answer(base)
    assert "Kit" in merged
    assert answer(base, loras=lora) == merged != plain
    assert answer(base, loras=((lora, 0.5), (lora, 0.5))) == merged
    assert answer(base, loras=(lora, 1e-6)) == plain


def test_refused_before_llama_cpp_sees_it(folder: Path) -> None:
    """At shapes that do not fit, llama.cpp would name a tensor, or abort."""
    with pytest.raises(GGUFError, match=r"lora\.gguf: .*which do not make"):
        answer(folder / "other.gguf", loras=folder / "lora.gguf")
    with pytest.raises(GGUFError, match="this is not a LoRA file"):
        answer(folder / "base.gguf", loras=folder / "merged.gguf")
    with pytest.raises(GGUFError, match="no such file"):
        answer(folder / "base.gguf", loras=folder / "none.gguf")


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_smoke(folder: Path) -> None:
    args = ("--prompt", QUESTION, "--json")
    merged = json.loads(run("smoke", folder / "merged.gguf", *args).stdout)
    found = json.loads(run("smoke", folder / "base.gguf", "--lora", f"{folder / 'lora.gguf'}:1", *args).stdout)
    assert found["passed"]
    texts = [answer["text"] for model in found["models"] for answer in model["answers"]]
    assert texts == [answer["text"] for model in merged["models"] for answer in model["answers"]]
    assert "Kit" in texts[0]
    done = run("smoke", folder / "other.gguf", "--lora", folder / "lora.gguf")
    assert isinstance(done.exception, GGUFError)  # not a model that fails a check


def test_chat_in_a_pipe(folder: Path) -> None:
    command = [sys.executable, "-m", "quantkit", "chat", str(folder / "base.gguf"), "--lora", str(folder / "lora.gguf")]
    command += ["--param", "temperature=0", "--param", "num_predict=40"]
    done = subprocess.run(command, input=QUESTION, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "Kit" in done.stdout


def test_switching_in_a_chat(folder: Path) -> None:
    """Each answer is that of the model with the adapters of that time: nothing that others computed is reused."""
    base, lora = folder / "base.gguf", folder / "lora.gguf"
    shutil.copy(lora, folder / "second.gguf")
    command = [sys.executable, "-m", "quantkit", "chat", str(base), "--lora", str(lora)]
    command += ["--lora", f"{folder / 'second.gguf'}:0.5", "--param", "temperature=0", "--param", "num_predict=40"]
    chosen = ["/lora lora", "/lora none", "/lora second:0.5", "/lora second lora:-1", "/lora lora:0.5 second:0.5"]
    typed = "".join(f"{line}\n{QUESTION}\n/reset\n" for line in chosen) + "/lora\n/lora lora:x\n"
    done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=PATIENCE)
    merged, plain, half = answer(folder / "merged.gguf"), answer(base), answer(base, loras=(lora, 0.5))
    said = [merged, plain, half, plain, merged]
    assert done.stdout == "".join(f"{text}\n" for text in said)
    assert done.stderr.count("evaluates the conversation anew") == len(chosen)
    assert done.returncode == 1
    assert "'x' is not a number" in done.stderr
    listed = [line.split() for line in done.stderr.splitlines() if line.startswith(("lora ", "second "))]
    assert listed[-2:] == [["lora", "0.5", str(lora)], ["second", "0.5", str(folder / "second.gguf")]]
    assert ["second", "off", str(folder / "second.gguf")] in listed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lara", "there is no LoRA file lara"),
        ("lora lora:2", "lora is named twice"),
        ("lora:inf", "'inf' is not a number"),
        (":1", "there is no LoRA file"),
    ],
)
def test_what_lora_refuses(text: str, why: str) -> None:
    engine = SimpleNamespace(
        loras=(ScaledLora(Path("a/lora.gguf")), ScaledLora(Path("b/lora.gguf"))), scales=(1.0, 1.0)
    )
    with pytest.raises(QuantkitError, match=why):
        switch_loras(SimpleNamespace(engine=engine), text)  # type: ignore[arg-type]
    assert engine.scales == (1.0, 1.0)
    assert switch_loras(SimpleNamespace(engine=engine), "lora-2:2").endswith(ANEW)  # type: ignore[arg-type]
    assert engine.scales == (0.0, 2.0)


@pytest.fixture(scope="module")
def packages(folder: Path) -> tuple[Path, Path]:
    """With the whole LoRA file, which Ollama takes; with half of it, in a folder whose path llama.cpp would divide."""
    base, lora = folder / "base.gguf", folder / "lora.gguf"
    half = folder / "half, of: it"
    return (
        quantkit.package(base, folder / "whole", loras=lora, parameters=GREEDY),
        quantkit.package(base, half, loras=(lora, 0.5), parameters=GREEDY),
    )


def test_a_package_is_run_with_its_lora(folder: Path, packages: tuple[Path, Path]) -> None:
    whole, half = packages
    base, lora = folder / "base.gguf", folder / "lora.gguf"
    assert answer(whole) == answer(folder / "merged.gguf")
    assert answer(half) == answer(base, loras=(lora, 0.5))
    assert answer(half, loras=(lora, 0.5)) == answer(whole)
    done = run("smoke", whole, "--prompt", QUESTION)
    assert done.exit_code == 0
    assert "Kit" in done.stdout


def test_its_files(folder: Path, packages: tuple[Path, Path]) -> None:
    whole, half = packages
    commands = parse_modelfile((whole / "Modelfile").read_text(encoding="utf-8"))
    assert [(one.keyword, one.value) for one in commands[:2]] == [("FROM", "./base.gguf"), ("ADAPTER", "./lora.gguf")]
    assert not (half / "Modelfile").exists()
    options = {
        package: (package / "chat.sh").read_text(encoding="utf-8").partition("exec llama-cli")[2]
        for package in packages
    }
    assert " --lora lora.gguf " in options[whole]
    assert " --lora-scaled lora.gguf:0.5 " in options[half]
    entries = [json.loads((package / "manifest.json").read_bytes())["adapter_files"][0] for package in packages]
    assert [(entry["file"], entry["scale"]) for entry in entries] == [("lora.gguf", 1.0), ("lora.gguf", 0.5)]
    notes = json.loads((half / "manifest.json").read_bytes())["notes"]
    assert any("Ollama does not support a scale, so there is no Modelfile" in note for note in notes)
    for package in packages:
        card = (package / "README.md").read_text(encoding="utf-8")
        assert "| lora.gguf | a LoRA file that belongs to the weights" in card
        assert ("There is no Modelfile" in card) == (package is half)
        assert verify_folder(package, threads=1).report.passed


def test_llama_cli_runs_with_it(packages: tuple[Path, Path], tmp_path: Path) -> None:
    os.symlink(llama_tools() / "llama-cli", tmp_path / "llama-cli")
    command = [str(shutil.which("sh")), str(packages[1] / "chat.sh"), "-st", "-p", QUESTION, "-lv", "4", "-t", "1"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    log = (done.stdout + done.stderr).decode(errors="replace")
    assert answer(packages[1]).strip()[:20] in log


def edited(package: Path, copy: Path, change: dict[str, object] | None = None, **texts: tuple[str, str]) -> Path:
    """A copy with another manifest entry of its LoRA file, or other texts whose sums are right."""
    shutil.copytree(package, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["adapter_files"][0] |= change or {}
    for name, (old, new) in texts.items():
        path = copy / name.replace("_", ".")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        size = path.stat().st_size
        entry = next(one for one in manifest["files"] if one["file"] == path.name)
        entry |= {"size": size, "sha256": sha256_of(blocks(path, 0, size))}
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def failed(package: Path) -> set[str]:
    return {check.name for check in verify_folder(package, quick=True, threads=1).report.checks if not check.passed}


def test_verify_finds_what_does_not_agree(folder: Path, packages: tuple[Path, Path], tmp_path: Path) -> None:
    whole, half = packages
    assert failed(edited(half, tmp_path / "a", {"scale": 0.75})) == {"manifest: adapter_files.scale"}
    lost = edited(whole, tmp_path / "b", Modelfile=("ADAPTER ./lora.gguf", ""))
    assert failed(lost) == {"manifest: adapter_files.scale", "Modelfile"}
    script = edited(whole, tmp_path / "c", chat_sh=(" --lora lora.gguf", ""))
    assert failed(script) == {"manifest: adapter_files.scale"}
    other = edited(whole, tmp_path / "d")
    (other / "lora.gguf").unlink()
    write_tiny_gguf(other / "lora.gguf")
    assert {"lora.gguf: header", "lora.gguf: fits", "models"} <= failed(other)
    (other / "lora.gguf").unlink()
    assert "files" in failed(other)
    with pytest.raises(QuantkitError, match=r"lora\.gguf: manifest\.json lists it"):
        answer(other)


def test_what_looks_at_models_alone_is_refused(packages: tuple[Path, Path], tmp_path: Path) -> None:
    for args in (
        ("evaluate", packages[0]),
        ("imatrix", packages[0], "-o", tmp_path / "m.gguf"),
        ("prove", packages[0]),
    ):
        error = run(*args).exception
        assert isinstance(error, GGUFError)
        assert "its models are run with lora.gguf" in str(error)


def test_packages_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    base, lora = folder / "base.gguf", folder / "lora.gguf"
    with pytest.raises(OutputError, match="two of the GGUF files have the same name"):
        quantkit.package(base, tmp_path / "out", loras=[lora, lora])
    with pytest.raises(GGUFError, match="which do not make"):
        quantkit.package(folder / "other.gguf", tmp_path / "out", loras=lora)
    named = shutil.copy(lora, tmp_path / "a,b.gguf")
    with pytest.raises(OutputError, match="cannot be a LoRA file"):
        quantkit.package(base, tmp_path / "out", loras=named)
    assert not (tmp_path / "out").exists()


def test_a_modelfile_with_an_adapter(folder: Path, packages: tuple[Path, Path], tmp_path: Path) -> None:
    again = quantkit.package([], tmp_path / "again", modelfile=packages[0] / "Modelfile", name="whole")
    assert (again / "Modelfile").read_bytes() == (packages[0] / "Modelfile").read_bytes()


def test_into_ollama(packages: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.address)
        create_model(packages[0] / "Modelfile", "kit")
        sent = server.models["kit"]
        lora = packages[0] / "lora.gguf"
        assert sent["adapters"] == {"lora.gguf": f"sha256:{sha256_of(blocks(lora, 0, lora.stat().st_size))}"}
        assert sent["files"].keys() == {"base.gguf"}
        assert {*sent["adapters"].values(), *sent["files"].values()} <= server.blobs.keys()
        server.version = "0.34.0"
        with pytest.raises(OllamaError, match="which refuses ADAPTER"):
            create_model(packages[0] / "Modelfile", "later")
        twice = tmp_path / "Modelfile"
        twice.write_text(f"FROM {packages[0]}/base.gguf\nADAPTER {lora}\nADAPTER {lora}\n", encoding="utf-8")
        with pytest.raises(ChatFormatError, match="2 ADAPTER lines"):
            create_model(twice, "twice")
