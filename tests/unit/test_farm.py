"""``quantkit farm``: its recipes, what it keeps, and a real Ray cluster that loses a node in the middle."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from quantkit.cli.main import cli
from quantkit.cluster.connection import Node, around_sockets, connected
from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import QuantkitError
from quantkit.farm import events as farm_events
from quantkit.farm import node
from quantkit.farm import run as farm_run
from quantkit.farm.published import is_published
from quantkit.farm.recipes import read_recipes
from quantkit.farm.run import _cluster_stays, fair_threads
from quantkit.farm.values import Answer, Item, Needs, Wanted
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.imatrix import imatrix
from quantkit.jobs.prepare import prepare
from quantkit.jobs.quantize import quantize
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.spread import shares
from quantkit.plan.values import count_elements
from quantkit.system.host import host_token
from quantkit.system.progress import Reporter
from quantkit.system.temporary import temporary_folder
from tests.conftest import Maker
from tests.support.patience import PATIENCE
from tests.support.ray_cluster import INTERRUPTED, MATRIX, evaluation_of

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'quantkit-gguf[ray]'")
# Enough weights for a second of searching, so that the node is killed before the build ends.
SLOW = {"hidden": 512, "intermediate": 2048, "layers": 4}


def written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "farm.toml").write_text(text, encoding="utf-8")
    return folder / "farm.toml"


def test_a_matrix_is_a_build_for_each_combination(tmp_path: Path) -> None:
    for name in ("base", "a", "b"):
        (tmp_path / name).mkdir()
    text = """
        model = "base"
        out = "made"
        device = "cpu"
        threads = 3
        [matrix]
        adapters = [[], "a", [{path = "b", weight = 0.5}, "a"]]
        quants = ["q4_0", ["q8_0", "q5_0"]]
        imatrix = ["", "some/matrix.gguf"]
        pure = [false]
    """
    wanted = read_recipes([written(tmp_path, text)])
    folders = [one.recipe.folder.relative_to(tmp_path / "made").as_posix() for one in wanted]
    assert len(wanted) == 12
    assert folders[:4] == [
        "base-q4_0-no-imatrix", "base-q4_0-matrix", "base-q8_0+q5_0-no-imatrix", "base-q8_0+q5_0-matrix",
    ]  # fmt: skip
    assert folders[-1] == "bx0.5+a-q8_0+q5_0-matrix"
    last = wanted[-1].recipe
    assert [(adapter.folder.name, adapter.weight) for adapter in last.adapters] == [("b", 0.5), ("a", 1.0)]
    assert (last.quants, last.imatrix) == (("q8_0", "q5_0"), tmp_path / "some/matrix.gguf")
    assert {(one.device, one.threads, one.recipe.model) for one in wanted} == {("cpu", 3, tmp_path / "base")}


def test_recipes_of_a_folder_have_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("two", "one"):
        (tmp_path / "recipes" / f"{name}.toml").write_text(f'model = "../base"\nname = "{name}"\ncalibrate = "auto"\n')
    wanted = read_recipes([Path("recipes")])
    assert [(one.label, one.recipe.folder) for one in wanted] == [("one", tmp_path / "one"), ("two", tmp_path / "two")]
    assert {one.recipe.model for one in wanted} == {tmp_path / "base"}
    assert wanted[0].recipe.to_json() == Recipe("recipes/../base", name="one", calibrate="auto").to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('model = "m"\n[matrix]\nadapter = ["a"]', "unknown key 'adapter'"),
        ('model = "m"\n[matrix]\nadapter = [""]', "unknown key 'adapter'"),
        ('model = "m"\n[matrix]\nquants = "q4_0"', "matrix.quants is 'q4_0'; expected a list"),
        ('model = "m"\n[matrix]\nquants = []', "matrix.quants is []"),
        ('model = "m"\nmatrix = 3', "matrix is not a table"),
        ('model = "m"\n[matrix]\nname = ["a", "b"]', "name cannot be in [matrix]"),
        ('model = "m"\nquants = "q4_0"\n[matrix]\nquants = ["q8_0"]', "quants is given for all builds and in [matrix]"),
        ('model = "m"\n[matrix]\nquants = ["q4_0", "Q4_0"]', "would both write"),
        ("[matrix]\nquants = ['q4_0']", "model is missing"),
        ('model = "m"\nsize = "1GB"\n[matrix]\npure = [true]', "--size and --pure cannot be combined"),
    ],
)
def test_what_is_no_farm_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(QuantkitError) as caught:
        read_recipes([written(tmp_path, text)])
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantkitError, match=r"no recipe \(\*\.toml\) in this folder"):
        read_recipes([tmp_path])


@pytest.mark.parametrize(
    ("resources", "builds", "cards", "threads"),
    [
        ([(16, 0)], 4, False, 4),
        ([(16, 0), (4, 0)], 1, False, 16),
        ([(2, 0)], 24, False, 1),
        ([(16, 1), (16, 1)], 8, True, 16),
        ([(32, 2)], 8, True, 16),
        ([(32, 2)], 1, True, 32),
        ([(64, 4), (8, 1), (128, 0)], 100, True, 8),
        ([(1, 4)], 100, True, 1),
        ([(16, 0)], 4, True, 4),
        ([(16, 4)], 4, False, 4),
    ],
)
def test_threads_are_shared_by_the_builds_that_run_at_a_time(
    resources: list[tuple[int, int]], builds: int, cards: bool, threads: int
) -> None:
    present = [Node("", "", {"CPU": float(cpu), **({"GPU": float(gpu)} if gpu else {})}) for cpu, gpu in resources]
    assert fair_threads(present, builds, cards=cards) == threads


def test_what_a_lost_attempt_left_beside_a_package_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "out"
    made.mkdir()
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait()
    left = tmp_path / f".out.quantkit-{over.pid}.{host_token()}"
    item = Item(0, "", Recipe("base", out=made), "cpu", 1, False, False, False, version="")
    for there, stays in ((False, True), (True, False)):
        left.mkdir(exist_ok=True)
        monkeypatch.setattr(node, "is_published", lambda *recipe, there=there, **options: there)
        assert node.is_kept(item, Reporter()) is there
        assert left.exists() is stays
        assert made.exists()


def kept(recipe: Recipe, **changes: Any) -> bool:
    return is_published(recipe, **{"device": "cpu", "verified": False, "threads": 1, "reporter": Reporter(), **changes})


def copied(folder: Path, to: Path) -> Path:
    """Hard links would change the originals' time of last change."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def touch(recipe: Recipe) -> None:
    assert isinstance(recipe.model, Path)
    os.utime(recipe.model / "tokenizer_config.json", (0, 0))  # older by its date, and changed now


