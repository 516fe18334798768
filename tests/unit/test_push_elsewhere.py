"""Packages to ModelScope and to Ollama's registry."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantkit.cli.main import main
from quantkit.errors import HubError, OllamaError, VerificationError
from quantkit.hub.target import PushTarget, parse_target
from quantkit.jobs import build as build_job
from quantkit.jobs.build_push import PlannedPush
from quantkit.jobs.package import package
from quantkit.jobs.push import push
from quantkit.jobs.push_result import PushOptions
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions
from quantkit.package.manifest import MANIFEST
from quantkit.package.spec import PackageSpec
from quantkit.system.progress import Reporter
from quantkit.verify.report import Check, Report
from tests.support.ollama_server import OllamaServer
from tests.support.package_specs import SPEC
from tests.unit.tiny_gguf import write_tiny_gguf

NAME = "ollama:me/tiny:q8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built")
    return package([write_tiny_gguf(root / "tiny.gguf")], root / "tiny", name="tiny")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    with OllamaServer() as started:
        monkeypatch.setenv("OLLAMA_HOST", started.address)
        yield started


# Ollama


def test_a_model_is_made_asked_and_pushed(
    server: OllamaServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["push", str(folder), NAME, "--public", "--license", "mit"])
    out = capsys.readouterr().out
    assert (left.value.code, server.pushed) == (0, ["me/tiny:q8"])
    assert out.splitlines()[-1] == "https://ollama.com/me/tiny:q8"
    assert "pushed 2 files" in out
    assert [path for _, path in server.requests if path in ("/api/create", "/api/chat", "/api/push")] == [
        *("/api/create", "/api/chat", "/api/push"),
    ]
    with pytest.raises(OllamaError, match="Ollama already has a model me/tiny:q8") as taken:
        push(folder, NAME, public=True, license="mit")
    assert "--overwrite" in taken.value.hint
    push(folder, NAME, public=True, license="mit", overwrite=True)
    assert server.pushed == ["me/tiny:q8"] * 2


@pytest.mark.parametrize(
    ("target", "options", "message", "hint"),
    [
        (NAME, {}, "everybody sees what is pushed to Ollama's registry", "--public"),
        (NAME, {"branch": "v1"}, "Ollama has no branches", "use a tag"),
        ("ollama:tiny", {"public": True}, "one of Ollama's own models", "ollama:ACCOUNT/tiny"),
        ("ollama:me/ti ny", {"public": True}, "not a valid model name", "letters"),
        (NAME, {"public": True, "license": None}, "the license is not known", "--accept-license"),
    ],
)
def test_what_is_not_pushed_to_ollama(
    server: OllamaServer, folder: Path, target: str, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises((HubError, OllamaError), match=message) as refused:
        push(folder, target, **{"license": "mit", **options})
    assert hint in refused.value.hint
    assert (server.models, server.pushed) == ({}, [])


def test_a_registry_that_refuses(server: OllamaServer, folder: Path) -> None:
    server.push_error = "you are not authorized to push to this namespace"
    with pytest.raises(OllamaError, match="pushing me/tiny:q8: you are not authorized") as refused:
        push(folder, NAME, public=True, license="mit")
    assert refused.value.hint.endswith("https://ollama.com/settings/keys, then: ollama push me/tiny:q8")
    server.push_error = "max retries exceeded"
    with pytest.raises(OllamaError, match="max retries") as refused:
        push(folder, NAME, public=True, license="mit", overwrite=True)
    assert refused.value.hint.endswith("ollama push me/tiny:q8")


def test_a_model_that_does_not_answer_is_not_pushed(server: OllamaServer, folder: Path) -> None:
    server.ends = "length"
    with pytest.raises(VerificationError, match="did not end within"):
        push(folder, NAME, public=True, license="mit")
    assert server.pushed == []


def test_a_dry_run_asks_no_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    done = push(folder, NAME, public=True, dry_run=True)
    assert [file.name for file in done.files] == ["Modelfile", "tiny.gguf"]
    assert done.nbytes == sum((folder / file.name).stat().st_size for file in done.files)


# After a build


def test_build_and_push(
    server: OllamaServer, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build is one that is done: test_ollama.py has what is asked before and after a real one."""
    passed, built = Report((Check("fine", True, "1", "", ""),)), []

    def fake(recipe: Recipe, *, planned: Callable[[PackageSpec], None], **options: object) -> SimpleNamespace:
        planned(replace(SPEC, licenses=()))
        built.append(recipe.name)
        if recipe.name == "bad":
            raise VerificationError("bad.failed: built, but a check failed")
        plan = SimpleNamespace(outputs=(), adapter_outputs=(), mmproj=None, notes=(), choice=None)
        return SimpleNamespace(
            folder=folder, plan=plan, report=passed, seconds={}, effects=(), proof=None, evaluation=None
        )

    monkeypatch.setattr(build_job, "build", fake)

    def build(*options: str, name: str = "good") -> tuple[object, str, list[str]]:
        with pytest.raises(SystemExit) as left:
            main(["build", str(folder), "--name", name, *options])
        said = capsys.readouterr()
        return left.value.code, said.out, said.err.splitlines()[-2:]

    # What speaks against it is said before anything is built.
    code, _, (error, hint) = build("--push", "ollama:me/a", "--public")
    assert (code, "the license is not known" in error, "--accept-license" in hint) == (1, True, True)
    assert build("--push", "ollama:me/a", "--license", "mit")[0] == 1
    assert build("--push", "me/a")[0] == 1
    assert build("--push", "ollama:me/a", "--no-verify")[0] == 2
    assert build("--public")[0] == 2
    assert built == []
    code, out, _ = build("--push", "ollama:me/a", "--public", "--license", "mit", "--json")
    assert (code, server.pushed) == (0, ["me/a"])
    assert json.loads(out)["push"]["target"] == "ollama:me/a"
    taken = build("--push", "ollama:me/a", "--public", "--license", "mit")
    assert taken[2][0] == "error: Ollama already has a model me/a"
    # A failed check is never pushed.
    assert build("--push", "ollama:me/b", "--public", "--license", "mit", name="bad")[0] == 3
    assert (built, server.pushed) == (["good", "bad"], ["me/a"])


