"""The command line: its help costs no heavy import, its exit codes and error lines are a contract, --json is JSON."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import quantkit.jobs.build
from quantkit import __version__
from quantkit.cli.main import COMMANDS, main
from quantkit.cli.options import pairs, size_or_zero, size_value
from quantkit.errors import QuantkitError, VerificationError
from quantkit.gguf.header import read_header
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions
from quantkit.system.progress import Reporter, TerminalReporter
from quantkit.system.units import rough_size, size
from tests.support.patience import PATIENCE

Maker = Callable[..., Path]

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "llama_cpp", "rich", "jinja2", "numpy")


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """The command line may set signal handlers; the tests' own come back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, previous in before.items():
        signal.signal(number, previous)


class Run:
    """What one run of the command line did."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    def call(*args: object) -> Run:
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Run(caught.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def f16(checkpoint: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from quantkit.jobs.convert import convert

    return convert(checkpoint("llama3-untied", layers=1), tmp_path_factory.mktemp("f16") / "tiny.gguf")


def process(*args: object, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "quantkit"]
    return subprocess.run(
        [*command, *map(str, args)], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_help_lists_every_command(run: Callable[..., Run]) -> None:
    for option in ("--help", "-h"):
        shown = run(option)
        assert shown.code == 0
        listed = shown.out[shown.out.index("Commands:") :]
        assert [line.split()[0] for line in listed.splitlines()[1:] if line[2:3].strip()] == list(COMMANDS)
    shared = {"__init__", "choice", "completers", "farm_table", "main", "model_options", "options", "output", "plan"}
    modules = {path.stem for path in (REPOSITORY / "quantkit" / "cli").glob("*.py")} - shared
    assert modules == set(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    """Neither of the group nor of any command: the reason why they import inside of their functions."""
    script = f"""
import importlib, sys
from quantkit.cli.main import COMMANDS, cli
for args in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    cli.main(args, prog_name="quantkit", standalone_mode=False)
    found = [name for name in {HEAVY!r} if name in sys.modules]
    assert not found, (args, found)