def rename(recipe: Recipe) -> None:
    adapter = recipe.adapters[0].folder
    adapter.rename(adapter.with_name("aside"))
    adapter.with_name("aside").rename(adapter)


@contextmanager
def damaged(recipe: Recipe) -> Iterator[None]:
    (file,) = recipe.folder.glob("*.gguf")
    data, times = file.read_bytes(), file.stat()

    def write(content: bytes) -> None:
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    write(data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:])
    yield
    write(data)


@contextmanager
def of_another_version(recipe: Recipe) -> Iterator[None]:
    text = (recipe.folder / "manifest.json").read_text()
    manifest = json.loads(text)
    manifest["versions"]["quantkit"] = "0.0.1"
    (recipe.folder / "manifest.json").write_text(json.dumps(manifest))
    yield
    (recipe.folder / "manifest.json").write_text(text)


def test_only_what_is_whole_and_of_the_same_inputs_is_kept(tmp_path: Path, checkpoint: Maker, adapter: Maker) -> None:
    lora = copied(adapter("q-and-v"), tmp_path / "lora")
    base = copied(checkpoint("llama3-untied", dtype="f32"), tmp_path / "base")
    recipe = Recipe(base, lora, "q8_0", tmp_path / "out")
    assert not kept(recipe)
    for change in (rename, touch):
        time.sleep(0.3)  # the inputs must be older than the build, to the accuracy of the files' times
        build(recipe, verify=False, device="cpu", threads=1, overwrite=True)
        assert kept(recipe)
        change(recipe)
        assert not kept(recipe)


