"""Packages to Hugging Face: what is sent, what is not, and what the user is told; against a small hub of our own."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from quantkit.jobs.package import package
from quantkit.jobs.quantize import quantize
from quantkit.package.manifest import MANIFEST, read_manifest
from quantkit.system.progress import Reporter
from quantkit.verify.intact import check_contents
from tests.support.hub_server import HubServer, Repo
from tests.support.hub_uploads import PART, Account, Uploads
from tests.support.push_client import PushClient
from tests.unit.tiny_gguf import write_tiny_gguf

TOKEN = "hf_" + "s3cret" * 6
GOOD = {"HF_TOKEN": TOKEN}
FREE = ("--license", "apache-2.0")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of two types."""
    root = tmp_path_factory.mktemp("built")
    whole = write_tiny_gguf(root / "tiny-f32.gguf")
    files = [quantize(whole, out=root / f"tiny-{quant}.gguf", quant=quant) for quant in ("q8_0", "f16")]
    return package(files, root / "tiny", name="tiny")


def is_intact(folder: Path) -> bool:
    found = check_contents(folder, read_manifest(folder), reporter=Reporter())
    return all(check.passed for check in found.checks)


@pytest.fixture(scope="module")
def hub_and_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubServer, PushClient]]:
    root = tmp_path_factory.mktemp("hub")
    with HubServer() as hub, PushClient(hub.endpoint, root / "home") as client:
        yield hub, client


@pytest.fixture
def hub(hub_and_client: tuple[HubServer, PushClient], tmp_path: Path) -> HubServer:
    hub, _ = hub_and_client
    hub.repos.clear()
    hub.requests.clear()
    accounts = {TOKEN: Account("me", ("me", "club")), "hf_reader": Account("me", (), role="read")}
    hub.uploads = Uploads(tmp_path / "repos", accounts)
    return hub


