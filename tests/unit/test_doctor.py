"""The doctor looks at real and at broken machines and never fails."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from quantkit.cli.doctor import command
from quantkit.jobs import doctor
from quantkit.kernels import cuda, cuda_driver
from tests.support.patience import PATIENCE

NAMES = (
    "python", "torch", "cuda", "llama-cpp-python", "transformers", "peft", "safetensors", "gguf", "numba", "ollama",
    "compiler", "processors", "memory", "disk",
)  # fmt: skip


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!{shutil.which('sh')}\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_this_machine(tmp_path: Path) -> None:
    diagnosis = doctor.diagnose(tmp_path)
    assert tuple(finding.name for finding in diagnosis.findings) == NAMES
    assert diagnosis.ok
    assert all(finding.value for finding in diagnosis.findings)
    found = {finding.name: finding.value for finding in diagnosis.findings}
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["llama-cpp-python"].startswith(importlib.metadata.version("llama_cpp_python"))
    assert str(tmp_path) in found["disk"]


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(command, ["--json"])
    content = json.loads(result.output)
    assert (content["schema"], content["ok"]) == (1, True)
    assert tuple(finding["name"] for finding in content["findings"]) == NAMES
    assert set(content["findings"][0]) == {"name", "ok", "value", "advice"}


def test_text() -> None:
    lines = CliRunner().invoke(command, []).output.splitlines()
    assert any(line.startswith("ok       torch") for line in lines)


def test_a_machine_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity")
    diagnosis = doctor.diagnose(tmp_path / "gone")
    assert not diagnosis.ok
    bad = {finding.name: finding for finding in diagnosis.findings if not finding.ok}
    assert set(bad) == {"torch", "llama-cpp-python", "transformers", "peft", "safetensors", "gguf", "disk"}
    assert all(finding.advice for finding in bad.values())
    found = {finding.name: finding.value for finding in diagnosis.findings}
    assert (found["ollama"], found["compiler"]) == ("not on the PATH", "none")
    assert found["memory"] == "unknown on this system"
    assert found["numba"] == "not installed"


@pytest.mark.parametrize(
    "error", [ImportError("libcudart.so.13: cannot open"), OSError("no shared library"), RuntimeError()]
)
def test_libraries_that_do_not_load(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    for finding in (doctor.find_torch(), doctor.find_llama_cpp()):
        assert not finding.ok
        assert "does not load" in finding.value
        assert "reinstall" in finding.advice


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "device_count", lambda: (2, ""))
    monkeypatch.setattr(cuda_driver, "device_name", lambda index: (f"GPU {index}", 80 * 10**9))


def test_gpus(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "compiler", lambda: None)
    assert doctor.find_cuda() == doctor.Finding("cuda", True, "GPU 0 (80 GB), GPU 1 (80 GB)")


@pytest.mark.parametrize("error", [ImportError("No module named 'cuda'"), RuntimeError("Failed to dlopen\nlibnvrtc")])
def test_gpus_without_a_compiler(error: Exception, two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> NoReturn:
        raise error

    bindings = types.ModuleType("cuda.bindings")
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.delitem(sys.modules, "cuda.bindings.nvrtc", raising=False)  # where it is installed
    if isinstance(error, RuntimeError):
        bindings.nvrtc = types.SimpleNamespace(nvrtcVersion=broken)  # type: ignore[attr-defined]
    cuda.compiler.cache_clear()
    found = doctor.find_cuda()
    assert found.ok
    assert "2 devices, but NVRTC, which compiles the CUDA kernels, does not load: " in found.value
    assert "\n" not in found.value
    assert ".[cuda]" in found.advice


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "device_count", lambda: (0, "cuda-bindings is not installed"))
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "cuda-bindings" else "1.0")
    found = doctor.find_cuda()
    assert found.value == "cuda-bindings is not installed"
    assert ".[cuda]" in found.advice


def test_offload(monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_cpp

    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
    assert doctor.find_llama_cpp().value.endswith("with GPU offload")
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: False)
    assert "GGML_CUDA" in doctor.find_llama_cpp().advice


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts stand in for ollama")
@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("echo 'Warning: could not connect' >&2; echo 'ollama version is 0.34.1'", "could not connect"),
        ("echo 'ollama version is 0.34.1'", "ollama version is 0.34.1"),
        ("exit 3", "unknown version"),
        ("exec sleep 600", "does not respond"),
    ],
)
def test_ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, value: str) -> None:
    program(tmp_path, "ollama", script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "_OLLAMA_SECONDS", 0.2 if "sleep" in script else PATIENCE)
    finding = doctor.find_ollama()
    assert finding.ok
    assert value in finding.value


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits")
def test_an_ollama_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ollama"
    path.write_bytes(b"\x7fELF and nothing more")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not start" in doctor.find_ollama().value


def test_little_memory_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LOW_MEMORY", 10**18)
    monkeypatch.setattr(doctor, "_LOW_DISK", 10**18)
    assert "q4_0" in doctor.find_memory().advice
    assert "8B model needs" in doctor.find_disk(tmp_path).advice
