"""Hub ids: what they are, which files of a repository are taken, and downloads from a small hub of our own."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from quantkit.checkpoint.folder import open_checkpoint
from quantkit.errors import HubError
from quantkit.hub import huggingface as client
from quantkit.hub import modelscope
from quantkit.hub.fetch import fetch, local_folder
from quantkit.hub.files import small_files, weight_files
from quantkit.hub.hub_client import bar_class
from quantkit.hub.hub_errors import explained
from quantkit.hub.matrix import HubMatrix, choose_matrix, parse_matrix
from quantkit.hub.patience import Patience
from quantkit.hub.remote_file import FileProgress
from quantkit.hub.source import HubId, parse_source, source_label, source_name
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_file import read_recipe
from quantkit.package.plan_entries import source_entry
from quantkit.system.progress import Reporter
from tests.support.hub_client import REPOSITORY, Recorder, hub_environment
from tests.support.hub_server import HubServer, Repo
from tests.support.patience import PATIENCE

COMMIT = Repo(Path()).commit
TINY = HubId("org/tiny")


# Ids and paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubId("org/name")),
        ("Qwen/Qwen2.5-0.5B_x", HubId("Qwen/Qwen2.5-0.5B_x")),
        ("org/name@main", HubId("org/name", "main")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        ("org/name@v1.0", HubId("org/name", "v1.0")),
        ("modelscope:org/name", HubId("org/name", hub="modelscope")),
        ("modelscope:org/name@master", HubId("org/name", "master", "modelscope")),
    ],
)
def test_ids(text: str, expected: HubId) -> None:
    assert parse_source(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "name",
            "./org/name",
            "../name",
            "/org/name",
            "org/name/more",
            "org\\name",
            "org/na me",
            "org/",
            "/name",
            ".",
        ),
        *("org/..", "../..", "org/na..me", "org/-name", "org/name.", "org/na--me", "org/name.git", "~/model", "org/名"),
        *("org/name@", "org/name@a..b", "org/name@/x", "org/name@x/", "org/name@a//b", "org/name@a b", "a@b/c"),
        *("org/name\n", "org/" + "n" * 93, "hub:org/name", "org/na\0me"),
    ],
)
def test_what_is_no_id_is_a_path(text: str, tmp_path: Path) -> None:
    assert parse_source(text, tmp_path) == tmp_path / text


def test_nothing_is_neither(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="is empty"):
        parse_source("", tmp_path)


@pytest.mark.parametrize("text", ["modelscope:", "modelscope:name", "modelscope:../name", "modelscope:org/name@"])
def test_what_is_no_id_of_modelscope_is_refused(text: str) -> None:
    with pytest.raises(HubError, match="is not a ModelScope id") as caught:
        parse_source(text)
    assert "modelscope:org/name" in caught.value.hint


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/name") == Path("org/name")
    assert parse_source("org/other") == HubId("org/other")
    assert parse_source("org/name", tmp_path / "elsewhere") == HubId("org/name")


def test_names(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--na-me.1" / "snapshots" / COMMIT
    other = tmp_path / "modelscope" / "models" / "org--name" / "snapshots" / "master"
    assert [source_name(s) for s in (HubId("org/name", "v1"), snapshot, other)] == ["name", "na-me.1", "name"]
    assert [source_label(s) for s in (HubId("org/name"), snapshot, tmp_path)] == [
        *("org/name", "org/na-me.1", tmp_path.name),
    ]
    commit = {"hub": "huggingface", "id": "org/na-me.1", "revision": COMMIT}
    assert source_entry(HubId("org/na-me.1", "main"), snapshot).to_json() == commit
    assert source_entry(snapshot, snapshot).to_json() == commit
    assert source_entry(HubId("org/name", hub="modelscope"), other).revision == "master"
    assert source_entry(tmp_path, tmp_path).to_json() == {"folder": tmp_path.name}


def test_a_recipe_keeps_the_id(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('model = "org/tiny@v1"\nadapters = ["here", "org/tiny-lora", "modelscope:a/b"]\n', encoding="utf-8")
    (tmp_path / "here").mkdir()
    recipe = Recipe(**read_recipe(file))
    sources = [adapter.source for adapter in recipe.adapters]
    assert (recipe.model, sources[0]) == (HubId("org/tiny", "v1"), tmp_path / "here")
    assert sources[1:] == [HubId("org/tiny-lora"), HubId("a/b", hub="modelscope")]
    assert recipe.name == "tiny-here-tiny-lora-b"
    assert recipe.to_json()["model"] == "org/tiny"


# Which files

MODEL_FILES = [
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("qwen.tiktoken", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "LICENSE", "NOTICE"),
    *("chat_template.jinja", "additional_chat_templates/tool_use.jinja", "modeling_x.py"),
]
NOT_NEEDED = [
    *("README.md", ".gitattributes", "model.gguf", "model.onnx", "onnx/config.json", "onnx/model.safetensors"),
    *("original/consolidated.00.pth", "original/tokenizer.model", "training_args.bin", "optimizer.pt"),
    *("consolidated.safetensors", "flax_model.msgpack", "a/additional_chat_templates/x.jinja", "sub/modeling_x.py"),
]
SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
PICKLES = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]


def no_index(name: str) -> Path:
    raise AssertionError(f"{name} is asked for")


def test_small_files() -> None:
    assert small_files(TINY, [*MODEL_FILES, *NOT_NEEDED], "model") == sorted(MODEL_FILES)
    assert small_files(TINY, [*MODEL_FILES, "adapter_config.json"], "adapter") == sorted(
        {"adapter_config.json", *MODEL_FILES} - {"config.json", "generation_config.json", "modeling_x.py"}
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.safetensors", *SHARDS, "model.safetensors.index.json"], ["model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        ([*PICKLES, *SHARDS], SHARDS),
        ([*PICKLES, "model-1-of-2.safetensors"], PICKLES),
    ],
)
def test_one_form_of_the_weights(names: list[str], expected: list[str]) -> None:
    assert weight_files(TINY, ["config.json", *names, *NOT_NEEDED], "model", no_index) == expected


def test_an_adapter_beside_a_model_comes_with_it() -> None:
    """The build then asks whether it is meant."""
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    for weights in (["model.safetensors"], SHARDS):
        names = ["config.json", *weights, *adapter, "adapter_model.bin"]
        assert weight_files(TINY, names, "model", no_index) == [*weights, *adapter]
        assert weight_files(TINY, ["config.json", *weights, adapter[0]], "model", no_index) == weights


def test_an_index_names_the_shards(tmp_path: Path) -> None:
    index = "model.safetensors.index.json"
    (tmp_path / index).write_text(
        json.dumps({"weight_map": {"a": "odd.safetensors", "b": "x.safetensors", "c": "../../etc/passwd"}}),
        encoding="utf-8",
    )
    names = ["config.json", index, "odd.safetensors", "x.safetensors", *SHARDS, "pytorch_model.bin"]
    expected = [index, "odd.safetensors", "x.safetensors"]
    assert weight_files(TINY, names, "model", lambda name: tmp_path / name) == expected
    for broken in ("[]", "{", '{"weight_map": 3}'):
        (tmp_path / index).write_text(broken, encoding="utf-8")
        with pytest.raises(HubError, match="is not an index"):
            weight_files(TINY, names, "model", lambda name: tmp_path / name)


def test_weights_of_an_adapter() -> None:
    both = ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors", "model.safetensors"]
    assert weight_files(TINY, both, "adapter", no_index) == ["adapter_model.safetensors"]
    assert weight_files(TINY, both[:2], "any", no_index) == ["adapter_model.bin"]
    with pytest.raises(HubError, match=r"adapter_model\.safetensors"):
        weight_files(TINY, ["adapter_config.json"], "adapter", no_index)


@pytest.mark.parametrize(
    ("names", "kind", "message", "hint"),
    [
        (["adapter_config.json"], "model", "an adapter, not a model", "quantkit build BASE_MODEL --adapter org/tiny"),
        (["x.gguf"], "model", "only GGUF files", "transformers' format"),
        (["config.json"], "adapter", "this is a model", "quantkit build org/tiny"),
        (["README.md"], "any", "neither a model", "adapter that PEFT saved"),
    ],
)
def test_another_kind_of_repository(names: list[str], kind: Any, message: str, hint: str) -> None:
    with pytest.raises(HubError, match=message) as caught:
        small_files(TINY, names, kind)
    assert hint in caught.value.hint


def test_no_weights() -> None:
    with pytest.raises(HubError, match=r"no weights in safetensors or \.bin, only files such as a\.gguf"):
        weight_files(TINY, ["config.json", "a.gguf"], "model", no_index)


# Downloads


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


class Hub:
    """The server with empty shelves, and a client with an empty cache."""

    def __init__(self, server: HubServer, root: Path) -> None:
        server.repos.clear()
        server.requests.clear()
        self.server, self.root = server, root

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> Repo:
        folder = self.root / "repos" / name
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        return self.share(name, folder, **options)

    def share(self, name: str, folder: Path, **options: Any) -> Repo:
        return self.server.repos.setdefault(name, Repo(folder, **options))

    def environment(self, **extra: str) -> dict[str, str]:
        return hub_environment(self.server.endpoint, self.root / "home", **extra)

    def get(self, source: str, kind: str = "model", **extra: str) -> dict[str, Any]:
        """``local_folder`` in a process of its own; nothing but its answer is printed."""
        self.server.requests.clear()
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.hub_client", source, kind],
            cwd=REPOSITORY, env=self.environment(**extra), capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.stderr == ""
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def refusal(self, source: str, *, error: tuple[str, ...], hint: str, kind: str = "model", **extra: str) -> None:
        found = self.get(source, kind, **extra)
        assert found["kind"] == "HubError"
        for text in (source, *error):
            assert text in found["error"]
        assert hint in found["hint"]

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        asked = (request.path for request in self.server.requests if request.method == "GET")
        return sorted(path.split(f"/{COMMIT}/")[1] for path in asked if f"/{COMMIT}/" in path)


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(server, tmp_path)


SMALL = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "additional_chat_templates/tool.jinja": b"t"}
UNWANTED = {"README.md": b"#", "model.gguf": b"GGUF", "original/consolidated.00.pth": b"p", "pytorch_model.bin": b"b"}


def test_only_what_is_needed_once(hub: Hub) -> None:
    hub.add("org/tiny", {**SMALL, **UNWANTED, "model.safetensors": b"w" * 1000}, revisions=("main", "v1"))
    found = hub.get("org/tiny@v1")
    folder = Path(found["folder"])
    wanted = {**SMALL, "model.safetensors": b"w" * 1000}
    assert {name: (folder / name).read_bytes() for name in wanted} == wanted
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == sorted(wanted)
    assert hub.fetched() == sorted(wanted)
    assert found["notes"] == ["downloading org/tiny@v1: 4 files, 1.01 kB"]
    total = sum(map(len, wanted.values()))
    assert found["phases"] == [{"name": "downloading tiny", "total": total, "unit": "bytes", "done": total}]
    assert source_name(folder) == "tiny"
    assert source_entry(HubId("org/tiny", "v1"), folder).revision == COMMIT

    again = hub.get("org/tiny@v1")
    assert (again["folder"], again["notes"], hub.fetched()) == (found["folder"], [], [])
    offline = hub.get("org/tiny@v1", HF_HUB_OFFLINE="1")
    assert (offline["folder"], hub.server.requests) == (found["folder"], [])
    assert offline["notes"] == [f"org/tiny@v1: HF_HUB_OFFLINE is set; using commit {COMMIT[:12]} from the cache"]
    away = hub.get("org/tiny@v1", HF_ENDPOINT="http://127.0.0.1:9")
    assert away["folder"] == found["folder"]
    assert "http://127.0.0.1:9 cannot be reached" in away["notes"][0]


def test_a_cut_connection_is_resumed_by_range(hub: Hub) -> None:
    weights = os.urandom(300_000)
    hub.add("org/tiny", {"config.json": b"{}", "model.safetensors": weights}, cut={"model.safetensors": 200_000})
    found = hub.get("org/tiny")
    assert (Path(found["folder"]) / "model.safetensors").read_bytes() == weights
    assert [one.range for one in hub.server.asked_for("model.safetensors")] == [None, "bytes=200000-"]
    assert found["phases"][0]["done"] == found["phases"][0]["total"]


@pytest.mark.parametrize("content", [b"W" * 1000, b"w" * 999])
def test_damaged_content(hub: Hub, content: bytes) -> None:
    """Of the same size, which the client does not see; and of another one."""
    repo = hub.add("org/tiny", {"config.json": b"{}", "model.safetensors": b"w" * 1000})
    repo.content["model.safetensors"] = content
    hub.refusal("org/tiny", error=(), hint="run the command again")
    hub.refusal(
        "org/tiny", error=("not (completely) in the download cache",), hint="unset HF_HUB_OFFLINE", HF_HUB_OFFLINE="1"
    )
    repo.content.clear()
    folder = Path(hub.get("org/tiny")["folder"])
    assert (folder / "model.safetensors").read_bytes() == b"w" * 1000
    assert hub.fetched() == ["model.safetensors"]


TINY_ID = HubId("org/tiny")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/tiny", HubMatrix(TINY_ID)),
        ("org/tiny@v1", HubMatrix(HubId("org/tiny", "v1"))),
        ("org/tiny:a/b.gguf", HubMatrix(TINY_ID, "a/b.gguf")),
        ("org/imatrix.gguf", Path("org/imatrix.gguf")),
        ("org/imatrix.DAT", Path("org/imatrix.DAT")),
        ("org/tiny:", Path("org/tiny:")),
        (":b.gguf", Path(":b.gguf")),
        ("imatrix", Path("imatrix")),
        ("C:\\imatrix", Path("C:\\imatrix")),
    ],
)
def test_a_matrix_is_a_file_or_in_a_repository(text: str, expected: object) -> None:
    assert parse_matrix(text) == expected
    assert isinstance(expected, Path) or str(expected) == text


def test_a_file_here_comes_before_a_repository(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").write_bytes(b"x")
    assert parse_matrix("org/tiny", tmp_path) == tmp_path / "org" / "tiny"
    with pytest.raises(HubError, match="only fetched from Hugging Face"):
        parse_matrix("modelscope:org/tiny")


@pytest.mark.parametrize(
    "name",
    ["imatrix.gguf", "imatrix.dat", "Tiny-imatrix.gguf", "tiny.imatrix", "a/Tiny.Imatrix.dat", "imatrix_unsloth.gguf"],
)
def test_the_usual_names_of_a_matrix(name: str) -> None:
    others = ["Tiny-Q4_K_M.gguf", "imatrix.txt", "README.md", "tiny-imatrixed-Q4_K_M.gguf"]
    assert choose_matrix(HubMatrix(TINY_ID), [*others, name]) == name


@pytest.mark.parametrize(
    ("asked", "names", "message", "hint"),
    [
        ("", ["a.gguf"], "no file whose name says", "--imatrix org/tiny:FILE"),
        ("", ["a-imatrix.gguf", "imatrix.dat"], "2 importance matrices: a-imatrix.gguf, imatrix.dat", "a-imatrix.gguf"),
        ("b.gguf", ["a.gguf", "imatrix.dat"], "no file 'b.gguf'; it has imatrix.dat", "one of its files"),
    ],
)
def test_which_matrix_is_asked(asked: str, names: list[str], message: str, hint: str) -> None:
    with pytest.raises(HubError) as refused:
        choose_matrix(HubMatrix(TINY_ID, asked), names)
    assert message in str(refused.value)
    assert hint in refused.value.hint


def test_a_matrix_is_fetched_alone(hub: Hub) -> None:
    files = {"Tiny-Q4_K_M.gguf": b"m" * 100, "Tiny-imatrix.gguf": b"GGUF...", "README.md": b"#"}
    repo = hub.add("org/tiny", files)
    found = hub.get("org/tiny", "matrix")
    assert Path(found["file"]).read_bytes() == b"GGUF..."
    assert hub.fetched() == ["Tiny-imatrix.gguf"]
    assert found["notes"][-1] == "importance matrix: Tiny-imatrix.gguf of org/tiny"
    assert hub.get("org/tiny:Tiny-imatrix.gguf", "matrix")["file"] == found["file"]
    assert hub.fetched() == []
    offline = hub.get("org/tiny", "matrix", HF_HUB_OFFLINE="1")
    assert (offline["file"], hub.server.requests) == (found["file"], [])
    repo.denied = (403, "GatedRepo")
    hub.refusal("org/none", kind="matrix", error=("no such model on the hub",), hint="hf auth login")


def test_small_files_are_checked_too(hub: Hub) -> None:
    repo = hub.add("org/tiny", {"config.json": b"{}", "model.safetensors": b"w"})
    repo.content["config.json"] = b"[]"
    hub.refusal("org/tiny", error=("config.json was damaged",), hint="run the command again")


def test_refusals(hub: Hub) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"w"}
    endpoint = hub.server.endpoint
    hub.add("org/gated", files, denied=(403, "GatedRepo"))
    hub.refusal("org/gated", error=("gated",), hint=f"accept its terms at {endpoint}/org/gated, then run hf auth login")
    hub.refusal("org/none", error=("no such folder", "no such model on the hub"), hint="hf auth login")
    hub.add("org/tiny", files)
    hub.refusal("org/tiny@v9", error=("no revision 'v9'",), hint=f"{endpoint}/org/tiny/tree/main")
    hub.add("org/forbidden", files, denied=(403, ""))
    hub.refusal(
        "org/forbidden", error=("the hub answered with HTTP status 403",), hint="a token that may read org/forbidden"
    )
    hub.refusal(
        "org/tiny",
        error=("no such folder", "HF_HUB_OFFLINE is set"),
        hint="hf download org/tiny --local-dir tiny",
        HF_HUB_OFFLINE="1",
    )
    hub.refusal(
        "org/tiny@v1",
        error=("no such folder",),
        hint="hf download org/tiny --revision v1 --local-dir tiny",
        HF_HUB_OFFLINE="1",
    )
    hub.refusal("org/tiny", error=("cannot be reached",), hint="HF_ENDPOINT", HF_ENDPOINT="http://127.0.0.1:9")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "made"))
    monkeypatch.setattr(client.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 4, 6))
    client._check_space(TINY, 6)
    with pytest.raises(HubError, match=r"needs 7 bytes, but the disk of .* has 6 bytes free") as caught:
        client._check_space(TINY, 7)
    assert "HF_HOME" in caught.value.hint
    with pytest.raises(HubError, match="is full"), explained(TINY):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_farthest_of_several_bars_counts() -> None:
    told: list[int] = []
    progress = FileProgress(100, told.append)
    arrived, written = bar_class(progress)(total=100), bar_class(progress)(total=100, initial=10)
    arrived.update(40)
    written.update(20)
    written.update(50)
    arrived.update(90)
    progress.reach(100)
    assert told == [40, 40, 20]


def test_adapters_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(client, "download", lambda source, kind, reporter: asked.append((source, kind)) or Path("x"))
    fetch(TINY, [HubId("org/lora"), Path("here")], Reporter())
    assert asked == [(HubId("org/lora"), "adapter"), (TINY, "model")]


# The whole way


def quantkit(hub: Hub, *args: str, cwd: Path, **extra: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "quantkit", *args], cwd=cwd, env=hub.environment(**extra),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_mistrals_own_tokenizer_is_refused_by_name(hub: Hub, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """It is downloaded for that."""
    shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "tiny")
    (tmp_path / "tiny" / "tokenizer.json").rename(tmp_path / "tiny" / "tekken.json")
    hub.share("org/tiny", tmp_path / "tiny")
    words = [sys.executable, "-m", "quantkit", "build", "org/tiny", "--dry-run"]
    done = subprocess.run(
        words, cwd=tmp_path, env=hub.environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "tekken.json: Mistral's own tokenizer format is not supported" in done.stderr


def test_a_build_from_the_hub_is_the_build_from_the_folders(
    hub: Hub, checkpoint: Callable[..., Path], adapter: Callable[..., Path], tmp_path: Path
) -> None:
    tiny, lora = tmp_path / "tiny", tmp_path / "tiny-lora"
    shutil.copytree(checkpoint("llama3-untied", dtype="f32"), tiny)
    shutil.copytree(adapter("q-and-v"), lora)
    (tiny / "LICENSE").write_text("Test licence\n", encoding="utf-8")
    hub.share("org/tiny", tiny)
    hub.share("org/tiny-lora", lora)
    common = ("--quant", "q8_0", "--no-verify", "--device", "cpu")
    work = tmp_path / "work"
    work.mkdir()
    notes = quantkit(hub, "build", "org/tiny", "--adapter", "org/tiny-lora", *common, cwd=work)
    assert "note: downloading org/tiny-lora: " in notes
    assert "note: downloading org/tiny: " in notes
    made = work / "tiny-tiny-lora"
    (work / "local").mkdir()
    quantkit(hub, "build", str(tiny), "--adapter", str(lora), *common, cwd=work / "local")
    local = work / "local" / "tiny-tiny-lora"
    assert sorted(os.listdir(made)) == sorted(os.listdir(local))
    for path in made.glob("*.gguf"):
        assert path.read_bytes() == (local / path.name).read_bytes()
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["sources"] == {
        "model": {"hub": "huggingface", "id": "org/tiny", "revision": COMMIT},
        "adapters": [{"hub": "huggingface", "id": "org/tiny-lora", "revision": COMMIT}],
    }
    assert (manifest["name"], manifest["recipe"]["model"]) == ("tiny-tiny-lora", "org/tiny")
    assert COMMIT not in json.dumps({**manifest, "sources": None})
    for name in ("README.md", "Modelfile"):
        text = (made / name).read_text(encoding="utf-8")
        assert "org/tiny" in text
        assert COMMIT not in text

    # A cached snapshot is a folder like any other, with links in it.
    snapshot = next((hub.root / "home").rglob("snapshots")) / COMMIT
    model = next(p for p in (hub.root / "home").rglob("model.safetensors")).parent
    assert source_name(snapshot) in ("tiny", "tiny-lora")
    with open_checkpoint(model) as opened, open_checkpoint(tiny) as expected:
        assert opened.tensors.keys() == expected.tensors.keys()


# ModelScope


def fake_modelscope(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The parts of modelscope that are used. Signatures as in modelscope 1.40.2 and modelscope-hub 0.4.6 or later."""
    calls: list[dict[str, Any]] = []

    class ClientError(Exception):
        pass

    class HubApi:
        def get_model_files(
            self,
            model_id: str,
            revision: str | None = None,
            root: str | None = None,
            recursive: bool = True,
            **kwargs: Any,
        ) -> list[dict[str, Any]]:
            if model_id == "org/none":
                raise ClientError("[E3020] [404] no such model\n  Request: GET")
            if model_id == "org/away":
                raise ConnectionError("no route")
            return [{"Path": name, "Size": len(content)} for name, content in files.items()]

    def snapshot_download(
        model_id: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        user_agent: dict[str, str] | str | None = None,
        local_files_only: bool | None = False,
        cookies: Any = None,
        ignore_file_pattern: str | list[str] | None = None,
        allow_file_pattern: str | list[str] | None = None,
        local_dir: str | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        max_workers: int | None = None,
        repo_id: str | None = None,
        repo_type: str | None = None,
        progress_callbacks: list[type] | None = None,
        token: str | None = None,
        endpoint: str | None = None,
    ) -> str:
        calls.append({"id": model_id, "revision": revision, "names": allow_patterns})
        if local_files_only:
            raise ClientError("not in the cache")
        for name in allow_patterns or ():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
            for made in (kind(name, len(files[name])) for kind in progress_callbacks or ()):
                made.update(len(files[name]))
                made.end()
        return str(folder)

    modules = {
        "modelscope": {},
        "modelscope.hub": {},
        "modelscope.hub.api": {"HubApi": HubApi},
        "modelscope.hub.errors": {"HubError": ClientError},
        "modelscope.hub.snapshot_download": {"snapshot_download": snapshot_download},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_modelscope(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {**SMALL, **UNWANTED, "model.safetensors": b"w" * 1000}
    folder = tmp_path / "models" / "org--tiny" / "snapshots" / "master"
    calls = fake_modelscope(monkeypatch, folder, files)
    source = parse_source("modelscope:org/tiny@master")
    recorder = Recorder()
    assert local_folder(source, "model", recorder) == folder
    names = [name for call in calls for name in call["names"]]
    assert sorted(names) == sorted([*SMALL, "model.safetensors"])
    assert calls[-1] == {"id": "org/tiny", "revision": "master", "names": ["model.safetensors"]}
    assert recorder.notes == ["downloading modelscope:org/tiny@master: 3 files, 1.01 kB"]
    assert recorder.phases[0]["done"] == recorder.phases[0]["total"]
    assert source_name(folder) == "tiny"
    again = Recorder()
    assert local_folder(source, "model", again) == folder
    assert again.notes == []


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("modelscope:org/none", r"cannot be downloaded \(\[E3020\] \[404\] no such model\)", "modelscope login"),
        ("modelscope:org/away", r"cannot be reached \(no route\)", "give its folder"),
    ],
)
def test_modelscope_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str, hint: str
) -> None:
    fake_modelscope(monkeypatch, tmp_path, {})
    with pytest.raises(HubError, match=message) as caught:
        local_folder(parse_source(text), "model", Reporter())
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("cause", "calls", "message", "hint"),
    [
        ("NetworkError", 4, "model.safetensors cannot be downloaded .line broke.", "what has arrived is kept"),
        ("FileIntegrityError", 1, "cannot be downloaded", "download the file again"),
        ("NotExistError", 1, "cannot be downloaded", "check the id"),
    ],
)
def test_modelscope_goes_on_as_long_as_something_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cause: str, calls: int, message: str, hint: str
) -> None:
    """The package gives up a file after a few failures, whatever came in between."""
    size = 9000
    fake_modelscope(monkeypatch, tmp_path, {"config.json": b"{}", "model.safetensors": b"w" * size})
    module = sys.modules["modelscope.hub.snapshot_download"]
    whole, error = module.snapshot_download, sys.modules["modelscope.hub.errors"].HubError
    there = [0]
    monkeypatch.setattr(modelscope, "PATIENCE", Patience(sleep=lambda seconds: None))

    def breaks(*args: Any, **options: Any) -> str:
        if options["allow_patterns"] == ["config.json"]:
            return str(whole(*args, **options))
        called.append(there[0])
        there[0] = min(there[0] + 3000, 8000)
        made = options["progress_callbacks"][0]("model.safetensors", size)
        made.update(there[0])
        made.end()
        raised = error("1 of 1 file(s) failed")
        raised.failed_files = {"model.safetensors": type(cause, (Exception,), {})("line broke")}
        raise raised

    called: list[int] = []
    monkeypatch.setattr(module, "snapshot_download", breaks)
    recorder = Recorder()
    with pytest.raises(HubError, match=message) as caught:
        local_folder(parse_source("modelscope:org/tiny"), "model", recorder)
    assert hint in caught.value.hint
    assert len(called) == calls
    assert recorder.phases[0]["done"] == there[0]
    assert recorder.notes[1:] == ["model.safetensors: line broke; trying again"] * (calls - 1)


def test_modelscope_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(HubError, match="needs the package modelscope") as caught:
        local_folder(parse_source("modelscope:org/tiny"), "model", Reporter())
    assert caught.value.hint == "in quantkit's checkout: pip install '.[modelscope]'"


def test_no_client_without_an_id() -> None:
    code = (
        "import sys, quantkit.jobs.recipe, quantkit.hub.fetch; from pathlib import Path;"
        "from quantkit.system.progress import Reporter;"
        "quantkit.hub.fetch.fetch(Path('a'), [Path('b')], Reporter());"
        "assert not {'huggingface_hub', 'modelscope'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=PATIENCE)


def test_the_signature_of_the_fake_is_used() -> None:
    """What we pass by name is in the real signatures of the installed client."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    assert {"dry_run", "tqdm_class", "revision"} <= inspect.signature(hf_hub_download).parameters.keys()
    assert {"allow_patterns", "local_files_only"} <= inspect.signature(snapshot_download).parameters.keys()
    assert {"files_metadata", "timeout"} <= inspect.signature(HfApi.model_info).parameters.keys()