@pytest.fixture
def client(hub_and_client: tuple[HubServer, PushClient]) -> PushClient:
    return hub_and_client[1]


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy of the package, whose texts may be changed."""
    return shutil.copytree(built, tmp_path / "tiny")


def refused(done: SimpleNamespace, message: str, hint: str, code: int = 1) -> None:
    error, said = done.err.splitlines()[-2:]
    assert done.code == code, done.err
    assert message in error
    assert hint in said
    assert TOKEN not in done.out + done.err
    assert "Traceback" not in done.err


def test_a_package_arrives(hub: HubServer, client: PushClient, folder: Path) -> None:
    (folder / ".env").write_text("SECRET=1", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    done = client.run("push", folder, "hf:me/tiny-GGUF", *FREE, "--json", **GOOD)
    result = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert (result["url"], result["private"]) == (f"{hub.endpoint}/me/tiny-GGUF", True)
    repo = hub.repos["me/tiny-GGUF"]
    assert (repo.private, repo.commit, hub.uploads.commits) == (True, result["revision"], 1)
    assert set(repo.files()) == {*read_manifest(folder).file_names, MANIFEST}
    for file in result["files"]:
        data = (repo.folder / file["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
        if file["file"] not in ("README.md", MANIFEST):
            assert data == (folder / file["file"]).read_bytes()
    # What others download is a package that verify accepts.
    assert is_intact(repo.folder)
    # The card's metadata; the text is the package's own, with what a hub adds.
    text = (repo.folder / "README.md").read_text(encoding="utf-8")
    assert text == result["card"]
    _, metadata, body = text.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["gguf", "llama.cpp", "ollama", "quantkit"],
        "quantized_by": "me",
    }
    own = (folder / "README.md").read_text(encoding="utf-8")
    assert "| license | not stated by the base model |" in own
    own = own.replace("not stated by the base model", "apache-2.0")
    before, after = own.split("\n## Use\n")
    assert body.lstrip("\n").startswith(before)
    assert body.endswith(after)
    assert "| tiny-q8\\_0.gguf | q8\\_0 | " in body
    assert "llama-cli -hf me/tiny-GGUF:Q8_0" in body
    # Nothing has changed: nothing is sent.
    sent = hub.uploads.total
    again = client.run("push", folder, "hf:me/tiny-GGUF", *FREE, **GOOD)
    assert (again.code, hub.uploads.total, hub.uploads.commits) == (0, sent, 1)
    assert "nothing to upload" in again.err
    assert again.out.splitlines()[-1] == f"{hub.endpoint}/me/tiny-GGUF"


def test_two_cuts_and_what_was_sent_is_not_sent_again(hub: HubServer, client: PushClient, folder: Path) -> None:
    weights = sorted(folder.glob("*.gguf"), key=lambda path: path.stat().st_size)
    sizes = [path.stat().st_size for path in weights]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    # In the middle of the first file, and again in the middle of the second.
    first = sizes[0] // 2
    hub.uploads.cuts = [first, first + sizes[0] + sizes[1] // 2]
    log = []
    for number in range(3):
        hub.uploads.gone = False
        done = client.run("push", folder, "hf:me/tiny", *FREE, **GOOD)
        log.append(
            f"$ quantkit push tiny hf:me/tiny --license apache-2.0   # exit code {done.code}\n{done.out}{done.err}"
        )
        if number < 2:
            refused(done, "the connection to", "run the command again: what the hub has is not sent again")
            assert len(done.waits) == 5
            assert "Retrying in 1" in done.err
            assert "SECRET" not in done.err + client.log.read_text(encoding="utf-8")
            assert hub.repos["me/tiny"].files() == []
    assert done.code == 0, done.err
    print("\n".join(log), *hub.uploads.received.items(), sep="\n")
    # Each file was sent once, and the part of it before its cut.
    assert hub.uploads.received == {digests[0]: first + sizes[0], digests[1]: sizes[1] // 2 + sizes[1]}
    assert sizes[1] > 3 * PART
    assert hub.uploads.commits == 1
    assert (hub.repos["me/tiny"].folder / weights[1].name).read_bytes() == weights[1].read_bytes()


def test_a_short_cut_is_repeated_by_the_client(hub: HubServer, client: PushClient, folder: Path) -> None:
    hub.uploads.busy = [(429, "7"), (503, "3")]
    done = client.run("push", folder, "hf:club/tiny", "--public", *FREE, **GOOD)
    assert (done.code, done.waits) == (0, [8.0, 4.0])
    assert "note: hf:club/tiny: Rate limited. Waiting 8.0s before retry" in done.err
    assert not hub.repos["club/tiny"].private


@pytest.mark.parametrize(
    ("end", "status", "headers", "message", "hint"),
    [
        ("/create", 429, {"Retry-After": "30"}, "too many requests", "wait 30 s, then run the command again"),
        ("/commit/main", 503, {}, "HTTP status 503", "run the command again"),
        ("/commit/main", 413, {}, "HTTP status 413 (said by the test)", "correct"),
    ],
)
def test_what_the_hub_refuses(
    hub: HubServer, client: PushClient, folder: Path, end: str, status: int, headers: dict[str, str], message: str,
    hint: str,
) -> None:  # fmt: skip
    hub.uploads.refusals[end] = (status, headers)
    refused(client.run("push", folder, "hf:me/tiny", *FREE, **GOOD), message, hint)


def test_who_pushes_and_where(hub: HubServer, client: PushClient, folder: Path, tmp_path: Path) -> None:
    refused(client.run("push", folder, "hf:me/tiny", *FREE), "no token for", "hf auth login, or set HF_TOKEN")
    refused(client.run("push", folder, "hf:me/tiny", *FREE, HF_TOKEN="hf_no"), "does not accept", "valid token")
    refused(client.run("push", folder, "hf:me/tiny", *FREE, HF_TOKEN="hf_reader"), "may only read", "/settings/tokens")
    refused(client.run("push", folder, "hf:them/tiny", *FREE, **GOOD), "may not write", "repositories of them")
    for name in ("tiny", "me/ti ny", "me/", "hf:me/a--b", "me/x.git", "me/" + "x" * 100):
        refused(client.run("push", folder, f"hf:{name}", **GOOD), "is not the name of a repository", "hf:ORG/NAME")
    refused(client.run("push", folder, "hf:me/tiny@v1", **GOOD), "a revision is not part", "--branch v1")
    for name in ("me/tiny", "", "gitlab:me/tiny"):
        refused(client.run("push", folder, name, **GOOD), "is not a place to push to", "modelscope:ORG/NAME")
    refused(client.run("push", tmp_path, "hf:me/tiny", **GOOD), "no manifest.json", "quantkit build")
    hub.uploads.gone = True
    refused(client.run("push", folder, "hf:me/tiny", *FREE, **GOOD), "the connection to", "check the network")
    assert hub.uploads.received == {}


def test_a_repository_that_exists(hub: HubServer, client: PushClient, folder: Path, tmp_path: Path) -> None:
    (mine := tmp_path / "there").mkdir()
    (mine / "other.txt").write_text("stays", encoding="utf-8")
    hub.repos["me/tiny"] = Repo(mine)
    refused(client.run("push", folder, "hf:me/tiny", *FREE, **GOOD), "exists and is public", "--public")
    assert hub.uploads.received == {}
    hub.repos["me/tiny"].private = True
    done = client.run("push", folder, "hf:me/tiny", "--public", "--branch", "v2", *FREE, **GOOD)
    assert done.code == 0, done.err
    assert "exists and stays private" in done.err
    assert "(private)" in done.out
    assert hub.repos["me/tiny"].revisions == ("main", "v2")
    assert (mine / "other.txt").read_text(encoding="utf-8") == "stays"
    assert any(one.path.endswith("/commit/v2") for one in hub.requests)


def test_other_bytes_at_the_hub_are_noticed(hub: HubServer, client: PushClient, folder: Path) -> None:
    hub.uploads.damage["chat.sh"] = b"exit 1\n"
    done = client.run("push", folder, "hf:me/tiny", *FREE, **GOOD)
    refused(done, "uploaded, but the hub has other bytes of chat.sh", "run the command again", code=3)


def test_a_dry_run_sends_nothing(hub: HubServer, client: PushClient, folder: Path) -> None:
    done = client.run("push", folder, "hf:me/tiny", "--dry-run")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    names = {line.split()[-1]: int(line.split()[1]) for line in lines[:8]}
    assert names.keys() == {*read_manifest(folder).file_names, MANIFEST}
    assert f"{sum(names.values())} bytes, would be pushed to hf:me/tiny (private); nothing was sent" in lines[-1]
    assert "\n---\nlibrary_name: gguf\n" in done.out
    assert "note: against it: the license is not known" in done.err
    assert (hub.requests, hub.repos) == ([], {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "chat.sh").write_text("rm -rf ~"), "'text files' failed"),
        (lambda folder: (folder / "chat.ps1").unlink(), "'files' failed"),
        (lambda folder: _elsewhere(folder / "README.md"), "'files' failed: README.md is a link to"),
        (lambda folder: _flip(folder / "tiny-q8_0.gguf"), "'tiny-q8_0.gguf: tensors' failed"),
        (lambda folder: (folder / "report.json").write_text('{"passed": false}'), "a check failed when it was built"),
    ],
    ids=["text", "missing", "link", "weights", "report"],
)
def test_what_is_not_as_it_was_made_is_not_pushed(
    hub: HubServer, client: PushClient, folder: Path, change: Any, message: str
) -> None:
    change(folder)
    refused(client.run("push", folder, "hf:me/tiny", *FREE, **GOOD), message, str(folder), code=3)
    assert (hub.repos, hub.uploads.received) == ({}, {})


def _elsewhere(path: Path) -> None:
    (other := path.parents[1] / "other.md").write_text("# Mine\n", encoding="utf-8")
    path.unlink()
    path.symlink_to(other)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def test_a_card_of_ones_own(hub: HubServer, client: PushClient, folder: Path) -> None:
    own = "---\nlicense: mit\ntags: [mine]\nlanguage: zh\n---\n# Mine\n\n你好\n"
    (folder / "README.md").write_text(own, encoding="utf-8")
    done = client.run("push", folder, "hf:me/tiny", *FREE, **GOOD)
    assert done.code == 0, done.err
    assert "README.md is not as it was made" in done.err
    text = (hub.repos["me/tiny"].folder / "README.md").read_text(encoding="utf-8")
    _, metadata, body = text.split("---\n", 2)
    found = yaml.safe_load(metadata)
    assert (found["license"], found["tags"], found["language"]) == ("mit", ["mine"], "zh")
    assert found["library_name"] == "gguf"
    assert body.startswith("\n# Mine\n\n你好\n\n## Quantized files\n")
    assert is_intact(hub.repos["me/tiny"].folder)
    (folder / "README.md").write_text("---\na: [\n---\n# Mine\n", encoding="utf-8")
    refused(client.run("push", folder, "hf:me/tiny", *FREE, **GOOD), "what it begins with is not YAML", "correct")


def test_the_base_models_card(hub: HubServer, client: PushClient, folder: Path, tmp_path: Path) -> None:
    card = {"license": "llama3.2", "language": ["en", "de"], "pipeline_tag": "text-generation"}
    hub.repos["meta/Llama-3.2-1B"] = Repo(tmp_path, card=card)
    base = ("--base-model", "meta/Llama-3.2-1B")
    done = client.run("push", folder, "hf:me/tiny", *base, **GOOD)
    refused(done, "requires a name that begins with 'Llama', not 'tiny'", "--accept-license")
    assert "note: license: llama3.2 (https://www.llama.com/llama3_2/license/)" in done.err
    assert "note: the license asks: show 'Built with Llama'" in done.err
    assert "me/tiny" not in hub.repos
    done = client.run("push", folder, "hf:me/Llama-tiny", *base, "--json", **GOOD)
    result = json.loads(done.out)
    assert (done.code, result["objections"], result["base_models"]) == (0, [], ["meta/Llama-3.2-1B"])
    found = yaml.safe_load(result["card"].split("---\n")[1])
    assert (found["base_model"], found["base_model_relation"]) == (["meta/Llama-3.2-1B"], "quantized")
    assert (found["license"], found["language"]) == ("llama3.2", ["en", "de"])
    assert "\n## License notices\n\n- Built with Llama\n" in result["card"]
    refused(client.run("push", folder, "hf:me/x", "--base-model", "x", **GOOD), "not the name", "ORG/NAME")
    done = client.run("push", folder, "hf:me/x", "--base-model", "meta/none", *FREE, **GOOD)
    assert "note: meta/none: its card could not be read (no such model, or it is private)" in done.err
    assert done.code == 0


def test_a_license_that_is_not_known(hub: HubServer, client: PushClient, folder: Path) -> None:
    refused(client.run("push", folder, "hf:me/tiny", **GOOD), "the license is not known", "--license")
    refused(
        client.run("push", folder, "hf:me/tiny", "--license", "cc-by-nd-4.0", **GOOD),
        "does not allow to share changed copies",
        "--accept-license",
    )
    assert hub.repos == {}
    done = client.run("push", folder, "hf:me/tiny", "--accept-license", **GOOD)
    assert done.code == 0, done.err
    assert "\nlicense:" not in (hub.repos["me/tiny"].folder / "README.md").read_text(encoding="utf-8")


def test_what_is_private_is_not_pushed(hub: HubServer, client: PushClient, built: Path, tmp_path: Path) -> None:
    weights = next(built.glob("*q8_0.gguf"))
    home = tmp_path / "home" / "ada-l"

    def made(system: str) -> Path:
        name = f"p{len(list(tmp_path.iterdir()))}"
        return package([weights], tmp_path / name, name=name, system=system)

    def push(system: str) -> SimpleNamespace:
        return client.run("push", made(system), "hf:me/tiny", *FREE, HOME=str(home), USERPROFILE=str(home), **GOOD)

    for system in (f"Use {TOKEN}.", "Use hf_AbCdEfGhIjKlMnOpQrStUvWx."):
        refused(push(system), "contains an access token or a private key", "build or package it again")
    refused(push(f"Look in {home}/models."), f"contains the local path {home}", "build or package it again")
    assert (hub.repos, hub.uploads.received) == ({}, {})
    done = push("You are on /home/bob/work and talk to ada-l.")
    assert done.code == 0
    assert "contains what looks like a local path, /home/bob/, which will be seen" in done.err
    assert "contains the name of your account, ada-l, which will be seen" in done.err