"""
    done = process(code=script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: quantkit") == len(COMMANDS) + 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    command = importlib.import_module(f"quantkit.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help
    assert COMMANDS[name].endswith(".")


def test_the_version(run: Callable[..., Run]) -> None:
    shown = run("--version")
    assert (shown.code, shown.out) == (0, f"quantkit, version {__version__}\n")


def test_the_module_is_the_command() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"quantkit, version {__version__}\n")
    done = process("inspect", "none")
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error == "error: none: no such file or folder"
    assert hint == "hint: give a model folder, an adapter folder, a package or a .gguf file"


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("no-such-command",),
        ("build",),
        ("build", "x", "--no-such-option"),
        ("build", "x", "--param", "temperature"),
        ("build", "x", "--outtype", "q4_0"),
        ("build", "x", "--threads", "0"),
        ("convert", "x"),
        ("merge", "x", "-o", "y"),
        ("merge", "x", "--adapter", "a", "-o", "y", "--max-shard-size", "much"),
        ("quantize", "x", "-o", "y"),
        ("convert", "x", "-o", ""),
        ("build", "x", "--imatrix", ""),
        ("build", "x", "--bits", "0"),
        ("convert", "x", "-o", "y", "--rope-theta", "-1"),
        ("chat", ""),
        ("package", "-o", "y"),
        ("inspect",),
    ],
    ids=" ".join,
)
def test_wrong_usage(run: Callable[..., Run], args: tuple[str, ...]) -> None:
    done = run(*args)
    assert done.code == 2
    assert done.out == ""
    if args:
        (error, hint) = done.err.splitlines()
        assert error.startswith("error: ")
        assert hint == f"hint: quantkit {args[0]} --help".replace("no-such-command ", "")
    else:
        assert "Usage: quantkit" in done.err


def test_a_weight_that_is_no_number_is_told_of_its_option(run: Callable[..., Run]) -> None:
    done = run("merge", "x", "--adapter", "a", "--adapter-scaled", "b", "abc", "-o", "y")
    assert done.code == 2
    assert "Invalid value for '--adapter-scaled': weight 'abc' of b is not a number" in done.err


def test_an_error_is_two_lines_and_exit_code_1(run: Callable[..., Run], tmp_path: Path) -> None:
    done = run("convert", tmp_path / "none", "-o", tmp_path / "x.gguf")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"error: {tmp_path / 'none'}: no such folder\n"
        "hint: give the folder that contains config.json and the .safetensors files, or a Hugging Face id such as "
        "Qwen/Qwen2.5-0.5B\n"
    )
    assert list(tmp_path.iterdir()) == []


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (QuantkitError("what, where"), 1, f"error: what, where\nhint: {QuantkitError.default_hint}\n"),
        (QuantkitError("what, where", hint="do this"), 1, "error: what, where\nhint: do this\n"),
        (QuantkitError("name 'a\nb'\nis bad", hint="one\ntwo"), 1, "error: name 'a b' is bad\nhint: one two\n"),
        (VerificationError("built, but", hint="read it"), 3, "error: built, but\nhint: read it\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
    ],
    ids=["error", "hint", "newlines", "unverified", "interrupt", "abort"],
)
def test_exit_codes(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    monkeypatch.setattr(quantkit.jobs.build, "build", raising(error))
    done = run("build", "model")
    # click ends the terminal's line (^C) before it reports an interrupt.
    assert (done.code, done.out, done.err.lstrip("\n")) == (code, "", text)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantkit.jobs.build, "build", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["build", "model"])


def test_a_reader_that_goes_away(f16: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quantkit", "inspect", str(f16), "--json"],
            cwd=REPOSITORY,
            stdout=written,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    finally:
        os.close(written)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("2GB", 2_000_000_000),
        ("500MiB", 500 * 2**20),
        ("1.5 gb", 1_500_000_000),
        ("10kb", 10_000),
        ("1KiB", 1024),
        ("2GiB", 2 * 2**30),
        ("1TB", 10**12),
        ("123", 123),
        (" 7 MB ", 7_000_000),
    ],
)
def test_sizes(text: str, nbytes: int) -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--max-shard-size"])
    assert size_value(context, option, text) == nbytes


def test_sizes_that_may_be_zero() -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--vram"])
    found = [size_or_zero(context, option, text) for text in (None, "0", "0GB", "0.0", "2GB")]
    assert found == [None, 0, 0, 0, 2_000_000_000]
    with pytest.raises(click.BadParameter, match="is not a size such as 2GB"):
        size_or_zero(context, option, "0.1")


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "2 bytes", "2XB", "1e9", "0", "0GB", "1,5GB", "٣x", "0.1", "9" * 400, "9" * 400 + "GB"]
)
def test_sizes_that_are_none(text: str) -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--max-shard-size"])
    with pytest.raises(click.BadParameter, match="is not a size such as 2GB"):
        size_value(context, option, text)


def test_pairs_and_sizes_for_people() -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--param"])
    assert pairs(context, option, ("a=1", "stop=x=y", "empty=", "a=2")) == (
        ("a", "1"), ("stop", "x=y"), ("empty", ""), ("a", "2"),
    )  # fmt: skip
    with pytest.raises(click.BadParameter, match="'=1' is not KEY=VALUE"):
        pairs(context, option, ("=1",))
    assert [size(n) for n in (0, 999, 1000, 1_590_000, 3_210_000_000)] == [
        "0 bytes", "999 bytes", "1.00 kB", "1.59 MB", "3.21 GB",
    ]  # fmt: skip
    assert [rough_size(n) for n in (0, 512, 1000, 1_594_000, 395_910_000, 999_700_000, 15_949_000_000, 3e12)] == [
        "0 bytes", "512 bytes", "1.00 kB", "1.59 MB", "396 MB", "1.00 GB", "15.9 GB", "3000 GB",
    ]  # fmt: skip


def test_convert_and_quantize(run: Callable[..., Run], checkpoint: Maker, tmp_path: Path) -> None:
    model, base, small = checkpoint("llama3-untied", layers=1), tmp_path / "b.gguf", tmp_path / "q.gguf"
    done = run("convert", model, "-o", base, "--outtype", "bf16", "--threads", 2, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json == {"schema": 1, "file": str(base), "type": "bf16", "size": base.stat().st_size, "notes": []}
    done = run("quantize", base, "-o", small, "--quant", "Q8-0", "--json")
    assert done.json == {"schema": 1, "file": str(small), "type": "q8_0", "size": small.stat().st_size, "notes": []}
    again = run("quantize", base, "-o", small, "--quant", "q8_0")
    assert (again.code, again.out) == (1, "")
    assert "already exists" in again.err
    again = run("quantize", base, "-o", small, "--quant", "Q4_0", "--overwrite", "--pure")
    assert again.code == 0
    assert again.out.startswith(f"{small}  q4_0  ")
    assert {info.type.label for info in read_header(small).tensors.values()} == {"q4_0", "f32"}


def test_merge(run: Callable[..., Run], checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base, changes, out = checkpoint("llama3-untied", dtype="f32"), adapter("q-and-v"), tmp_path / "out"
    done = run("merge", base, "--adapter", changes, "-o", out, "--max-shard-size", "2MB", "--dtype", "bf16", "--json")
    assert done.code == 0
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(shards) > 1
    found = done.json
    (effect,) = found.pop("effects")
    assert (effect["adapter"], effect["matrices"], effect["changed"]) == (changes.name, 4, 4)
    assert found == {
        "schema": 1,
        "folder": str(out),
        "shards": shards,
        "size": sum((out / shard).stat().st_size for shard in shards),
        "notes": [],
    }
    shown = run("merge", base, "--adapter", changes, "-o", tmp_path / "one")
    assert shown.out.startswith(f"{tmp_path / 'one'}  1 shard  ")
    assert shown.out.splitlines()[1].startswith(f"{changes.name} adds ")


def test_inspect(run: Callable[..., Run], checkpoint: Maker, adapter: Maker, f16: Path) -> None:
    paths = {"checkpoint": checkpoint("llama3-untied", layers=1), "adapter": adapter("q-and-v"), "gguf": f16}
    for kind, path in paths.items():
        found = run("inspect", path, "--json").json
        assert (found["schema"], found["kind"], found["path"]) == (1, kind, str(path))
        shown = run("inspect", path)
        assert shown.code == 0
        lines = shown.out.splitlines()
        assert lines[0].split() == ["kind", kind]
        assert f"{len(found['tensors'])} (--tensors lists them)" in lines[-1]
        assert not any(tensor["name"] in line for line in lines for tensor in found["tensors"])
        listed = run("inspect", path, "--tensors").out.splitlines()
        assert listed[: len(lines) - 1] == lines[:-1]
        assert [line.split()[0] for line in listed[len(lines) - 1 :]] == [tensor["name"] for tensor in found["tensors"]]


def test_package(run: Callable[..., Run], f16: Path, tmp_path: Path) -> None:
    done = run("package", f16, "-o", tmp_path / "pkg", "--name", "It", "--param", "temperature=0.2", "--json")
    assert done.code == 0
    names = ["Modelfile", "README.md", "chat.ps1", "chat.sh", "manifest.json", "tiny.gguf"]
    assert done.json == {"schema": 1, "folder": str(tmp_path / "pkg"), "files": names}
    assert "PARAMETER temperature 0.2" in (tmp_path / "pkg" / "Modelfile").read_text(encoding="utf-8")
    shown = run("package", f16, "-o", tmp_path / "pkg", "--overwrite")
    assert shown.out.splitlines() == [str(tmp_path / "pkg" / name) for name in names]


def test_build_dry_run(run: Callable[..., Run], checkpoint: Maker, tmp_path: Path) -> None:
    model = checkpoint("llama3-untied", layers=4, padding=3)
    args = ("build", model, "--quant", "q4_k_m", "--quant", "q8_0", "--keep-f16", "-o", tmp_path / "it")
    args += ("--name", "it")
    plan = run(*args, "--dry-run", "--json").json
    assert (plan["schema"], plan["architecture"]) == (1, "llama")
    assert [(output["file"], output["quant"]) for output in plan["outputs"]] == [
        ("it-q4_k_m.gguf", "q4_k_m"),
        ("it-q8_0.gguf", "q8_0"),
        ("it-f16.gguf", "f16"),
    ]
    first = plan["outputs"][0]["tensors"]
    assert first["output.weight"]["type"] == "q6_K"
    assert "mixture" in first["output.weight"]["reason"]
    assert "reason" not in first["blk.0.attn_q.weight"]
    assert any("unused tokens fill the rest" in note for note in plan["notes"])
    shown = run(*args, "--dry-run")
    assert shown.code == 0
    assert "output        it-q4_k_m.gguf" in shown.out
    assert "  q6_K     llama.cpp's mixture for this file type: " in shown.out
    assert shown.out.count("llama.cpp's mixture") == 1  # not once a tensor
    assert "note: the embedding has" in shown.out
    assert list(tmp_path.iterdir()) == []
    # The plan is what a build does.
    built = run(*args, "--no-verify")
    assert built.code == 0
    for output in plan["outputs"]:
        file = tmp_path / "it" / output["file"]
        header = read_header(file)
        assert file.stat().st_size == output["size"]
        assert {name: (info.type.label, header.data_offset + info.offset) for name, info in header.tensors.items()} == {
            name: (entry["type"], entry["offset"]) for name, entry in output["tensors"].items()
        }
    assert "not verified (--no-verify)" in built.out
    assert "note: the embedding has" in built.err
    assert built.out.splitlines()[-1] == f"next: quantkit chat {tmp_path / 'it'}"


def test_build_json(run: Callable[..., Run], checkpoint: Maker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("build", checkpoint("llama3-untied", layers=1), "-o", out, "--name", "it", "--no-verify", "--json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert set(found.pop("seconds")) == {"plan", "compile", "stream", "package", "verify"}
    assert found == {
        "schema": 1,
        "folder": str(out),
        "outputs": [{"file": "it-q4_0.gguf", "quant": "q4_0", "size": (out / "it-q4_0.gguf").stat().st_size}],
        "adapter_outputs": [],
        "effects": [],
        "notes": [
            "Ollama: spaces and blank lines around system, user, assistant messages reach the model; its own chat "
            "template removes them (this rarely matters)"
        ],
        "verified": False,
        "checks": [],
        "not_made": [],
    }
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["schema"], report["verified"], report["passed"]) == (1, False, None)


def test_how_a_build_runs_is_in_the_recipe_or_in_flags_that_win(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[RunOptions] = []

    def build(recipe: Recipe, *, run: RunOptions, **others: object) -> None:
        ran.append(run)
        raise QuantkitError("seen")

    monkeypatch.setattr(quantkit.jobs.build, "build", build)
    recipe = tmp_path / "r.toml"
    recipe.write_text("model = 'm'\ndevice = 'cpu'\nthreads = 3", encoding="utf-8")
    run("build", "--recipe", recipe)
    run("build", "--recipe", recipe, "--threads", 2, "--overwrite")
    run("build", "--recipe", recipe, "--device", "cuda:1", "--fsync", "--json")
    run("build", "m")
    assert [(one.device, one.threads, one.overwrite, one.fsync) for one in ran] == [
        ("cpu", 3, False, False),
        ("cpu", 2, True, False),
        ("cuda:1", 3, False, True),
        ("auto", None, False, False),
    ]
    assert [type(one.reporter) for one in ran] == [TerminalReporter, TerminalReporter, Reporter, TerminalReporter]


def test_a_recipe_and_flags_that_win_over_it(run: Callable[..., Run], checkpoint: Maker, tmp_path: Path) -> None:
    recipe = tmp_path / "quantkit.toml"
    recipe.write_text(
        f"""
        model = {json.dumps(str(checkpoint("llama3-untied", layers=1)))}
        name = "from-the-file"
        quants = ["q8_0", "q4_0"]
        keep_f16 = true
        """,
        encoding="utf-8",
    )
    args = ("build", "--recipe", recipe, "--dry-run", "--json")
    files = [output["file"] for output in run(*args).json["outputs"]]
    assert files == ["from-the-file-q8_0.gguf", "from-the-file-q4_0.gguf", "from-the-file-f16.gguf"]
    files = [output["file"] for output in run(*args, "--quant", "q6_k", "--name", "flag").json["outputs"]]
    assert files == ["flag-q6_k.gguf", "flag-f16.gguf"]
    other = checkpoint("qwen2", layers=1)
    assert run("build", other, *args[1:]).json["architecture"] == "qwen2"
    recipe.write_text("nmae = 'x'", encoding="utf-8")
    assert run(*args).err.startswith(
        f"error: {recipe}: unknown key 'nmae'\nhint: did you mean name? known are: adapter_gguf, "
    )
    recipe.write_text("name = 'x'", encoding="utf-8")
    done = run(*args)
    assert done.code == 2
    assert "Missing argument 'MODEL'" in done.err


def test_a_device_that_is_not_there(run: Callable[..., Run], checkpoint: Maker, tmp_path: Path) -> None:
    model = checkpoint("llama3-untied", layers=1)
    for device, message in (("gpu", "device 'gpu' is unknown"), ("cuda:99", "device 'cuda:99': this machine has")):
        done = run("convert", model, "-o", tmp_path / "x.gguf", "--device", device)
        assert done.code == 1
        assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_every_error_has_a_way_on() -> None:
    of_the_tree = [kind for kind in QuantkitError.__subclasses__() if kind.__module__ == QuantkitError.__module__]
    kinds = [QuantkitError, *of_the_tree]
    assert all(kind("what").hint == kind.default_hint != "" for kind in kinds)
    assert len({kind.default_hint for kind in kinds}) == len(kinds)
    assert QuantkitError("what", hint="do this").hint == "do this"
