"""``quantkit doctor``: what this machine has, and what to do about what it lacks.

Nothing here may fail: a missing library, program or system call is a finding, not an error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.files.json_file import SCHEMA
from quantkit.system.machine import free_memory, total_memory
from quantkit.system.processors import usable_processors
from quantkit.system.shell import installation

GIGABYTE = 10**9

_COMPILERS = ("cc", "gcc", "clang", "cl")
_OLLAMA_SECONDS = 5
_INSTALL = installation()
_LOW_DISK, _LOW_MEMORY = 20 * GIGABYTE, 4 * GIGABYTE


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        name: what was checked.
        ok: whether it meets quantkit's needs; a missing extra, such as a GPU, does too.
        value: what was found.
        advice: what to do, "" for nothing.
    """

    name: str
    ok: bool
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in order of importance."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing needed is missing."""
        return all(finding.ok for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON values, with ``schema``."""
        return {"schema": SCHEMA, "ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(folder: Path) -> Diagnosis:
    """Check the machine.

    Args:
        folder: where files would be written; its disk is checked.
    """
    libraries = (find_library(name) for name in ("transformers", "peft", "safetensors", "gguf"))
    findings = (find_python(), find_torch(), find_cuda(), find_llama_cpp(), *libraries, find_numba())
    return Diagnosis((*findings, find_ollama(), find_compiler(), find_processors(), find_memory(), find_disk(folder)))


def find_python() -> Finding:
    """The interpreter and the system."""
    return Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def find_torch() -> Finding:
    """PyTorch, for pickled checkpoints and PEFT's own layers. It is really imported: an installation can be broken."""
    version = _version("torch")
    if version is None:
        return Finding("torch", False, "not installed", _INSTALL)
    failure = _import_failure("torch")
    if failure:
        return Finding(
            "torch", False, f"{version}, but it does not load: {failure}", "pip install --force-reinstall torch"
        )
    return Finding("torch", True, version)


def find_cuda() -> Finding:
    """GPUs that can merge and encode, and what compiles for them. Everything also works without a GPU."""
    advice = f"optional: builds faster with an NVIDIA GPU: {installation('cuda')}"
    if _version("numpy") is None:
        return Finding("cuda", True, "unknown without numpy")
    from quantkit.kernels import cuda, cuda_driver

    count, why = cuda_driver.device_count()
    if not count:
        return Finding("cuda", True, why, "" if _version("cuda-bindings") else advice)
    try:
        devices = [cuda_driver.device_name(index) for index in range(count)]
        cuda.compiler()
    except QuantkitError as error:
        return Finding("cuda", True, f"{count} devices, but {error}", advice)
    return Finding("cuda", True, ", ".join(f"{name} ({nbytes / GIGABYTE:.0f} GB)" for name, nbytes in devices))


def find_llama_cpp() -> Finding:
    """llama-cpp-python, which runs the finished files, and whether it can use a GPU."""
    name = "llama-cpp-python"
    version = _version("llama_cpp_python")
    if version is None:
        return Finding(name, False, "not installed", "pip install llama-cpp-python (it needs a C++ compiler)")
    failure = _import_failure("llama_cpp")
    if failure:
        advice = "pip install --force-reinstall --no-cache-dir llama-cpp-python"
        return Finding(name, False, f"{version}, but it does not load: {failure}", advice)
    from quantkit.ggml.llama import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        return Finding(name, True, f"{version}, with GPU offload")
    advice = 'for a GPU: CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir llama-cpp-python'
    return Finding(name, True, f"{version}, for the CPU only", advice)


def find_library(name: str) -> Finding:
    """A library's version, read from its metadata: importing some libraries takes seconds."""
    version = _version(name)
    return Finding(name, version is not None, version or "not installed", "" if version else _INSTALL)


def find_numba() -> Finding:
    """Numba, which compiles the encoders for the processor. Without it builds are slower, with the same result."""
    version, get = _version("numba"), installation("fast")
    if version is None:
        return Finding("numba", True, "not installed", f"optional: quantizes several times faster on the CPU: {get}")
    failure = _import_failure("numba")
    if failure:
        return Finding("numba", True, f"{version}, but it does not load: {failure}", f"to quantize faster: {get}")
    return Finding("numba", True, version)


def find_ollama() -> Finding:
    """Ollama on the PATH. Not needed to build."""
    program = shutil.which("ollama")
    if program is None:
        return Finding(
            "ollama",
            True,
            "not on the PATH",
            "optional: to run packages in Ollama, install it from https://ollama.com/download",
        )
    try:
        result = subprocess.run(
            [program, "--version"],
            capture_output=True,
            timeout=_OLLAMA_SECONDS,
            encoding="utf-8",
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Finding("ollama", True, f"{program}, but it does not respond", "restart Ollama")
    except OSError as error:
        return Finding("ollama", True, f"{program}, but it does not start: {error.strerror}", "reinstall Ollama")
    lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    return Finding("ollama", True, f"{program}: {lines[-1] if lines else 'unknown version'}")


def find_compiler() -> Finding:
    """A C compiler, which is needed to install llama-cpp-python, and not afterwards."""
    found = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if found:
        return Finding("compiler", True, found)
    return Finding("compiler", True, "none", "only needed to compile llama-cpp-python when you install it")


def find_processors() -> Finding:
    """Processors of the machine, and those this process may use."""
    total = os.cpu_count() or 1
    usable = usable_processors()
    return Finding("processors", True, f"{usable}" if usable == total else f"{usable} of {total} usable")


def find_memory() -> Finding:
    """Main memory, total and free."""
    total, free = total_memory(), free_memory()
    if total is None:
        return Finding("memory", True, "unknown on this system")
    value = f"{total / GIGABYTE:.1f} GB" + ("" if free is None else f", {free / GIGABYTE:.1f} GB of it free")
    if total < _LOW_MEMORY:
        return Finding("memory", True, value, "enough to build; choose a small model or q4_0 to chat")
    return Finding("memory", True, value)


def find_disk(folder: Path) -> Finding:
    """Free space where files would be written."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", False, f"{folder}: {error.strerror}", "change to a folder that exists")
    advice = "" if free >= _LOW_DISK else "an 8B model needs about 5 GB as q4_0, 9 GB as q8_0 and 16 GB as f16"
    return Finding("disk", True, f"{free / GIGABYTE:.1f} GB free in {folder}", advice)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_failure(module: str) -> str:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # Raised by a missing shared library, a wrong build or an incomplete installation.
        return " ".join(str(error).split()) or type(error).__name__
    return ""