def test_only_what_was_asked_for_and_is_unchanged_is_kept(tmp_path: Path, checkpoint: Maker) -> None:
    recipe = Recipe(checkpoint("llama3-untied", dtype="f32"), (), "q8_0", tmp_path / "out")
    time.sleep(0.3)
    build(recipe, verify=False, device="cpu", threads=1)
    assert kept(recipe)
    assert not kept(recipe, verified=True)
    assert not kept(recipe, device="cuda")
    assert not kept(replace(recipe, quants=("q4_0",)))
    assert not kept(replace(recipe, system="Be brief."))
    for spoilt in (damaged, of_another_version):
        with spoilt(recipe):
            assert not kept(recipe)
        assert kept(recipe)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, checkpoint: Maker, adapter: Maker) -> Path:
    """The recipes of the farm."""
    folder = tmp_path_factory.mktemp("farm")
    base, lora, large = (
        checkpoint("llama3-untied", dtype="f32"),
        adapter("seven-projections"),
        checkpoint("llama3-untied", **SLOW),
    )
    shared = f"model = '{base}'\nout = 'out'\ndevice = 'cpu'\n"
    (folder / "matrix.toml").write_text(
        f"{shared}[matrix]\nadapters = [[], '{lora}']\nquants = [['q8_0', 'q5_0'], 'q4_k_m']\n"
    )
    slow = f"model = '{large}'\nout = 'slow'\ndevice = 'cpu'\nquants = 'iq3_s'\n"
    (folder / "slow.toml").write_text(slow)
    spread = f"model = '{base}'\nadapters = '{lora}'\nout = 'spread'\nquants = ['q4_k_m', 'iq3_s']\nkeep_f16 = true\n"
    (folder / "spread.toml").write_text(spread)
    (folder / "wrong.toml").write_text(f"model = '{base}'\nadapters = 'nowhere'\nout = 'wrong'\n")
    quantize(convert(BASE, folder / "model.gguf", adapters=ADAPTER), folder / "model-q4_0.gguf", quant="q4_0")
    return folder


@pytest.fixture(scope="module")
def done(place: Path) -> dict[str, Any]:
    """What happened on the cluster."""
    command = [sys.executable, "-m", "tests.support.ray_cluster", str(place)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout)  # Ray's own messages would not be JSON
    return found


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@with_ray
def test_a_killed_node_costs_an_attempt_and_nothing_else(place: Path, done: dict[str, Any]) -> None:
    first = {one["build"]: one for one in done["farm"]["first"]}
    states = {label: one["state"] for label, one in first.items()}
    assert states.pop("wrong") == "failed"
    assert len(states) == 5
    assert set(states.values()) == {"built"}
    killed, slow = done["farm"]["killed"], first["slow"]
    assert slow["attempts"] == 2
    assert killed not in ("", slow["node"])
    heard = events(place / "log.jsonl")
    (again,) = (event for event in heard if event["event"] == "retried" and event["build"] == "slow")
    assert (again["node"], again["error"]["kind"]) == (killed, "NodeDiedError")
    assert len({event["node"] for event in heard if event["event"] == "begun"}) > 1
    assert [event["gone"] for event in heard if event["event"] == "nodes"] == [[killed]]
    left = {path.name for folder in (place, place / "out") for path in folder.iterdir() if path.name.startswith(".")}
    assert left == set()


@with_ray
def test_a_failure_has_its_own_error_and_hint(place: Path, done: dict[str, Any]) -> None:
    (wrong,) = (one for one in done["farm"]["first"] if one["build"] == "wrong")
    (recipe,) = read_recipes([place / "wrong.toml"])
    with pytest.raises(QuantkitError) as caught:
        build(recipe.recipe, verify=False)
    assert wrong["error"] == {
        "kind": type(caught.value).__name__,
        "message": str(caught.value),
        "hint": caught.value.hint,
    }
    assert not (place / "wrong").exists()


