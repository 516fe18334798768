"""What all tests share: no network, processors shared out, and fixtures that make each checkpoint once."""

from __future__ import annotations

import compileall
import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads of tiny models only wait for each other, and they wait busily. Processes that tests start have this too.
os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity") and (worker := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")):
    # Each process of pytest-xdist gets its share of the processors: threads would wait for one that does not run.
    processors = sorted(os.sched_getaffinity(0))
    first, workers = int(worker) % len(processors), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, processors[first::workers])
# A shell that runs the tests in the background has them ignore Ctrl-C, and each process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest
import torch

import quantkit
from quantkit.demo.data import BASE
from tests.support import sweeps
from tests.support.adapters import VARIANTS, make_adapter
from tests.support.checkpoints import KINDS, make_checkpoint
from tests.support.reference import ReferenceConverter
from tests.support.vocabularies import write_vocabulary

torch.set_num_threads(1)
# Examples are the same in each run, and none is too slow: what fails on a busy machine fails on every other.
_SETTLED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("settled", derandomize=True, **_SETTLED)
hypothesis.settings.register_profile("whole", **_SETTLED)
hypothesis.settings.load_profile("settled")

Maker = Callable[..., Path]

# What --fast leaves out: folders and files that start many processes, build models, compile, or ask llama.cpp.
SLOW = {
    "faults", "golden", "parity", "test_backend", "test_batch", "test_build", "test_chat_script",
    "test_chat_script_runs", "test_chat_terminal", "test_cli", "test_cuda_backend", "test_cuda_kernels",
    "test_cuda_on_host", "test_demo", "test_dequantize", "test_docs_examples", "test_encoders", "test_encodings",
    "test_evaluate_command", "test_family_packages", "test_farm",
    "test_from_modelfile", "test_hostile_modelfiles", "test_hub",
    "test_imatrix_command", "test_inspection", "test_kernels", "test_lane_cache",
    "test_llama_first", "test_llama_library", "test_llama_tools", "test_merge", "test_mixture", "test_ollama",
    "test_ollama_real", "test_one_call", "test_outputs_and_disks", "test_peft_layer", "test_plan_processes",
    "test_python_docs",
    "test_repackage", "test_round_rows", "test_sentencepiece", "test_serve", "test_serve_answers", "test_serve_clients",
    "test_serve_embeddings", "test_serve_page", "test_session",
    "test_smoke", "test_stream", "test_template_process", "test_troubleshooting", "test_verify_prompts", "test_vocab",
    "test_wheel", "test_workspace",
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out what takes long: a minute instead of ten")
    parser.addoption(
        "--whole",
        action="store_true",
        help="all cases of sweeps, where otherwise some have their turn, and other examples each time",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each processor, and one more: some tests wait, for a cluster, a browser or a deadline."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("whole"):
        sweeps.take_all()
        hypothesis.settings.load_profile("whole")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # For hundreds of processes, which write none where PYTHONDONTWRITEBYTECODE is set, but read it.
        compileall.compile_dir(Path(quantkit.__file__).parent, quiet=2)


# libggml prepares for fifteen seconds, in each process, before it encodes the types with the largest grids: who asks it
# for these comes first, so that all that does runs in one of the processes.
LARGEST_GRIDS = ("test_encodings.py", "test_matrix.py", "test_quantize_options.py", "test_splits.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LARGEST_GRIDS)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What twelve thousand tests are made of stays: looking for garbage in it takes a third of the time, then more."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("fast") and collection_path.stem in SLOW else None


def _once(root: Path, make: Callable[..., Path]) -> Maker:
    """*make* with a folder of its own for each set of arguments, called once for each."""
    made: dict[str, Path] = {}

    def get(*args: Any, **kwargs: Any) -> Path:
        key = repr((args, sorted(kwargs.items())))
        if key not in made:
            made[key] = make(root / f"{len(made):03d}", *args, **kwargs)
        return made[key]

    return get


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, which is trained: its answers depend on all of the prompt."""
    return quantkit.convert(BASE, tmp_path_factory.mktemp("small") / "base.gguf")


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """``vocabulary(name, *, small=True, extra=(), ordinary=())``: a tokenizer's folder."""

    def make(folder: Path, name: str, *, small: bool = True, **options: Any) -> Path:
        return write_vocabulary(folder, name, small=small, **options)

    return _once(tmp_path_factory.mktemp("vocabularies"), make)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, vocabulary: Maker) -> Maker:
    """``checkpoint(kind, *, small=True, extra=(), ordinary=(), **make_checkpoint's)``: a folder, not to be changed."""

    def make(folder: Path, kind: str, **options: Any) -> Path:
        chosen = {key: options.pop(key) for key in ("small", "extra", "ordinary") if key in options}
        return make_checkpoint(folder, kind, vocabulary=vocabulary(KINDS[kind].vocabulary, **chosen), **options)

    return _once(tmp_path_factory.mktemp("checkpoints"), make)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, checkpoint: Maker) -> Maker:
    """``adapter(variant, *, seed=1)``: of ``checkpoint(VARIANTS[variant].kind, dtype="f32")``; not to be changed."""

    def make(folder: Path, name: str, *, seed: int = 1) -> Path:
        variant = VARIANTS[name]
        return make_adapter(folder, checkpoint(variant.kind, dtype="f32"), variant, seed=seed)

    return _once(tmp_path_factory.mktemp("adapters"), make)


@pytest.fixture(scope="session")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReferenceConverter]:
    """llama.cpp's converter, started by its first use."""
    with ReferenceConverter(tmp_path_factory.mktemp("converter") / "log.txt") as running:
        yield running


@pytest.fixture(scope="session")
def reference_gguf(tmp_path_factory: pytest.TempPathFactory, converter: ReferenceConverter) -> Maker:
    """``reference_gguf(model, outtype, *, pre=None)``: the file llama.cpp's converter writes."""

    def make(folder: Path, model: Path, outtype: str, *, pre: str | None = None) -> Path:
        folder.mkdir()
        return converter.convert(model, folder / f"{outtype}.gguf", outtype, pre=pre)

    return _once(tmp_path_factory.mktemp("references"), make)