def test_a_push_that_fails_leaves_the_package(server: OllamaServer, folder: Path) -> None:
    server.push_error = "max retries exceeded"
    options = PushOptions(public=True, license="mit")
    planned = PlannedPush(parse_target("ollama:me/b"), options, Recipe(model=folder, out=folder))
    with pytest.raises(OllamaError, match=r"built, but not pushed: Ollama at .* max retries") as failed:
        planned.push(folder, RunOptions())
    assert failed.value.hint.endswith(f"; then: quantkit push {folder} ollama:me/b")
    assert (folder / MANIFEST).is_file()


# ModelScope


@dataclass
class Hub:
    """The parts of modelscope_hub that are used, with signatures as in modelscope-hub 0.5.1.

    Attributes:
        repos: files of each repository by name, None for one that is public and empty.
        private: of each repository.
        licenses: of repositories that were made.
        sent: names of files, in order.
        fault: raised by the upload of a file.
        damage: what is kept in place of a file.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    licenses: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    fault: tuple[str, Exception] | None = None
    damage: dict[str, bytes] = field(default_factory=dict)
    account: Exception | None = None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    errors = types.ModuleType("modelscope_hub.errors")
    errors.HubError = type("HubError", (Exception,), {})  # type: ignore[attr-defined]
    for name in ("AuthenticationError", "PermissionDeniedError", "RateLimitError", "NotExistError"):
        setattr(errors, name, type(name, (errors.HubError,), {}))

    class HubApi:
        def whoami(self) -> SimpleNamespace:
            if made.account is not None:
                raise made.account
            return SimpleNamespace(username="me")

        def get_repo(self, repo_id: str, repo_type: str, *, revision: str | None = None) -> SimpleNamespace:
            if repo_id not in made.repos:
                raise errors.NotExistError("[E3020] no such repository")
            return SimpleNamespace(private=made.private[repo_id], visibility=None)

        def create_repo(
            self, repo_id: str, repo_type: str, *, visibility: str | None = None, license: str | None = None
        ) -> None:
            made.repos[repo_id] = {}
            made.private[repo_id] = visibility == "private"
            made.licenses[repo_id] = license or "Apache-2.0"

        def upload_file(
            self, repo_id: str, repo_type: str, path_or_fileobj: Path | bytes, path_in_repo: str, *,
            commit_message: str | None = None, commit_description: str | None = None, revision: str | None = None,
            buffer_size_mb: int = 16, disable_tqdm: bool = False,
        ) -> dict[str, Any]:  # fmt: skip
            assert (repo_type, revision, disable_tqdm) == ("model", "master", True)
            if made.fault is not None and made.fault[0] == path_in_repo:
                raise made.fault[1]
            data = path_or_fileobj if isinstance(path_or_fileobj, bytes) else path_or_fileobj.read_bytes()
            made.sent.append(path_in_repo)
            made.repos[repo_id][path_in_repo] = made.damage.get(path_in_repo, data)
            return {}

        def list_repo_files(
            self, repo_id: str, repo_type: str, *, revision: str | None = None, recursive: bool = True
        ) -> list[SimpleNamespace]:
            return [
                SimpleNamespace(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), is_dir=False)
                for name, data in made.repos[repo_id].items()
            ]

    modules: dict[str, dict[str, Any]] = {
        "modelscope_hub": {"errors": errors},
        "modelscope_hub.errors": vars(errors),
        "modelscope_hub.api": {"HubApi": HubApi},
        "modelscope_hub.config": {"get_default_config": lambda: SimpleNamespace(endpoint="https://ms.test/")},
        "modelscope_hub.constants": {"DEFAULT_ENDPOINT": "https://modelscope.cn"},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update({key: value for key, value in content.items() if not key.startswith("__")})
        monkeypatch.setitem(sys.modules, name, module)
    made.errors = errors  # type: ignore[attr-defined]
    return made


def test_to_modelscope(hub: Hub, folder: Path) -> None:
    # It ends in the middle; the command is run again.
    hub.fault = ("chat.sh", hub.errors.HubError("[E1020] no route to https://ms.test/x?Signature=SECRET"))  # type: ignore[attr-defined]
    with pytest.raises(HubError, match=r"cannot be uploaded \(\[E1020\] no route to https://ms.test/x\)") as cut:
        push(folder, "modelscope:me/tiny", license="apache-2.0")
    assert "run the command again" in cut.value.hint
    assert hub.sent == ["tiny.gguf", "chat.ps1"]
    hub.fault = None
    reporter = Reporter()
    done = push(folder, "modelscope:me/tiny", license="apache-2.0", reporter=reporter)
    assert hub.sent.count("tiny.gguf") == 1
    assert hub.sent[-1] == MANIFEST
    assert "tiny.gguf: 2.08 MB, the hub has it" in reporter.notes
    assert (done.url, done.revision, done.private) == ("https://ms.test/models/me/tiny", "master", True)
    assert (hub.private, hub.licenses) == ({"me/tiny": True}, {"me/tiny": "apache-2.0"})
    there = hub.repos["me/tiny"]
    assert {file.name: file.sha256 for file in done.files} == {
        name: hashlib.sha256(data).hexdigest() for name, data in there.items()
    }
    assert b"modelscope download --model me/tiny" in there["README.md"]
    assert json.loads(there[MANIFEST])["name"] == "tiny"


def test_what_modelscope_refuses(hub: Hub, folder: Path) -> None:
    errors: Any = hub.errors  # type: ignore[attr-defined]

    def refused(message: str, hint: str, **options: Any) -> None:
        with pytest.raises(HubError, match=message) as caught:
            push(folder, "modelscope:me/tiny", **{"license": "mit", **options})
        assert hint in caught.value.hint

    hub.account = errors.AuthenticationError("[E3001] no token")
    refused("no token, or one that the hub does not accept", "modelscope login")
    hub.account = None
    hub.fault = ("tiny.gguf", errors.PermissionDeniedError("[E3003] forbidden"))
    refused("the token may not write there", "repositories of me")
    hub.fault = ("tiny.gguf", errors.RateLimitError("[E3029] slow down"))
    refused("too many requests", "wait a few minutes")
    hub.fault = None
    hub.private["me/tiny"] = False
    refused("exists and is public", "--public")
    hub.damage["chat.sh"] = b"exit 1\n"
    with pytest.raises(VerificationError, match=r"other bytes of chat\.sh"):
        push(folder, "modelscope:me/tiny", license="mit", public=True)
    # A license that is not known is not said to be Apache's.
    hub.repos.clear()
    hub.damage.clear()
    push(folder, "modelscope:me/tiny", accept_license=True)
    assert hub.licenses["me/tiny"] == "other"


def test_modelscope_is_an_extra(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(HubError, match="needs the package modelscope") as caught:
        push(folder, "modelscope:me/tiny", license="mit")
    assert caught.value.hint == "in quantkit's checkout: pip install '.[modelscope]'"


# Targets


def test_targets() -> None:
    for text in ("hf:org/Name-1.5_x", "modelscope:org/name", "ollama:me/name:q4_0"):
        found = parse_target(text)
        assert str(found) == text
    assert parse_target("ollama:me/name:q4_0") == PushTarget("ollama", "me/name:q4_0")
