"""``quantkit convert`` writes the file that llama.cpp's converter writes: what the parity matrix does not vary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.jobs.convert import convert
from tests.support.checkpoints import KINDS, token_ids
from tests.support.gguf_compare import STOP_KEYS, differences
from tests.support.gguf_read import Value, read_gguf
from tests.support.pre_tokenizers import STRUCTURES

Maker = Callable[..., Path]


def assert_equal_to_reference(ours: Path, reference: Path) -> None:
    assert differences(ours, reference) == []


def pinned(kind: str) -> str | None:
    """The name the converter cannot find for a cut vocabulary by its hash."""
    structure = STRUCTURES.get(KINDS[kind].vocabulary)
    return structure.name if structure else None


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("outtype", ["bf16", "f16", "f32"])
def test_every_pair_of_types(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, dtype: str, outtype: str
) -> None:
    model = checkpoint("llama3-untied", dtype=dtype)
    ours = convert(model, tmp_path / "ours.gguf", outtype=outtype)
    assert_equal_to_reference(ours, reference_gguf(model, outtype, pre="llama-bpe"))


@pytest.mark.parametrize("kind", ["llama3-untied", "llama3-rope", "llama2", "llama-linear-rope", "qwen2-yarn"])
def test_config_as_transformers_5_writes_it(
    checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, kind: str
) -> None:
    model = checkpoint(kind, style="5")
    reference = reference_gguf(model, "f16", pre=pinned(kind))
    assert_equal_to_reference(convert(model, tmp_path / "ours.gguf"), reference)


@pytest.mark.parametrize(
    "storage", [{"shards": 3}, {"binary": True}, {"binary": True, "shards": 2}], ids=["shards", "bin", "bin-shards"]
)
def test_storage(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, storage: dict[str, int | bool]) -> None:
    plain = checkpoint("llama3-untied")
    model = checkpoint("llama3-untied", **storage)
    ours = convert(model, tmp_path / "ours.gguf")
    assert_equal_to_reference(ours, reference_gguf(model, "f16", pre="llama-bpe"))
    assert_equal_to_reference(ours, reference_gguf(plain, "f16", pre="llama-bpe"))


@pytest.mark.parametrize(
    "shape",
    [
        {"hidden": 96, "intermediate": 160, "heads": 6, "kv_heads": 2},
        {"heads": 4, "kv_heads": 4},
        {"layers": 4, "heads": 8, "kv_heads": 1},
        {"config": {"head_dim": 48}},
    ],
    ids=["odd-rows", "no-groups", "one-kv-head", "wide-heads"],
)
def test_shapes(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, shape: dict[str, object]) -> None:
    model = checkpoint("llama3-untied", **shape)
    ours = convert(model, tmp_path / "ours.gguf")
    assert_equal_to_reference(ours, reference_gguf(model, "f16", pre="llama-bpe"))


def test_padding_tokens(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path) -> None:
    model = checkpoint("llama3-untied", padding=50)
    ours = convert(model, tmp_path / "ours.gguf")
    assert_equal_to_reference(ours, reference_gguf(model, "f16", pre="llama-bpe"))
    assert read_gguf(ours).metadata["tokenizer.ggml.tokens"].value[-1].startswith("[PAD")


@pytest.mark.parametrize("kind", ["llama3-untied", "qwen2"])
def test_an_extended_vocabulary(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path, kind: str) -> None:
    ordinary = (("Ġth", "er"), ("Ġther", "es"))
    model = checkpoint(kind, extra=("<tool>", "乐于助人", "<|looks_special|>"), ordinary=ordinary)
    reference = reference_gguf(model, "f16", pre=pinned(kind))
    assert_equal_to_reference(convert(model, tmp_path / "ours.gguf"), reference)


def test_end_tokens_that_llama_cpp_would_not_know(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path) -> None:
    """The one meant difference in the vocabulary: an end token only generation_config.json names is written down."""
    ids = token_ids(checkpoint("llama3-untied"))
    ends = [ids[f"<|reserved_special_token_{n}|>"] for n in (0, 4)] + [ids["<|eot_id|>"]]
    for count, key in enumerate(STOP_KEYS, start=1):
        model = checkpoint("llama3-untied", generation={"eos_token_id": ends[:count] + ends[2:]})
        added = {key: Value("UINT32", end) for key, end in zip(STOP_KEYS[:count], ends, strict=False)}
        assert key in added
        ours = convert(model, tmp_path / f"{count}.gguf")
        assert differences(ours, reference_gguf(model, "f16", pre="llama-bpe"), added=added) == []


def test_sampling_settings(checkpoint: Maker, reference_gguf: Maker, tmp_path: Path) -> None:
    said = {"temperature": 0.7, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05, "typical_p": 0.9}
    model = checkpoint("llama3-untied", generation=said)
    reference = reference_gguf(model, "f16", pre="llama-bpe")
    assert_equal_to_reference(convert(model, tmp_path / "sampled.gguf"), reference)
    greedy = convert(checkpoint("llama3-untied", generation={**said, "do_sample": False}), tmp_path / "greedy.gguf")
    assert read_gguf(greedy).metadata["general.sampling.temp"] == Value("FLOAT32", 0.0)
    assert len(differences(greedy, reference)) == 1


def test_bytes_do_not_depend_on_the_threads(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    model, changes = checkpoint("llama3-untied", dtype="f32"), [adapter("seven-projections"), adapter("q-and-v")]
    files = []
    for threads in (1, 2, 5):
        folder = tmp_path / str(threads)
        folder.mkdir()  # the same file name each time, which becomes general.name
        files.append(convert(model, folder / "model.gguf", adapters=changes, threads=threads).read_bytes())
    assert files[0] == files[1] == files[2]
