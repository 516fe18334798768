"""Defects found once and kept from coming back: outputs, disks and processes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_stream import Source

from quantkit.engine.device import Workers
from quantkit.engine.stream import stream
from quantkit.errors import OutOfRangeError, OutputError, QuantkitError
from quantkit.files.replaceable import Mark
from quantkit.files.workspace import workspace
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, align, encode_header, read_header
from quantkit.gguf.kv import u32
from quantkit.jobs.build import build
from quantkit.jobs.convert import convert
from quantkit.jobs.merge import merge
from quantkit.jobs.quantize import quantize
from quantkit.jobs.recipe import Recipe
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.plan.values import PlannedTensor

Maker = Callable[..., Path]
WEIGHT = "model.layers.0.self_attn.o_proj.weight"


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def bump(folder: Path, name: str, value: float) -> Path:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3, 3] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_an_interrupt_while_the_workers_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def interrupted(self: threading.Thread) -> None:
        start(self)
        started.append(self)
        if len(started) == 2:
            raise KeyboardInterrupt

    def slow(name: str, first: int, last: int) -> None:
        time.sleep(0.2)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    chosen = [PlannedTensor(f"t{i}", "", (640, 64), GGMLType.F16) for i in range(20)]
    source = Source({tensor.name: torch.ones(tensor.shape) for tensor in chosen}, slow)
    with pytest.raises(KeyboardInterrupt):
        stream(chosen, unquantized_outputs("x", "f16", [], chosen), source, tmp_path, workers=Workers(3))
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(("quant", "value"), [("f16", 1e5), ("q4_0", 1e6), ("q8_0", 1e7)])
def test_a_scale_that_overflows(checkpoint: Maker, tmp_path: Path, quant: str, value: float) -> None:
    model = bump(shutil.copytree(checkpoint("llama3-untied", layers=1, dtype="f32"), tmp_path / "m"), WEIGHT, value)
    base = convert(model, tmp_path / "base.gguf", outtype="f32")
    with pytest.raises(QuantkitError, match="attn_output"):
        quantize(base, tmp_path / "x.gguf", quant=quant)
    with pytest.raises(QuantkitError, match=r"o_proj|attn_output"):
        build(Recipe(model, (), (quant,), tmp_path / "out", "it", outtype="bf16"), verify=False)


def test_the_hint_of_merge(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    model = bump(shutil.copytree(checkpoint("llama3-untied", dtype="f32"), tmp_path / "m"), WEIGHT, 1e6)
    with pytest.raises(OutOfRangeError) as caught:
        merge(model, tmp_path / "x", adapters=[adapter("q-and-v")], dtype="f16")
    assert "--dtype" in caught.value.hint


@pytest.mark.parametrize("alignment", [64, 128])
def test_another_alignment(checkpoint: Maker, tmp_path: Path, alignment: int) -> None:
    base = convert(checkpoint("llama3-untied", layers=1), tmp_path / "base.gguf")
    header, raw = read_header(base), base.read_bytes()
    infos, data = [], b""
    for info in header.tensors.values():
        values = raw[header.data_offset + info.offset :][: info.type.nbytes(info.shape)]
        infos.append(TensorInfo(info.name, info.shape, info.type, len(data)))
        data += values.ljust(align(len(values), alignment), b"\0")
    head = encode_header([*header.metadata.values(), u32("general.alignment", alignment)], infos)
    aligned = tmp_path / "aligned.gguf"
    aligned.write_bytes(head.ljust(align(len(head), alignment), b"\0") + data)
    read_header(aligned)
    ours = read_header(quantize(aligned, tmp_path / "q.gguf", quant="q8_0"))
    assert ours.data_offset % ours.alignment == 0


def test_the_current_folder_is_not_imported(checkpoint: Maker, tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise SystemExit('imported from the current folder')", encoding="utf-8")
    script = "import sys; sys.path = [p for p in sys.path if p]; from quantkit.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "build", str(checkpoint("llama3-untied", layers=1)), "--dry-run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_moved_aside_by_a_killed_run_of_this_id(tmp_path: Path) -> None:
    """In a container every run has the same process id."""
    aside = tmp_path / f".out.quantkit-old-{os.getpid()}"
    aside.mkdir()
    (aside / "file").write_text('{"precious": true}', encoding="utf-8")
    with workspace(tmp_path / "out", overwrite=True, mark=Mark("file", ("precious",))):
        assert (tmp_path / "out" / "file").read_text(encoding="utf-8") == '{"precious": true}'


def test_an_output_that_came_back_is_not_overwritten(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    (tmp_path / f".out.quantkit-old-{process.pid}").mkdir()
    (tmp_path / f".out.quantkit-old-{process.pid}" / "file").touch()
    with pytest.raises(OutputError, match="already exists"), workspace(tmp_path / "out", overwrite=False):
        pytest.fail("the work has begun")


def test_a_name_with_an_impossible_id(tmp_path: Path) -> None:
    (tmp_path / ".out.quantkit-99999999999999999999").mkdir()
    with workspace(tmp_path / "out", overwrite=False) as work:
        work.publish()


def test_an_output_that_holds_its_inputs(checkpoint: Maker, tmp_path: Path) -> None:
    shutil.copytree(checkpoint("llama3-untied", layers=1), tmp_path / "work" / "base")
    with pytest.raises(OutputError):
        build(Recipe(tmp_path / "work" / "base", out=tmp_path / "work", name="x"), verify=False, overwrite=True)
    assert (tmp_path / "work" / "base" / "config.json").is_file()


def test_a_disk_that_fills_beside_the_shards(
    checkpoint: Maker, adapter: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, changes_ = checkpoint("llama3-untied", dtype="f32"), adapter("q-and-v")
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left"):
        merge(base, tmp_path / "x", adapters=[changes_])


def test_a_disk_that_fills_at_the_manifest(checkpoint: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, write_bytes = checkpoint("llama3-untied", layers=1), Path.write_bytes
    monkeypatch.setattr(
        Path,
        "write_bytes",
        lambda self, *a, **k: full() if self.name == "manifest.json" else write_bytes(self, *a, **k),
    )
    with pytest.raises(OutputError, match="No space left"):
        build(Recipe(model, out=tmp_path / "x", name="x"), verify=False)


def test_a_flush_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OutputError, match="No space left"),
        workspace(tmp_path / "x", overwrite=False, fsync=True) as work,
    ):
        work.publish()
    assert not (tmp_path / "x").exists()


def test_all_of_a_folder_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr(
        "quantkit.files.workspace.sync", lambda path: flushed.append((path.name, (tmp_path / "x").exists()))
    )
    with workspace(tmp_path / "x", overwrite=False, fsync=True) as work:
        (work.path / "config.json").write_text("{}", encoding="utf-8")
        temporary = work.path.name
        work.publish()
    assert flushed == [("config.json", False), (temporary, False), (tmp_path.name, True)]


def test_a_file_never_replaces_a_folder(checkpoint: Maker, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="is a folder") as caught:
        convert(checkpoint("llama3-untied", layers=1), tmp_path / "models", overwrite=True)
    assert "-o" in caught.value.hint
    assert (tmp_path / "models" / "precious").is_file()


def test_template_files_are_carried_along(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama3-untied", dtype="f32"), tmp_path / "m")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("x", encoding="utf-8")
    merged = merge(folder, tmp_path / "x", adapters=[adapter("q-and-v")])
    assert (merged / "additional_chat_templates" / "rag.jinja").is_file()


def test_an_imatrix_of_another_model(checkpoint: Maker, tmp_path: Path) -> None:
    base = convert(checkpoint("llama3-untied", layers=1), tmp_path / "base.gguf")
    name = b"blk.99.attn_q.weight"
    values = torch.ones(256)
    raw = b"\1\0\0\0" + len(name).to_bytes(4, "little") + name + b"\1\0\0\0" + (256).to_bytes(4, "little")
    (tmp_path / "other.dat").write_bytes(raw + values.numpy().tobytes())
    with pytest.raises(QuantkitError, match="has no tensor of this model"):
        quantize(base, tmp_path / "q.gguf", quant="q4_k_m", imatrix=tmp_path / "other.dat")


def test_bf16_from_f16_is_said(checkpoint: Maker, tmp_path: Path) -> None:
    model = checkpoint("llama3-untied", layers=1)
    result = build(Recipe(model, (), ("bf16", "q8_0"), tmp_path / "out", "it"), verify=False)
    assert [note for note in result.plan.notes if note.startswith("bf16:") and "--outtype bf16" in note]
    assert not [note for note in result.plan.notes if note.startswith("q8_0:")]