@with_ray
def test_the_second_run_builds_nothing_that_is_there(place: Path, done: dict[str, Any]) -> None:
    """Although the process is killed that keeps what its builds tell."""
    assert done["farm"]["board"]
    states = [one["state"] for one in done["farm"]["second"]]
    assert states == ["kept"] * 5 + ["failed"]
    assert not [event for event in events(place / "again.jsonl") if event["event"] == "begun"]


@with_ray
def test_bytes_are_those_of_a_build_alone(place: Path, done: dict[str, Any], tmp_path: Path) -> None:
    def files(wanted: Wanted) -> dict[str, bytes]:
        folder = wanted.recipe.folder
        return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("report.")}

    wanted = read_recipes([place / "matrix.toml", place / "slow.toml", place / "spread.toml"])
    assert done
    for one in wanted[-3:]:  # with the adapter, that of the lost node, and that over all nodes
        alone = replace(one, recipe=replace(one.recipe, out=tmp_path / one.recipe.folder.name))
        build(alone.recipe, verify=False, device="cpu", threads=1)
        assert files(alone) == files(one)


class CutOff:
    """A cluster of two nodes. The first task of a kind is cut off with its node: it never answers, and says nothing."""

    def __init__(self, cut: str) -> None:
        self.cut, self.names, self.told = cut, ["a", "b"], list[tuple[int, str, Any]]()
        self.tasks: list[tuple[str, Item]] = []
        self.lost: set[int] = set()
        self.cancelled: list[int] = []

    def nodes(self) -> list[dict[str, Any]]:
        common = {"Alive": True, "Resources": {"CPU": 1.0, "memory": 1e12}}
        return [{"NodeID": name, "NodeManagerHostname": name, **common} for name in self.names]

    def remote(self, function: Any) -> Any:
        def start(item: Item, *more: Any) -> int:
            self.tasks.append((function.__name__, item))
            name = function.__name__
            number, cut = len(self.tasks) - 1, self.cut.startswith(name) and not self.lost
            if not (cut and self.cut.endswith("queued")):
                self.told.append((item.key, {"plan": "planning", "run": "begun"}[name], "a" if cut else "b"))
            self.lost |= {number} if cut else set()
            return number

        task = SimpleNamespace(remote=start)
        return SimpleNamespace(options=lambda **options: task)

    def wait(self, refs: list[int], **more: Any) -> tuple[list[int], list[int]]:
        ready = [ref for ref in refs if ref not in self.lost]
        if not ready:
            assert self.names != ["b"], "it waits for the lost node"
            self.names = ["b"]
        return ready[:1], []

    def get(self, ref: Any) -> Any:
        if ref == "board":
            told, self.told = self.told, []
            return told
        return Answer(needs=Needs(1, 1, 0, 1)) if self.tasks[ref][0] == "plan" else Answer(size=1)

    def cancel(self, ref: int) -> None:
        self.cancelled.append(ref)


@with_ray
@pytest.mark.parametrize(("cut", "attempts"), [("plan", 2), ("run", 2), ("plan queued", 1), ("run queued", 2)])
def test_what_is_on_a_node_that_ray_gives_up_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str, attempts: int
) -> None:
    """Ray waits for an answer for minutes after it has given up the node, if only its network is gone."""
    ray = CutOff(cut)
    monkeypatch.setattr(farm_run, "connected", lambda address, place: nullcontext(ray))
    monkeypatch.setattr(
        farm_run, "open_board", lambda ray: SimpleNamespace(take=SimpleNamespace(remote=lambda: "board"))
    )
    with farm_events.Log(tmp_path / "log.jsonl") as log:
        wanted = [Wanted(str(key), Recipe(tmp_path, out=tmp_path / f"{key}")) for key in range(3)]
        outcomes = farm_run.farm(wanted, events=log)
    assert [outcome.state for outcome in outcomes] == ["built"] * 3
    assert sorted(outcome.attempts for outcome in outcomes) == [1, 1, attempts]
    assert {outcome.node for outcome in outcomes} == {"b"}
    heard = [event["event"] for event in events(tmp_path / "log.jsonl")]
    queued = cut.endswith("queued")
    assert (heard.count("nodes"), heard.count("retried"), len(ray.cancelled)) == (1, int(not queued), int(queued))


