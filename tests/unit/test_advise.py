"""What a machine can run: by hand-made numbers, and for the demo's model beside what a build writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import quantkit
from quantkit.advise import bandwidth
from quantkit.advise.advice import CACHES, Candidate, Machine, Need, Row, judge, needs
from quantkit.advise.bandwidth import EFFICIENCY, read_bandwidth
from quantkit.advise.cache import CacheTypes
from quantkit.advise.card import RESERVED, card_compute, place
from quantkit.advise.context import MOST_CONTEXT, ContextMemory, ContextRun, ask_context
from quantkit.advise.recommend import recommend
from quantkit.advise.types import CANDIDATES, QUALITY
from quantkit.advise.weights import Weights, weigh
from quantkit.cli.advise import command
from quantkit.demo.data import ADAPTER, BASE
from quantkit.errors import GGUFError
from quantkit.ggml.types import FTYPES, GGMLType
from quantkit.gguf.header import TensorInfo
from quantkit.jobs.advise import build_note
from quantkit.system.machine import cache_nbytes
from tests.support.terminal import Terminal

Maker = Callable[..., Path]
GB = 10**9

ROOT = Path(__file__).resolve().parents[2]


def info(name: str, *shape: int, kind: GGMLType = GGMLType.F16) -> TensorInfo:
    return TensorInfo(name, shape, kind, 0)


def weights(layers: int = 4, each: int = GB, head: int = GB, embedding: int = GB) -> Weights:
    return Weights((each,) * layers, embedding, head, False, layers * each + head)


def row(label: str, scale: float, machine: Machine, divergence: float | None = None, vocabulary: int = 0) -> Row:
    """A file of four layers and a head of *scale* GB each, with a cache of 0.1 GB a layer at 4096 tokens."""
    one = int(scale * GB)
    candidate = Candidate(label, None, 6 * one, weights(4, one, one, one), 10**9, divergence)
    cache = {"f16": 10**8, "q8_0": 5 * 10**7}
    wants = [Need(4096, name, (nbytes,) * 4, 10**7) for name, nbytes in cache.items()]
    return judge(candidate, wants, machine, vocabulary)


# -- bytes --------------------------------------------------------------------------------------------------------


def test_weights_by_layer() -> None:
    found = weigh(
        {"general.architecture": "llama"},
        [
            info("token_embd.weight", 100, 8),
            info("blk.0.attn_q.weight", 8, 8),
            info("blk.10.attn_q.weight", 16, 8),
            info("output_norm.weight", 8, kind=GGMLType.F32),
            info("output.weight", 100, 8),
        ],
    )
    assert found == Weights((128, 256), 1600, 1632, False, 128 + 256 + 1632)
    assert found.total == 1600 + 128 + 256 + 1632


def test_a_tied_embedding_is_read_for_the_head() -> None:
    found = weigh({"general.architecture": "llama"}, [info("token_embd.weight", 100, 8), info("blk.0.a.weight", 8, 8)])
    assert found == Weights((128,), 1600, 1600, True, 1728)
    assert found.total == 1728


def test_of_experts_only_those_that_are_used() -> None:
    found = weigh(
        {"general.architecture": "moe", "moe.expert_count": 8, "moe.expert_used_count": 2},
        [info("token_embd.weight", 4, 8), info("output.weight", 4, 8), info("blk.0.ffn_up_exps.weight", 8, 4, 8)],
    )
    assert found.layers == (512,)
    assert found.per_token == 64 + 512 / 4


# -- the card -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "layers", "host"),
    [
        (0, 0, 6 * GB),
        (RESERVED + GB - 1, 0, 6 * GB),
        (RESERVED + GB, 1, 5 * GB),  # the head
        (RESERVED + 3 * GB + 20, 3, 3 * GB),
        (RESERVED + 9 * GB, 5, 1 * GB),  # all but the embedding
    ],
)
def test_layers_on_the_card(card: int, layers: int, host: int) -> None:
    found = place(weights(), (10,) * 4, 0, card)
    assert (found.layers, found.of, found.host_weights) == (layers, 5, host)
    assert found.host_cache == 10 * min(4, 5 - layers)
    assert found.host_share == pytest.approx(1 - layers / 5)
    assert found.card == (0 if not layers else RESERVED + layers * GB + 10 * (layers - 1))


def test_a_card_has_the_logits_of_a_whole_batch() -> None:
    # What llama.cpp says of the buffer of an 8B Llama: 258.5 MiB on the card, 118.5 MiB with one token's logits.
    assert card_compute(124_256_256, 128_256) == 512 * 128_256 * 4
    assert card_compute(124_256_256, 32_000) == 124_256_256
    small, large = (row("q8_0", 1.0, machine(100, card=5.5), vocabulary=vocabulary) for vocabulary in (1000, 1_000_000))
    layers = [one.fits[0].placement.layers for one in (small, large)]
    assert layers[0] > layers[1]


def test_the_head_of_a_tied_model_is_copied() -> None:
    tied = Weights((GB,), GB, GB, True, 2 * GB)
    assert place(tied, (0,), 0, 0).host_weights == 2 * GB
    assert place(tied, (0,), 0, RESERVED + GB).host_weights == 2 * GB
    assert place(tied, (0,), 0, RESERVED + 2 * GB).host_weights == GB


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 50)), min_size=1, max_size=12),
    st.integers(1, 100),
    st.integers(0, 2000),
)
def test_nothing_is_lost_between_card_and_memory(layers: list[tuple[int, int]], head: int, more: int) -> None:
    sizes, caches = tuple(one for one, _ in layers), [cache for _, cache in layers]
    made = Weights(sizes, 7, head, False, sum(sizes) + head)
    card = RESERVED + more
    found = place(made, caches, 0, card)
    assert found.card <= card
    on_card = found.card - RESERVED if found.layers else 0
    assert on_card + found.host_weights + found.host_cache == made.total + sum(caches)
    larger = place(made, caches, 0, card + 50)
    assert larger.layers >= found.layers


# -- contexts -----------------------------------------------------------------------------------------------------

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.attention.head_count": 8,
}
RUN = ContextRun(256, CACHES["f16"], 512)
EACH = 256 * 2 * 256 * 2  # cells, keys and values, numbers, bytes of one


def test_the_computed_cache_counts_where_llama_cpp_agrees() -> None:
    (found,) = needs(LLAMA, [RUN], [ContextMemory(2 * EACH + 100, 5)], 2)
    assert found == Need(256, "f16", (EACH, EACH), 5)


@pytest.mark.parametrize("metadata", [LLAMA, {"general.architecture": "mamba"}])
def test_llama_cpps_answer_counts_for_what_is_not_known(metadata: dict[str, Any]) -> None:
    (found,) = needs(metadata, [RUN], [ContextMemory(10**6 + 1, 5)], 2)
    assert found.by_layer == (500000, 500001)


def test_a_refused_context_is_left_out() -> None:
    assert needs(LLAMA, [RUN], [None], 2) == ()


# -- what to take -------------------------------------------------------------------------------------------------

FAST = Machine(memory=0, card=0, bandwidth=10**12, threads=1)


def machine(memory: float, card: float = 0, bandwidth: float = 1000) -> Machine:
    return Machine(int(memory * GB), int(card * GB), bandwidth * GB, 8)


SIZES = {"f16": 2.0, "q8_0": 1.0, "q4_k_m": 0.5, "q4_0": 0.48, "q2_k": 0.3}


def rows(here: Machine, **divergences: float) -> list[Row]:
    return [row(label, scale, here, divergences.get(label)) for label, scale in SIZES.items()]


@pytest.mark.parametrize(("memory", "taken"), [(100, "q8_0"), (6, "q4_k_m"), (3.4, "q4_0"), (2.5, "q2_k")])
def test_the_best_that_fits(memory: float, taken: str) -> None:
    here = machine(memory)
    found = recommend(rows(here), 4096, here.memory)
    assert found.row is not None
    assert found.fit is not None
    assert (found.row.candidate.label, found.fit.need.cache) == (taken, "f16")


def test_a_smaller_cache_where_nothing_fits_otherwise() -> None:
    here = machine(2.1)
    found = recommend(rows(here), 4096, here.memory)
    assert found.fit is not None
    assert found.fit.need.cache == "q8_0"
    assert any("--cache-type-k q8_0" in reason for reason in found.why)


def test_nothing_fits() -> None:
    here = machine(1)
    found = recommend(rows(here), 4096, here.memory)
    assert (found.row, found.fit) == (None, None)
    assert found.why[0].startswith("nothing fits: even q2_k needs 2.03 GB of 1.00 GB")


def test_slower_than_one_reads_is_not_taken() -> None:
    here = machine(100, bandwidth=40)  # q8_0 reads 5 GB a token
    found = recommend(rows(here), 4096, here.memory)
    assert found.row is not None
    assert found.row.candidate.label == "q4_k_m"
    assert any(reason.startswith("q8_0 would be closer to the model, but slower") for reason in found.why)


def test_nothing_is_fast_enough() -> None:
    here = machine(100, bandwidth=1)
    found = recommend(rows(here), 4096, here.memory)
    assert found.row is not None
    assert found.row.candidate.label == "q4_0"  # q2_k would be faster, and is far from the model


def test_a_package_that_was_evaluated_decides_by_its_figures() -> None:
    here = machine(6)
    figures = {"q8_0": 0.01, "q4_k_m": 0.3, "q4_0": 0.1, "q2_k": 0.5}
    found = recommend(rows(here, **figures), 4096, here.memory)
    assert found.row is not None
    assert found.row.candidate.label == "q4_0"
    assert "own evaluation" in found.why[-1]


def test_f16_is_for_those_who_have_nothing_else() -> None:
    here = machine(100)
    only = [row("f16", 2.0, here), row("q2_k", 0.3, here)]
    found = recommend(only, 4096, here.memory)
    assert found.row is only[0]


def test_a_card_frees_memory_and_hides_the_speed() -> None:
    here = machine(1.5, card=8)
    found = recommend(rows(here), 4096, here.memory)
    assert found.row is not None
    assert found.fit is not None
    assert found.row.candidate.label == "q8_0"
    assert found.fit.placement.layers == 5
    assert found.row.speed(found.fit) is None
    assert any("5 of 5 layers on the card (--n-gpu-layers 5)" in reason for reason in found.why)


def test_half_on_the_card_is_read_there() -> None:
    found = row("q8_0", 1.0, machine(100, card=3.22 + RESERVED / GB, bandwidth=10))
    fit = found.at(4096, "f16")
    assert fit is not None
    assert fit.placement.layers == 2 + 1
    assert found.speed(fit) == pytest.approx(EFFICIENCY * 10 / 2)
    assert found.tokens_per_second == pytest.approx(EFFICIENCY * 10 / 5)


def test_every_candidate_is_a_type_of_llama_cpp() -> None:
    assert set(QUALITY) <= FTYPES.keys()


@pytest.mark.parametrize(
    ("files", "nbytes"),
    [
        ({}, 0),
        (
            {"cpu0": [("1", "0", "48K"), ("3", "0-1", "32768K")], "cpu1": [("1", "1", "48K"), ("3", "0-1", "32768K")]},
            2**25,
        ),
        ({"cpu0": [("2", "0", "2048K"), ("3", "0-7", "1024K")], "cpu8": [("3", "8-15", "1024K")]}, 2**21),
        ({"cpu0": [("1", "0", "48K")], "cpu1": [("1", "1", "48K")]}, 96 * 1024),
        ({"cpu0": [("3", "0", "large")]}, 0),
    ],
)
def test_the_largest_caches(tmp_path: Path, files: dict[str, list[tuple[str, str, str]]], nbytes: int) -> None:
    for name, caches in files.items():
        for number, told in enumerate(caches):
            folder = tmp_path / name / "cache" / f"index{number}"
            folder.mkdir(parents=True)
            for file, text in zip(("level", "shared_cpu_list", "size"), told, strict=True):
                (folder / file).write_text(f"{text}\n")
    assert cache_nbytes(tmp_path) == nbytes


def test_more_is_read_than_the_caches_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(bandwidth, "_round", lambda parts: read.append(sum(part.nbytes for part in parts)) or 1.0)
    monkeypatch.setattr(bandwidth, "total_memory", lambda: 64 * GB)
    for caches in (0, 300 * 2**20):
        monkeypatch.setattr(bandwidth, "cache_nbytes", lambda caches=caches: caches)
        assert read_bandwidth(4) == 1.0
    assert sorted(set(read)) == [256 * 2**20, 600 * 2**20]


def test_memory_is_read_at_a_speed_that_memory_has() -> None:
    assert 0 < read_bandwidth(1) < 10**12


def test_threads_that_begin_late_have_a_speed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a round may be over before one of them has begun."""
    clock = count()
    monkeypatch.setattr(bandwidth, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(bandwidth, "_LEAST_NBYTES", 1 << 20)
    monkeypatch.setattr(bandwidth, "cache_nbytes", lambda: 0)
    assert read_bandwidth(2) > 0


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("advise") / "demo"
    built = quantkit.build(
        BASE, adapters=ADAPTER, quants=[*CANDIDATES], keep_f16=True, out=out, name="base", verify=False, device="cpu"
    )
    return built.folder


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(command, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["schema"] == 1
    return found


def test_sizes_are_those_that_a_build_writes(package: Path) -> None:
    found = run(BASE, "--memory", "1GB")
    sizes = {one["type"]: one["size"] for one in found["files"]}
    assert sizes == {path.stem.removeprefix("base-"): path.stat().st_size for path in package.glob("*.gguf")}
    assert found["trained_context"] == 512
    assert {one["context"] for one in found["files"][0]["contexts"]} == {512}
    assert found["machine"]["memory"] == 10**9
    assert found["recommended"] == {"type": "q8_0", "file": None, "cache": "f16"}


def test_a_package_is_advised_about_by_its_files(package: Path) -> None:
    found = run(package, "--memory", "1GB", "--vram", "0")
    assert found["machine"]["card"] == 0
    assert {one["file"] for one in found["files"]} == {path.name for path in package.glob("*.gguf")}
    assert found["recommended"]["file"] == "base-q8_0.gguf"
    assert found["notes"] == []


def test_figures_of_an_evaluation_are_taken_from_the_report(package: Path) -> None:
    path = package / "report.json"
    before = path.read_text(encoding="utf-8")
    figures = [{"file": f"base-{label}.gguf", "kl_mean": 0.1 if label == "q6_k" else 0.5} for label in CANDIDATES]
    path.write_text(json.dumps({**json.loads(before), "evaluation": {"files": figures}}), encoding="utf-8")
    try:
        found = run(package, "--memory", "1GB")
    finally:
        path.write_text(before, encoding="utf-8")
    assert found["recommended"]["file"] == "base-q6_k.gguf"


def test_a_gguf_file_and_what_it_could_become(package: Path) -> None:
    found = run(package / "base-f16.gguf", "--memory", "1GB", "--ctx", "4096", "--vram", "2GB")
    assert [one["type"] for one in found["files"]] == ["f16", *CANDIDATES]
    assert [one["file"] for one in found["files"]] == ["base-f16.gguf", *[None] * len(CANDIDATES)]
    assert [one["context"] for one in found["files"][0]["contexts"]] == [512 * 8] * 3
    assert "the model was trained for 512 tokens" in found["notes"][0]
    assert found["files"][0]["contexts"][0]["card"]["layers"] == 4


def test_a_quantized_gguf_file_stands_for_itself(package: Path) -> None:
    found = run(package / "base-q2_k.gguf", "--memory", "1GB")
    assert [one["file"] for one in found["files"]] == ["base-q2_k.gguf"]
    assert "quantized already" in found["notes"][0]


def test_the_text(package: Path) -> None:
    result = CliRunner().invoke(command, [str(package), "--memory", "1GB"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("base: llama, 2.23 M weights in 3 layers, trained for 512 tokens")
    assert any(line.startswith("base-q8_0.gguf") for line in lines)
    assert "take base-q8_0.gguf:" in lines


def test_what_is_no_model(tmp_path: Path) -> None:
    for arguments, message in (([tmp_path], "config.json"), ([tmp_path / "no.gguf"], "no")):
        result = CliRunner().invoke(command, [*map(str, arguments)])
        assert isinstance(result.exception, quantkit.QuantkitError)
        assert message in str(result.exception)
    result = CliRunner().invoke(command, [str(BASE), "--memory", "a lot"])
    assert result.exit_code == 2
    assert "is not a size" in result.output


def test_a_terminal_is_told_without_a_type(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "quantkit", "build", str(BASE), "--no-verify", "--device", "cpu", "-o"]
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with Terminal([*words, str(tmp_path / "a")], environment=environment) as terminal:
        assert terminal.comes("quantkit advise would choose q8_0")
    piped = subprocess.run(
        [*words, str(tmp_path / "b")], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    assert "quantkit advise" not in piped.stderr


def test_the_note_of_a_build_without_a_type() -> None:
    plan = quantkit.plan(BASE, name="base")
    note = build_note("base", plan, BASE)
    assert "quantkit advise would choose q8_0, the best that fits here" in note
    assert str(BASE) in note


def test_a_context_that_would_fill_the_memory_is_refused_before_it_is_planned() -> None:
    with pytest.raises(GGUFError, match=r"a context of 16,777,217 tokens cannot be planned"):
        ask_context([], [], [ContextRun(MOST_CONTEXT + 1, CacheTypes(), 512)])
