"""LoRA files merged into GGUF models: the bytes of a build with the adapter, and llama.cpp's logits with --lora."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quantkit.cli.main import main
from quantkit.errors import AdapterError, GGUFError, QuantizationError, QuantkitError
from quantkit.ggml import library as ggml
from quantkit.gguf.header import read_header
from quantkit.gguf.kv import KV, KVType, array, f32, string
from quantkit.gguf.lora import ScaledLora, parse_lora
from quantkit.jobs.convert import convert, convert_adapter
from quantkit.jobs.edit import edit
from quantkit.jobs.merge_lora import merge_lora
from quantkit.jobs.quantize import quantize
from tests.support.adapters import VARIANTS
from tests.support.llama_logits import llama_logits

Maker = Callable[..., Path]

Q = "blk.0.attn_q.weight"
TOKENS = [(7 * i * i + 3) % 2000 for i in range(16)]


def tensors(path: Path) -> dict[str, tuple[int, bytes]]:
    return {one.name: (int(one.tensor_type), one.data.tobytes()) for one in gguf.GGUFReader(path).tensors}


def made(checkpoint: Maker, adapter: Maker, folder: Path, name: str, outtype: str) -> tuple[Path, Path, Path]:
    """The base, the LoRA file, and the merged model, of a checkpoint whose weights the base holds exactly."""
    base, changes = checkpoint(VARIANTS[name].kind, dtype=outtype), adapter(name)
    return (
        convert(base, folder / "base.gguf", outtype=outtype),
        convert_adapter(base, folder / "lora.gguf", adapter=changes),
        convert(base, folder / "expected.gguf", adapters=[changes], outtype=outtype),
    )


@pytest.mark.parametrize(
    ("name", "outtype"),
    [
        ("seven-projections", "f16"),
        ("seven-projections", "bf16"),
        ("embeddings", "f32"),
        ("all-linear", "f32"),
        ("experts-all-linear", "f16"),
    ],
)
def test_bytes_of_a_build_with_the_adapter(
    checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str, outtype: str
) -> None:
    base, lora, expected = made(checkpoint, adapter, tmp_path, name, outtype)
    merged = merge_lora(base, tmp_path / "merged.gguf", loras=lora)
    assert tensors(merged) == tensors(expected)
    assert tensors(merged) != tensors(base)
    assert list(read_header(merged).metadata.values()) == list(read_header(base).metadata.values())
    quantized = merge_lora(base, tmp_path / "q.gguf", loras=lora, quant="q4_k_m")
    assert quantized.read_bytes() == quantize(merged, tmp_path / "q-expected.gguf", quant="q4_k_m").read_bytes()


@pytest.mark.parametrize("name", ["rslora-patterns", "patterns", "experts-seven"])
def test_scales_that_a_lora_file_rounds(checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str) -> None:
    """One alpha in float32 for all matrices: the last bit of a factor, and of few weights, may differ."""
    base, lora, expected = made(checkpoint, adapter, tmp_path, name, "f32")
    ours = tensors(merge_lora(base, tmp_path / "merged.gguf", loras=lora))
    for key, (kind, data) in tensors(expected).items():
        assert ours[key][0] == kind == 0
        np.testing.assert_allclose(*(np.frombuffer(one, "<f4") for one in (ours[key][1], data)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["seven-projections", "embeddings", "experts-all-linear"])
def test_llama_cpp_computes_the_same_with_lora(checkpoint: Maker, adapter: Maker, tmp_path: Path, name: str) -> None:
    base, lora, _ = made(checkpoint, adapter, tmp_path, name, "f32")
    merged = merge_lora(base, tmp_path / "merged.gguf", loras=lora)
    ours = llama_logits(merged, TOKENS, tmp_path / "ours.npy")
    expected = llama_logits(base, TOKENS, tmp_path / "expected.npy", loras=[lora])
    without = llama_logits(base, TOKENS, tmp_path / "without.npy")
    largest = np.abs(expected).max()
    assert np.abs(ours - expected).max() <= 2e-5 * largest
    assert np.abs(ours - without).max() > 1e-2 * largest


def decoded(path: Path, name: str) -> np.ndarray[Any, Any]:
    info = next(one for one in gguf.GGUFReader(path).tensors if one.name == name)
    return gguf.dequantize(info.data, info.tensor_type).astype(np.float32)


@pytest.mark.parametrize("quant", ["q4_0", "q4_k_m", "q8_0"])
def test_a_quantized_model(checkpoint: Maker, adapter: Maker, tmp_path: Path, quant: str) -> None:
    """What changes is decoded, merged in float32 and encoded in its type; the rest keeps its bytes."""
    plain, lora, _ = made(checkpoint, adapter, tmp_path, "q-and-v", "f16")
    base = quantize(plain, tmp_path / "base-q.gguf", quant=quant)
    merged = merge_lora(base, tmp_path / "merged.gguf", loras=[ScaledLora(lora, 0.5)])
    old, new, header = tensors(base), tensors(merged), read_header(base)
    rank = read_header(lora).tensors[f"{Q}.lora_b"].shape[1]
    factor = np.float32(0.5 * read_header(lora).value("adapter.lora.alpha") / rank)
    changed = 0
    for name, (kind, data) in old.items():
        if f"{name}.lora_a" not in read_header(lora).tensors:
            assert new[name] == (kind, data)
            continue
        a, b = (decoded(lora, f"{name}.{which}") for which in ("lora_a", "lora_b"))
        rows = ggml.dequantize_rows(kind, data, a.shape[1]).copy()
        for k in range(a.shape[0]):
            rows += (b * factor)[:, k, None] * a[k]
        assert new[name] == (kind, ggml.quantize_rows(kind, rows).tobytes())
        assert new[name] != old[name]
        changed += 1
    assert changed > 1
    assert read_header(merged).value("general.file_type") == header.value("general.file_type")


def test_several_files_and_scales(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base, lora, _ = made(checkpoint, adapter, tmp_path, "q-and-v", "f32")
    expected = convert(
        checkpoint("llama3-untied", dtype="f32"),
        tmp_path / "both.gguf",
        adapters=[(adapter("q-and-v"), 0.5), (adapter("q-and-v"), -2.0)],
        outtype="f32",
        merge_again=True,
    )
    loras = [(lora, 0.5), (lora, -2.0)]
    merged = merge_lora(base, tmp_path / "merged.gguf", loras=loras, merge_again=True)
    assert tensors(merged) == tensors(expected)
    with pytest.raises(GGUFError, match="is given twice"):
        merge_lora(base, tmp_path / "again.gguf", loras=loras)


def test_a_split_base_becomes_one_file(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> None:
    base, lora, expected = made(checkpoint, adapter, tmp_path, "q-and-v", "f16")
    first = quantize(base, tmp_path / "split.gguf", quant="f16", split_max_size="100KB")
    assert tensors(merge_lora(first, tmp_path / "merged.gguf", loras=lora)) == tensors(expected)


@pytest.fixture
def files(checkpoint: Maker, adapter: Maker, tmp_path: Path) -> tuple[Path, Path]:
    return made(checkpoint, adapter, tmp_path, "q-and-v", "f16")[:2]


def rewritten(path: Path, *entries: KV, change: Callable[[dict[str, np.ndarray[Any, Any]]], object] = len) -> Path:
    """A LoRA file again, with other metadata or tensors."""
    reader, header = gguf.GGUFReader(path), read_header(path)
    found = {one.name: one.data.copy() for one in reader.tensors}
    change(found)
    metadata = {**header.metadata, **{entry.key: entry for entry in entries}}
    writer = gguf.GGUFWriter(path.with_name("other.gguf"), metadata.pop("general.architecture").value)
    for entry in metadata.values():
        kind = gguf.GGUFValueType(entry.type)
        writer.add_key_value(
            entry.key, entry.value, kind, None if entry.item is None else gguf.GGUFValueType(entry.item)
        )
    for name, data in found.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("other.gguf")


DEFECTS: list[tuple[str, tuple[KV, ...], Callable[[dict[str, Any]], object]]] = [
    ("is for the architecture qwen2, but", (string("general.architecture", "qwen2"),), len),
    ("this is not a LoRA file", (string("adapter.type", "other"),), len),
    ("activated LoRA", (array("adapter.alora.invocation_tokens", [1], KVType.UINT32),), len),
    ("adapter.lora.alpha has the type string", (string("adapter.lora.alpha", "x"),), len),
    ("has only one of its two factors", (), lambda found: found.pop(f"{Q}.lora_a")),
    ("is not a LoRA factor", (), lambda found: found.update({"output_norm.weight": np.ones(64, np.float32)})),
    ("there is no LoRA in it", (), dict.clear),
    (
        "changes blk.9.attn_q.weight, which",
        (),
        lambda found: found.update(
            {f"blk.9.attn_q.weight.{ab}": found.pop(f"{Q}.{ab}") for ab in ("lora_a", "lora_b")}
        ),
    ),
    ("which do not make", (), lambda found: found.update({f"{Q}.lora_a": found[f"{Q}.lora_a"][:, :-1].copy()})),
    ("which do not make", (), lambda found: found.update({f"{Q}.lora_b": found[f"{Q}.lora_b"][:, :-1].copy()})),
    ("changes nothing", (), lambda found: [found[name].fill(0) for name in found if name.endswith("_b")]),
    ("NaN or infinite", (), lambda found: found[f"{Q}.lora_a"].fill(math.nan)),
]


@pytest.mark.parametrize(("why", "entries", "change"), DEFECTS, ids=[why for why, *_ in DEFECTS])
def test_a_file_that_does_not_fit_is_refused(
    files: tuple[Path, Path], why: str, entries: tuple[KV, ...], change: Callable[[dict[str, Any]], object]
) -> None:
    base, lora = files
    out = base.with_name("out.gguf")
    with pytest.raises(GGUFError, match=why):
        merge_lora(base, out, loras=rewritten(lora, *entries, change=change))
    assert not out.exists()


def test_no_alpha_is_a_scale_of_one(files: tuple[Path, Path]) -> None:
    """As in llama.cpp."""
    base, lora = files
    rank = read_header(lora).tensors[f"{Q}.lora_b"].shape[-1]
    plain = merge_lora(base, base.with_name("none.gguf"), loras=rewritten(lora, f32("adapter.lora.alpha", 0.0)))
    edit(lora, values={"adapter.lora.alpha": rank})
    assert tensors(plain) == tensors(merge_lora(base, base.with_name("rank.gguf"), loras=lora))


def test_a_tied_embedding_is_refused(checkpoint: Maker, files: tuple[Path, Path], tmp_path: Path) -> None:
    tied = convert(checkpoint("llama3-tied", dtype="f16"), tmp_path / "tied.gguf")
    shape = read_header(tied).tensors["token_embd.weight"].shape

    def change(found: dict[str, Any]) -> None:
        found.clear()
        for which, size in zip(("lora_a", "lora_b"), shape, strict=True):
            found[f"token_embd.weight.{which}"] = np.ones((size, 2), np.float32)

    with pytest.raises(GGUFError, match="is also the output head"):
        merge_lora(tied, tmp_path / "out.gguf", loras=rewritten(files[1], change=change))


def test_a_sum_that_is_too_large_is_refused(files: tuple[Path, Path]) -> None:
    base, lora = files
    with pytest.raises(QuantkitError, match="too large for f16"):
        merge_lora(base, base.with_name("out.gguf"), loras=(lora, 1e8))
    merge_lora(base, base.with_name("bf16.gguf"), loras=(lora, 1e8), quant="bf16")


def test_what_is_quantized_already_keeps_its_type_unless_asked(files: tuple[Path, Path]) -> None:
    base, lora = files
    small = quantize(base, base.with_name("small.gguf"), quant="q8_0")
    with pytest.raises(QuantizationError, match="quantizing twice"):
        merge_lora(small, base.with_name("out.gguf"), loras=lora, quant="q4_0")
    merge_lora(small, base.with_name("out.gguf"), loras=lora, quant="q4_0", allow_requantize=True)


def test_a_file_and_its_scale() -> None:
    assert parse_lora("a.gguf") == ScaledLora(Path("a.gguf"))
    assert parse_lora("a.gguf:0.5") == ScaledLora(Path("a.gguf"), 0.5)
    assert parse_lora(r"C:\a.gguf") == ScaledLora(Path(r"C:\a.gguf"))
    assert parse_lora("a:b:-1") == ScaledLora(Path("a:b"), -1.0)
    for scale in (0.0, math.inf):
        with pytest.raises(GGUFError):
            merge_lora("b.gguf", "o.gguf", loras=("a.gguf", scale))


def test_the_command(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    base, lora = files

    def run(*args: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["merge", *map(str, args)])
        shown = capsys.readouterr()
        return caught.value.code, shown.out, shown.err

    out = base.with_name("out.gguf")
    code, shown, err = run(base, "--lora", f"{lora}:0.5", "-o", out, "--json")
    assert (code, err) == (0, "")
    found = json.loads(shown)
    assert re.fullmatch(r"lora.gguf × 0.5 adds [\d.]+ % to 4 of 4 matrices", found.pop("notes")[-1])
    assert found == {"schema": 1, "file": str(out), "type": "f16", "size": out.stat().st_size}
    expected = merge_lora(base, base.with_name("half.gguf"), loras=(lora, 0.5))
    assert out.read_bytes() == expected.read_bytes()
    for args, why in (
        ((base, "-o", out), "Missing option '--adapter' (or, for a GGUF file, '--lora')"),
        ((base, "--lora", lora, "--adapter", "a", "-o", out), "give one of them"),
        ((base, "--lora", lora, "--dtype", "f32", "-o", out), "--dtype does not go with --lora"),
        ((base, "--adapter", "a", "--quant", "q8_0", "-o", out), "--quant does not go with --adapter"),
        ((base, "--lora", "", "-o", out), "the path is empty"),
    ):
        code, shown, err = run(*args)
        assert (code, shown) == (2, "")
        assert why in err


@pytest.mark.parametrize("quant", ["f16", "q8_0"])
def test_a_base_that_contains_it_is_refused(files: tuple[Path, Path], quant: str) -> None:
    base, lora = files
    merged = merge_lora(base, base.with_name("merged.gguf"), loras=lora, quant=quant)
    with pytest.raises(AdapterError, match=r"lora.*: what it adds is in the base model's weights already"):
        merge_lora(merged, base.with_name("twice.gguf"), loras=lora)
    assert not base.with_name("twice.gguf").exists()
    merge_lora(merged, base.with_name("twice.gguf"), loras=lora, merge_again=True)
