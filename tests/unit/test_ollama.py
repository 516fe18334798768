"""Models into Ollama: what a server is asked, and what the user is told when there is none or it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import quantkit.jobs.build
import quantkit.ollama.client
from quantkit.chat_template.format import OwnTemplate, named_format
from quantkit.cli.main import main
from quantkit.errors import ChatFormatError, GGUFError, OllamaError, QuantkitError, VerificationError
from quantkit.gguf.header import encode_header
from quantkit.gguf.kv import string
from quantkit.jobs.ollama_create import MAX_TOKENS, QUESTION, check_ollama, check_planned, create_model, find_modelfile
from quantkit.ollama.modelfile import Command, print_modelfile
from quantkit.ollama.read_modelfile import read_modelfile
from quantkit.package.render import write_package
from quantkit.package.spec import PackagedModel, PackageSpec
from quantkit.system.progress import Reporter
from tests.support.manifests import put_manifest
from tests.support.ollama_server import OllamaServer

Maker = Callable[..., Path]

WEIGHTS = encode_header([string("general.architecture", "llama")], []) + bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"

# A template that turns cannot describe.
COUNTING = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }} {{ loop.index }}<|end_header_id|>{{ m.content }}<|eot_id|>"
    "{% endfor %}<|start_header_id|>assistant<|end_header_id|>"
)

SPEC = PackageSpec(
    name="Tiny 中文",
    models=(PackagedModel("tiny-q4_0.gguf", "q4_0"), PackagedModel("tiny-q8_0.gguf", "q8_0")),
    chat=named_format("chatml"),
    system='You are "kind".\n你好',
    parameters=(
        *(("temperature", "0.2"), ("top_k", "40"), ("use_mmap", "true"), ("stop", "User:")),
        *(("temperature", "0.3"), ("num_ctx", "512")),
    ),
    context_length=4096,
    base="org/base",
    adapters=(),
    licenses=("MIT", "Notice of\nthe makers"),
    architecture="llama",
    parameter_count=2_000_000,
    messages=(("user", "Hi"), ("assistant", "Hello.")),
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    with OllamaServer() as started:
        monkeypatch.setenv("OLLAMA_HOST", started.address)
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return package(SPEC, tmp_path / "pkg")


def package(spec: PackageSpec, folder: Path) -> Path:
    write_package(spec, folder)
    for model in spec.models:
        (folder / model.file).write_bytes(WEIGHTS)
    return put_manifest(folder, *(model.file for model in spec.models), name=spec.name)


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


# What the server is asked


def test_the_request_is_the_modelfile(server: OllamaServer, folder: Path) -> None:
    made = create_model(folder / "Modelfile", "tiny")
    (template,) = (c.value for c in read_modelfile(folder / "Modelfile") if c.keyword == "TEMPLATE")
    assert server.models == {
        "tiny": {
            "model": "tiny",
            "stream": True,
            "files": {"tiny-q4_0.gguf": DIGEST},
            "template": template,
            "system": 'You are "kind".\n你好',
            "parameters": {
                "stop": ["<|im_end|>", "User:"],
                "num_ctx": 512,
                "temperature": 0.3,
                "top_k": 40,
                "use_mmap": True,
            },
            "license": ["MIT", "Notice of\nthe makers"],
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        }
    }
    assert server.blobs == {DIGEST: WEIGHTS}
    assert server.requests == [
        ("GET", "/api/version"),
        ("POST", "/api/show"),
        ("HEAD", f"/api/blobs/{DIGEST}"),
        ("POST", f"/api/blobs/{DIGEST}"),
        ("POST", "/api/create"),
        ("POST", "/api/chat"),
    ]
    (chat,) = server.chats
    assert chat["messages"] == [{"role": "user", "content": QUESTION}]
    assert (chat["model"], chat["stream"], chat["options"]) == ("tiny", True, {"num_predict": MAX_TOKENS})
    assert (made.answer, made.tokens, made.version, made.notes) == ("Hello! 你好！", 3, "0.33.0", ())


def test_a_file_that_the_server_has_is_not_sent_again(server: OllamaServer, folder: Path) -> None:
    class Counting(Reporter):
        done = 0

        def phase(self, name: str, total: int, unit: str = "weights") -> Any:
            from contextlib import nullcontext

            self.total = total
            return nullcontext(self.advance)

        def advance(self, amount: int) -> None:
            self.done += amount

    create_model(folder / "Modelfile", "one")
    reporter = Counting()
    create_model(folder / "Modelfile.q8_0", "two", reporter=reporter)
    assert [path for method, path in server.requests if method == "POST" and "blobs" in path] == [
        f"/api/blobs/{DIGEST}"
    ]
    assert server.models["two"]["files"] == {"tiny-q8_0.gguf": DIGEST}
    assert reporter.done == reporter.total == 2 * len(WEIGHTS)


def test_what_the_library_has_no_field_for_is_sent_too(server: OllamaServer, tmp_path: Path) -> None:
    tools = replace(named_format("chatml"), mentions_tools=True)
    hard = package(replace(SPEC, chat=tools, system="\u202e hard"), tmp_path / "hard")
    create_model(hard / "Modelfile", "hard")
    assert server.models["hard"]["parser"] == "passthrough"
    own = OwnTemplate("it thinks", ("<|im_end|>",), takes_system=True)
    create_model(package(replace(SPEC, chat=own), tmp_path / "own") / "Modelfile", "own")
    assert server.models["own"]["requires"] == "0.33.0"
    assert "template" not in server.models["own"]


def test_a_modelfile_of_a_model_that_ollama_has(server: OllamaServer, tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text("FROM llama3.2:1b\nSYSTEM Be brief.\n", encoding="utf-8")
    create_model(path, "brief")
    assert server.models["brief"] == {"model": "brief", "stream": True, "system": "Be brief.", "from": "llama3.2:1b"}


@pytest.mark.parametrize(
    ("text", "error", "why"),
    [
        ("FROM ./none.gguf", GGUFError, r"FROM \./none\.gguf: no such GGUF file"),
        ("FROM .", GGUFError, "no such GGUF file"),
        ("FROM " + "x" * 300, GGUFError, "FROM x{80}: no such GGUF file"),
        ("FROM ~nobody-of-that-name/x.gguf", GGUFError, "no such GGUF file"),
        ("FROM ./Modelfile", GGUFError, "Modelfile: not a GGUF file"),
        ("FROM ./one/x.gguf\nFROM two/x.gguf", GGUFError, r"two FROM lines name a file x\.gguf"),
        ("FROM a\nADAPTER ./lora", GGUFError, "lora: no such file"),
        ("FROM a\nADAPTER ./one/x.gguf", GGUFError, "this is not a LoRA file"),
        ("FROM a\nDRAFT ./b", ChatFormatError, "DRAFT is not supported"),
        ("FROM a\nPARAMETER temprature 1", ChatFormatError, "Modelfile: unknown Ollama parameter 'temprature'"),
        ("SYSTEM a", ChatFormatError, "Modelfile: the Modelfile has no FROM line"),
        ("FROM a\nREQUIRES soon", OllamaError, "'soon' is not a version of Ollama"),
    ],
)
def test_modelfiles_that_cannot_be_created(
    server: OllamaServer, tmp_path: Path, text: str, error: type[QuantkitError], why: str
) -> None:
    (tmp_path / "Modelfile").write_text(text, encoding="utf-8")
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        (folder / "x.gguf").write_bytes(WEIGHTS)
    with pytest.raises(error, match=why):
        create_model(tmp_path / "Modelfile", "m")
    assert server.models == server.blobs == {}


# What the user is told


def test_no_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with socket.socket() as taken:  # by whom does not listen
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
        with pytest.raises(OllamaError, match=f"no Ollama server responds at http://127.0.0.1:{port}") as refused:
            create_model(folder / "Modelfile", "tiny")
    assert "OLLAMA_HOST" in refused.value.hint


@pytest.mark.parametrize(
    ("program", "why", "hint"),
    [
        (None, "Ollama is not installed here", "https://ollama.com/download"),
        ("/usr/bin/ollama", "Ollama is not running", "ollama serve"),
    ],
)
def test_no_server_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, folder: Path, program: str | None, why: str, hint: str
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setattr(quantkit.ollama.client.Server, "_request_raw", refuse)
    monkeypatch.setattr(shutil, "which", lambda name: program)
    with pytest.raises(OllamaError, match=why) as refused:
        check_ollama("tiny", overwrite=False)
    assert hint in refused.value.hint


def test_no_library(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "ollama", None)
    monkeypatch.delitem(sys.modules, "quantkit.ollama.client")
    with pytest.raises(OllamaError, match="library for Ollama is not installed") as refused:
        create_model(folder / "Modelfile", "tiny")
    assert refused.value.hint == "in quantkit's checkout: pip install '.[ollama]'"


@pytest.mark.parametrize("host", ["127.0.0.1:x", "http://[::", "127.0.0.1:99999"])
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(OllamaError, match=f"OLLAMA_HOST '{re.escape(host)}' is not a valid address") as refused:
        check_ollama("tiny", overwrite=True)
    assert refused.value.hint == "set it to an address such as 127.0.0.1:11434"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("OLLAMA_HOST", "::bad:[", "OLLAMA_HOST '::bad:[' is not a valid address"),
        ("OLLAMA_HOST", "http://127.0.0.1:99999", "OLLAMA_HOST 'http://127.0.0.1:99999' is not a valid address"),
        ("OLLAMA_HOST", "a\x01b", r"OLLAMA_HOST 'a\x01b' is not a valid address"),
        ("HTTP_PROXY", "nothing://x", "cannot set up the Ollama client (Unknown scheme for proxy URL"),
    ],
)
def test_what_the_library_stumbles_over_when_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, what: str
) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv(name, value)
    for module in [module for module in sys.modules if module.partition(".")[0] == "ollama"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "quantkit.ollama.client")
    with pytest.raises(OllamaError, match=re.escape(what)) as refused:
        check_ollama("tiny", overwrite=True)
    assert ("the proxy" if name == "HTTP_PROXY" else "set it to an address") in refused.value.hint


@pytest.mark.parametrize("listening", ["0.0.0.0", "[::]", "http://0.0.0.0"])
def test_an_address_to_listen_at(server: OllamaServer, monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"{listening}:{server.address.rpartition(':')[2]}")
    check_ollama("tiny", overwrite=False)
    with quantkit.ollama.client.Server() as asked:
        assert asked.address == f"http://{server.address}"


@pytest.mark.parametrize(
    ("variable", "proxy"), [("HTTP_PROXY", "http://127.0.0.1:9"), ("all_proxy", "socks5://127.0.0.1:9")]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_server_on_this_machine_is_not_asked_through_a_proxy(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch, host: str, variable: str, proxy: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setenv("OLLAMA_HOST", f"{host}:{server.address.rpartition(':')[2]}")
    check_ollama("tiny", overwrite=False)


def test_another_server(server: OllamaServer, folder: Path) -> None:
    server.foreign = True
    with pytest.raises(OllamaError, match="responded, but is not an Ollama server"):
        create_model(folder / "Modelfile", "tiny")


@pytest.mark.parametrize("version", ["0.5.4", "0.1.32-rc1", "0.32.9"])
def test_an_old_server(server: OllamaServer, tmp_path: Path, version: str) -> None:
    own = replace(SPEC, chat=OwnTemplate("it thinks", ("<|im_end|>",), takes_system=True))
    server.version = version
    made = package(own, tmp_path / "own")
    for call in (lambda: check_planned(own), lambda: create_model(made / "Modelfile", "tiny")):
        with pytest.raises(OllamaError, match=rf"is version {version}; this model needs 0\.33\.0") as refused:
            call()
        assert refused.value.hint.startswith("update it")
    assert server.models == server.blobs == {}


@pytest.mark.parametrize("version", ["0.5.5", "0.5.11", "1.0.0-rc1", "0.0.0"])
def test_servers_that_are_new_enough_for_a_template(server: OllamaServer, folder: Path, version: str) -> None:
    server.version = version  # 0.0.0 is one built from source
    create_model(folder / "Modelfile", "tiny")
    assert "tiny" in server.models


def test_the_name_is_taken(server: OllamaServer, folder: Path) -> None:
    server.models["tiny"] = "before"
    for call in (lambda: check_ollama("tiny", overwrite=False), lambda: create_model(folder / "Modelfile", "tiny")):
        with pytest.raises(OllamaError, match="Ollama already has a model tiny") as refused:
            call()
        assert "--overwrite" in refused.value.hint
    assert server.models["tiny"] == "before"
    check_ollama("tiny", overwrite=True)
    create_model(folder / "Modelfile", "tiny", overwrite=True)
    assert server.models["tiny"] != "before"


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-a", "a/b/c/d", "a:b:c", "模型", "a" * 81, "x.y/b", "a\n", "a;b", "$(touch pwned)", "../a"],
)
def test_names_that_ollama_does_not_take(server: OllamaServer, name: str) -> None:
    with pytest.raises(OllamaError, match="is not a valid model name"):
        check_ollama(name, overwrite=True)
    assert server.requests == []


@pytest.mark.parametrize("name", ["a", "A_b-c.d:q4_0", "me/model", "host.org:5000/me/model:latest", "_a", "a" * 80])
def test_names_that_ollama_takes(server: OllamaServer, name: str) -> None:
    check_ollama(name, overwrite=True)


def test_a_refusal_is_passed_on(server: OllamaServer, folder: Path) -> None:
    server.refusal = "template error: unexpected {{"
    with pytest.raises(OllamaError, match=r"the model tiny: template error: unexpected \{\{"):
        create_model(folder / "Modelfile", "tiny")
    assert server.chats == []


def test_a_built_in_template_in_place_of_the_models_own(server: OllamaServer, folder: Path, tmp_path: Path) -> None:
    server.detected = "chatml"
    assert create_model(folder / "Modelfile", "with-template").notes == ()
    own = replace(SPEC, chat=OwnTemplate("it counts", ("<|im_end|>",), takes_system=True))
    (note,) = create_model(package(own, tmp_path / "own") / "Modelfile", "without").notes
    assert "its built-in template chatml" in note


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"chat_error": "llama runner process has terminated"}, "llama runner process has terminated"),
        ({"ends": None}, "its answer did not end: 'Hello! 你好！again again"),
        ({"ends": "length"}, f"did not end within {MAX_TOKENS} tokens"),
        ({"pieces": ()}, "its answer is empty"),
    ],
)
def test_a_chat_that_fails(server: OllamaServer, folder: Path, changes: dict[str, Any], why: str) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(VerificationError, match="tiny was created in Ollama, but the chat failed: ") as failed:
        create_model(folder / "Modelfile", "tiny")
    assert why in str(failed.value)
    assert failed.value.hint.endswith("ollama rm tiny")


# The commands


def test_the_command(server: OllamaServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ollama", "create", folder)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "created tiny in Ollama 0.33.0",
        f">>> {QUESTION}",
        "Hello! 你好！",
        "next: ollama run tiny",
    ]
    code, _, err = run(capsys, "ollama", "create", folder)
    assert (code, err.splitlines()[0]) == (1, "error: Ollama already has a model tiny")
    code, out, _ = run(capsys, "ollama", "create", folder / "Modelfile.q8_0", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "schema": 1,
            "name": "tiny:q8_0",
            "version": "0.33.0",
            "modelfile": str(folder / "Modelfile.q8_0"),
            "question": QUESTION,
            "answer": "Hello! 你好！",
            "tokens": 3,
            "notes": [],
        },
    )
    server.ends = "length"
    code, out, err = run(capsys, "ollama", "create", folder, "--name", "other", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (3, "VerificationError")
    assert "did not end within" in error["message"]
    assert f"error: {error['message']}\nhint: {error['hint']}\n" in err


def test_where_the_modelfile_is(folder: Path, tmp_path: Path) -> None:
    assert find_modelfile(folder) == (folder / "Modelfile", "tiny")
    assert find_modelfile(folder / "Modelfile.q8_0") == (folder / "Modelfile.q8_0", "tiny:q8_0")
    (folder / "manifest.json").write_text('{"manifest_version": 3}', encoding="utf-8")  # another program's
    assert find_modelfile(folder) == (folder / "Modelfile", "pkg")
    (folder / "manifest.json").unlink()
    assert find_modelfile(folder) == (folder / "Modelfile", "pkg")
    (folder / "mine.Modelfile").touch()
    assert find_modelfile(folder / "mine.Modelfile") == (folder / "mine.Modelfile", "pkg")
    with pytest.raises(OllamaError, match="no such Modelfile") as refused:
        find_modelfile(tmp_path)
    assert "quantkit build" in refused.value.hint
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OllamaError) as refused:
        find_modelfile(tmp_path)
    assert "split" in refused.value.hint


def test_build_into_ollama(
    server: OllamaServer,
    checkpoint: Maker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("build", checkpoint("llama3-untied", layers=1), "--quant", "q8_0", "--no-verify")
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "a", "--name", "a", "--ollama", "mine:1", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["ollama"]["answer"] == "Hello! 你好！"
    weights = (tmp_path / "a" / "a-q8_0.gguf").read_bytes()
    assert list(server.blobs.values()) == [weights]
    assert server.models["mine:1"]["parameters"]["stop"] == ["<|eot_id|>"]
    assert server.models["mine:1"]["parameters"]["temperature"] == 0.6  # what generation_config.json says
    # The name is taken: said before anything is built.
    code, _, err = run(capsys, *arguments, "-o", tmp_path / "b", "--ollama", "mine:1")
    assert (code, err.splitlines()[0]) == (1, "error: Ollama already has a model mine:1")
    # Others are known with the plan, and still before any weight is read.
    monkeypatch.setattr(quantkit.jobs.build, "run_stream", None)
    code, _, err = run(
        capsys, *arguments, "-o", tmp_path / "b", "--name", "b", "--ollama", "b", "--split-max-size", "500K"
    )
    assert (code, err.splitlines()[-2:]) == (
        1,
        [
            "error: b-q8_0-00001-of-00004.gguf is split into 4 parts, and Ollama does not support split files",
            "hint: leave out --split-max-size, or --ollama",
        ],
    )
    server.version = "0.6.0"
    (own := tmp_path / "counting.jinja").write_text(COUNTING, encoding="utf-8")
    code, _, err = run(capsys, *arguments, "-o", tmp_path / "b", "--ollama", "b", "--template", own)
    assert (code, err.splitlines()[-2]) == (
        1,
        f"error: Ollama at http://{server.address} is version 0.6.0; this model needs 0.33.0",
    )
    assert not (tmp_path / "b").exists()


def test_a_modelfile_by_hand_with_all_commands(server: OllamaServer, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(WEIGHTS)
    commands = (
        *(Command("FROM", "a.gguf"), Command("RENDERER", "qwen3"), Command("PARSER", "qwen3")),
        *(Command("PARAMETER", "-1", "num_gpu"), Command("REQUIRES", "v0.14.0")),
    )
    (tmp_path / "Modelfile").write_text(print_modelfile(commands), encoding="utf-16")
    create_model(tmp_path / "Modelfile", "m")
    made = {"files": {"a.gguf": DIGEST}, "renderer": "qwen3", "parser": "qwen3", "requires": "v0.14.0"}
    assert server.models["m"] == {"model": "m", "stream": True, **made, "parameters": {"num_gpu": -1}}