@with_ray
def test_builds_on_one_node_get_different_cards(done: dict[str, Any]) -> None:
    seen = sorted(done["cards"], key=lambda one: one["span"])
    assert {(one["device"], one["threads"], one["memory"]) for one in seen} == {("cuda", 1, 10**6)}
    assert len({one["node"] for one in seen}) == 1
    assert sorted(one["cards"] for one in seen[:2]) == ["0", "1"]
    assert seen[2]["cards"] in ("0", "1")


@with_ray
def test_one_build_over_three_nodes_does_a_lost_share_again(done: dict[str, Any]) -> None:
    heard = [(what, node, tuple(names or ())) for what, node, names in done["spread"]["heard"]]
    (killed,) = (node for what, node, _ in heard if what == "killed")
    assert [node for what, node, _ in heard if what == "lost"] == [killed]
    finished = [(node, names) for what, node, names in heard if what == "done"]
    tensors = [name for _, names in finished for name in names]
    assert len(tensors) == len({*tensors})  # each once
    dealt = {names for what, node, names in heard if what == "dealt" and node == killed}
    again = dealt - {names for node, names in finished if node == killed}
    assert again
    assert again <= {names for node, names in finished if node != killed}
    assert len({node for node, _ in finished}) == 3


def require_loss(heard: Sequence[Sequence[Any]]) -> None:
    """A node was killed and lost, and what it had was done after that."""
    (killed,) = (node for what, node, _ in heard if what == "killed")
    assert [node for what, node, _ in heard if what == "lost"] == [killed]
    at = [what for what, *_ in heard].index("killed")
    had = [number for what, node, number in heard[:at] if what == "dealt" and node == killed]
    assert had[-1] in [number for what, _, number in heard[at:] if what == "done"]


@with_ray
def test_an_imatrix_of_several_nodes_is_that_of_one(place: Path, done: dict[str, Any], tmp_path: Path) -> None:
    heard = done["imatrix"]["heard"]
    require_loss(heard)
    assert [number for what, _, number in heard if what == "done"] == [*range(0, MATRIX["chunks"], 8)]
    assert done["imatrix"]["left"] == INTERRUPTED + 8
    alone = imatrix(place / "model.gguf", tmp_path / "imatrix.gguf", **MATRIX)
    assert (place / "imatrix.gguf").read_bytes() == alone.file.read_bytes()


@with_ray
def test_an_evaluation_of_several_nodes_is_that_of_one(place: Path, done: dict[str, Any]) -> None:
    found = done["evaluate"]["evaluation"]
    require_loss(done["evaluate"]["heard"])
    assert found["failed"] == []
    assert found["answers"]
    assert found == json.loads(json.dumps(evaluation_of(place).to_json()))


@pytest.mark.parametrize(
    "arguments", [["evaluate", "model.gguf", "model-q4_0.gguf"], ["imatrix", "model.gguf", "-o", "x.gguf"]]
)
def test_commands_say_that_no_cluster_answers(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(place)
    found = CliRunner().invoke(cli, [*arguments, "--chunks", "4", "--ray", "127.0.0.1:1"]).exception
    if find_spec("ray") is None:
        assert "Ray, which is not installed" in str(found)
    else:
        assert str(found).startswith("127.0.0.1:1: no Ray cluster answers")
    assert not (place / "x.gguf").exists()


@pytest.mark.parametrize("option", [{"calibrate": "auto"}, {"size": "1MB"}, {"mmproj": True}])
def test_what_is_not_divided_is_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(QuantkitError, match="cannot go with --ray"):
        build(Recipe(tmp_path, (), None, tmp_path / "out", "x", **option), ray="auto")


def test_shares_have_every_tensor_once(checkpoint: Maker) -> None:
    with prepare(Recipe(checkpoint("llama3-untied", dtype="f32"))) as prepared:
        tensors = prepared.plan.tensors
    for count in (1, 3, 8, 1000):
        made = shares(tensors, count)
        assert sorted(name for share in made for name in share.names) == sorted(tensor.name for tensor in tensors)
        assert sum(share.weights for share in made) == sum(count_elements(tensor.shape) for tensor in tensors)
        assert len(made) <= count or count == 1000


def test_a_cluster_of_its_own_has_a_secret(tmp_path: Path) -> None:
    """Ray listens on all interfaces, and runs whatever it is sent. It reads its secret when it is imported.

    Nor do its nodes let us wait for workers that somebody has killed.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_prestart_worker_first_driver")
    read = f"import os\ntold = [os.environ.get(name) for name in {names}]\n"
    (tmp_path / "ray.py").write_text(read)
    code = "from quantkit.cluster.connection import import_ray; print(*import_ray(alone={alone}).told)"
    plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    plain["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])

    def told(alone: bool) -> list[str]:
        command = [sys.executable, "-c", code.format(alone=alone)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout.split()

    (mode, secret, waits), (_, other, _) = told(True), told(True)
    assert mode == "token"
    assert len(secret) == 64
    assert secret != other
    assert waits == "0"
    assert told(False) == ["None", "None", "0"]


@with_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:x", "ray://127.0.0.1:10001", "127.0.0.1:99999"])
def test_no_cluster_is_said_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(QuantkitError, match=re.escape(address)) as caught, connected(address, tmp_path):
        pass
    assert "--ray auto" in caught.value.hint


def test_a_cluster_that_does_not_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: Any) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr(
        "quantkit.cluster.connection.import_ray",
        lambda alone: SimpleNamespace(is_initialized=lambda: False, init=init),
    )
    with (
        pytest.raises(QuantkitError, match=r"this machine: .*timed out during startup\.\)$"),
        connected(None, tmp_path),
    ):
        pass


@with_ray
def test_a_cluster_that_is_lost_is_said() -> None:
    from ray.exceptions import ActorDiedError

    with pytest.raises(QuantkitError, match="cluster was lost \\(ActorDiedError\\)"), _cluster_stays():
        raise ActorDiedError


@pytest.mark.parametrize("ends", ["os._exit(1)", "os.kill(os.getpid(), 9)", "pass"])
def test_a_program_that_ray_ends_does_not_end_without_a_word(tmp_path: Path, ends: str) -> None:
    """What its cluster goes on to do is ended, and its folder removed."""
    code = f"""if True:
        import os, subprocess, sys
        from quantkit.cluster.watch import watched
        from quantkit.system.temporary import temporary_folder
        with temporary_folder() as folder, watched(folder) as started, open(folder / "log", "w") as log:
            started()
            worker = subprocess.Popen(["sleep", "20"], stdout=log, stderr=subprocess.DEVNULL, start_new_session=True)
            print(worker.pid, flush=True)
            {ends}
            worker.kill()
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    said = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert said == ([] if ends == "pass" else ["error", "hint"])
    if sys.platform.startswith("linux"):
        assert os.listdir(tmp_path) == []
        assert not Path(f"/proc/{done.stdout.strip()}/exe").exists()


def test_a_cluster_that_never_lets_the_program_in_is_said() -> None:
    """Ray waits in C++ with Python's lock, for ever: no thread, no timer and no signal of Python's gets through."""
    code = "import ctypes\nfrom quantkit.cluster import watch\nwatch.START = 1.0\n"
    code += "with watch.watched() as started:\n    ctypes.PyDLL(None).sleep(60)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: the Ray cluster did not start, or let this program in, within 1 s")
    assert hint == "hint: run the same command again"


def test_sockets_have_short_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own folder of a session and its longest name have 64 bytes, and a socket's path 103 on macOS."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    for root in (tmp_path, Path("/tmp")):
        monkeypatch.setenv("TMPDIR", str(root))
        with temporary_folder(around_sockets()) as folder:
            assert len(str(folder)) + 64 <= 103
