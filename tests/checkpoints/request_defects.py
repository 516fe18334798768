"""Requests that cannot be met, and GGUF and imatrix files that are broken."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np

from quantkit.gguf.header import read_header
from quantkit.jobs.quantize import quantize
from tests.checkpoints.case import Case, cut
from tests.checkpoints.defect import BUILD, CONVERT, PACKAGE, QUANTIZE, WIDE, defect, request

WITH_IMATRIX = (*BUILD, "--imatrix", "{root}/imatrix.gguf")
GGUF = "model-f16.gguf"


def with_quant(command: tuple[str, ...], quant: str) -> tuple[str, ...]:
    return tuple(quant if argument == "q8_0" else argument for argument in command)


# Types and names

request("unknown-quant", "q9_9", hint="q4_0", command=with_quant(BUILD, "q9_9"))
request("unknown-quant-of-quantize", "q9_9", hint="q4_0", command=with_quant(QUANTIZE, "q9_9"))
for _type in ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq1_s", "iq1_m", "q2_k_s"):
    request(
        f"{_type}-without-imatrix",
        _type,
        "importance matrix",
        hint="--imatrix",
        command=with_quant(BUILD, _type),
        base=WIDE,
    )
request(
    "iq2_xxs-without-imatrix-in-quantize",
    "iq2_xxs",
    "importance matrix",
    hint="--imatrix",
    command=with_quant(QUANTIZE, "iq2_xxs"),
    base=WIDE,
)
request("name-with-a-slash", "a/b", hint="--name", command=(*BUILD, "--name", "a/b"))
request("name-with-a-quote", 'a"b', hint="--name", command=(*BUILD, "--name", 'a"b'))
request("name-that-is-the-parent", "..", hint="--name", command=(*BUILD, "--name", ".."))
request("name-that-looks-like-an-option", "-x", hint="--name", command=(*BUILD, "--name=-x"))
request("name-with-a-newline", "name", hint="--name", command=(*BUILD, "--name", "a\nb"))
request("name-too-long", "name", hint="--name", command=(*BUILD, "--name", "n" * 300))
request("rope-scaling-of-another-kind", "dynamic:2", hint="linear:2", command=(*BUILD, "--rope-scaling", "dynamic:2"))
request("unknown-device", "tpu", hint="cuda:N", command=(*BUILD, "--device", "tpu"))
request("device-that-is-not-there", "cuda:99", hint="--device cpu", command=(*CONVERT, "--device", "cuda:99"))

# Parameters for Ollama

request("unknown-parameter", "temprature", hint="temperature", command=(*BUILD, "--param", "temprature=0.2"))
request("parameter-of-the-wrong-type", "num_ctx", "many", hint="42", command=(*BUILD, "--param", "num_ctx=many"))
request("parameter-without-value", "temperature", hint="0.2", command=(*BUILD, "--param", "temperature="))
request("no-context", "num_ctx", hint="above 0", command=(*BUILD, "--param", "num_ctx=0"))
request("unknown-parameter-of-package", "tempo", hint="did you mean", command=(*PACKAGE, "--param", "tempo=1"))
request("system-prompt-with-a-nul", "system prompt", "NUL", command=(*BUILD, "--system", "a\0b"))

# Ids of a hub; the tests are offline


def from_source(model: str) -> tuple[str, ...]:
    return tuple(model if argument == "{model}" else argument for argument in BUILD)


request(
    "hub-id-that-is-not-cached",
    "nobody/nothing",
    "no such folder",
    "HF_HUB_OFFLINE",
    hint="hf download nobody/nothing",
    command=from_source("nobody/nothing"),
)
request(
    "hub-id-of-an-adapter-that-is-not-cached",
    "nobody/nothing@v1",
    "no such folder",
    hint="unset HF_HUB_OFFLINE",
    command=(*BUILD, "--adapter", "nobody/nothing@v1"),
)
request("no-model-by-name", "is empty", hint="Qwen/Qwen2.5-0.5B", command=from_source(""))
request("no-adapter-by-name", "is empty", hint="Hugging Face id", command=(*BUILD, "--adapter", ""))
request("neither-folder-nor-hub-id", "no/such/folder", hint="Qwen/Qwen2.5-0.5B", command=from_source("no/such/folder"))
request(
    "hub-id-with-a-step-up",
    "org/../name",
    "no such folder",
    hint="Qwen/Qwen2.5-0.5B",
    command=from_source("org/../name"),
)
request(
    "modelscope-id-without-organisation",
    "modelscope:name",
    "not a ModelScope id",
    hint="modelscope:org/name",
    command=from_source("modelscope:name"),
)

# Recipes

RECIPE = ("build", "--recipe", "{root}/recipe.toml", "-o", "{out}", "--no-verify")
request("recipe-missing", "recipe.toml", "cannot be read", command=RECIPE)


@defect("recipe.toml", "TOML", command=RECIPE)
def recipe_is_not_toml(case: Case) -> None:
    (case.root / "recipe.toml").write_text("model = ", encoding="utf-8")


@defect("recipe.toml", "modle", hint="model", command=RECIPE)
def recipe_with_an_unknown_key(case: Case) -> None:
    (case.root / "recipe.toml").write_text('modle = "model"\n', encoding="utf-8")


@defect("recipe.toml", "threads", command=RECIPE)
def recipe_with_a_value_of_another_type(case: Case) -> None:
    (case.root / "recipe.toml").write_text('model = "model"\nthreads = "two"\n', encoding="utf-8")


@defect("f64", hint="f16, bf16, f32", command=RECIPE)
def recipe_with_an_unknown_outtype(case: Case) -> None:
    (case.root / "recipe.toml").write_text('model = "model"\nouttype = "f64"\n', encoding="utf-8")


@defect("quantization type", hint="--quant", command=RECIPE)
def recipe_that_asks_for_nothing(case: Case) -> None:
    (case.root / "recipe.toml").write_text('model = "model"\nquants = []\n', encoding="utf-8")


# Importance matrices


request(
    "calibrated-and-given",
    "--calibrate and --imatrix",
    command=(*WITH_IMATRIX, "--calibrate", "auto"),
)
request(
    "calibration-data-missing", "train.jsonl: cannot be read", command=(*BUILD, "--calibrate", "{root}/train.jsonl")
)
request("imatrix-missing", "imatrix.gguf", "cannot be read", command=WITH_IMATRIX)


@defect("imatrix.gguf", "importance matrix", command=WITH_IMATRIX)
def imatrix_is_a_text(case: Case) -> None:
    (case.root / "imatrix.gguf").write_text("importance", encoding="utf-8")


@defect("imatrix.gguf", "importance matrix", hint="quantkit imatrix", command=WITH_IMATRIX)
def imatrix_is_a_model(case: Case) -> None:
    case.gguf.rename(case.root / "imatrix.gguf")


def write_imatrix(path: Path, columns: int, value: float = 1.0) -> None:
    """llama-imatrix's format with one entry."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.full((1, columns), value, dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@defect("imatrix.gguf", "truncated", hint="quantkit imatrix", command=WITH_IMATRIX)
def imatrix_truncated(case: Case) -> None:
    write_imatrix(case.root / "imatrix.gguf", 64)
    cut(case.root / "imatrix.gguf", 60)


@defect("imatrix.gguf", "blk.0.attn_q.weight", "NaN", command=WITH_IMATRIX)
def imatrix_with_nan(case: Case) -> None:
    write_imatrix(case.root / "imatrix.gguf", 64, float("nan"))


@defect("blk.0.attn_q.weight", "32 columns", "64", hint="from this model", command=WITH_IMATRIX)
def imatrix_of_another_model(case: Case) -> None:
    write_imatrix(case.root / "imatrix.gguf", 32)


@defect("imatrix.gguf", "truncated", command=WITH_IMATRIX)
def legacy_imatrix_truncated(case: Case) -> None:
    name = b"blk.0.attn_q.weight"
    raw = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 1, 64) + bytes(100)
    (case.root / "imatrix.gguf").write_bytes(raw)


# GGUF files


@defect(GGUF, "no such file", command=QUANTIZE)
def gguf_missing(case: Case) -> None:
    case.gguf.unlink()


@defect(
    "{model}",
    "this is a checkpoint, not a GGUF file",
    hint="quantkit build",
    command=("quantize", "{model}", "-o", "{out}", "--quant", "q8_0"),
)
def folder_given_as_gguf(case: Case) -> None:
    pass


@defect(GGUF, "not a GGUF file", hint="again", command=QUANTIZE)
def not_a_gguf(case: Case) -> None:
    case.gguf.write_text("not a model" * 10, encoding="utf-8")


@defect(GGUF, "not a GGUF file", hint="again", command=PACKAGE)
def bad_magic(case: Case) -> None:
    case.gguf.write_bytes(b"GGML" + case.gguf.read_bytes()[4:])


@defect(GGUF, "version 9", hint="again", command=QUANTIZE)
def unknown_gguf_version(case: Case) -> None:
    raw = bytearray(case.gguf.read_bytes())
    raw[4:8] = struct.pack("<I", 9)
    case.gguf.write_bytes(raw)


@defect(GGUF, "truncated", "ends at byte", hint="again", command=QUANTIZE)
def gguf_truncated(case: Case) -> None:
    cut(case.gguf, 1000)


@defect(GGUF, "truncated in the header", hint="again", command=QUANTIZE)
def gguf_truncated_in_the_header(case: Case) -> None:
    cut(case.gguf, case.gguf.stat().st_size - 5000)


@defect(GGUF, "truncated", hint="again", command=QUANTIZE)
def gguf_with_absurd_counts(case: Case) -> None:
    raw = bytearray(case.gguf.read_bytes())
    raw[8:24] = struct.pack("<QQ", 2**62, 2**62)
    case.gguf.write_bytes(raw)


@defect(GGUF, "q8_0 already", hint="--allow-requantize", command=with_quant(QUANTIZE, "q4_0"))
def quantizing_twice(case: Case) -> None:
    quantize(case.gguf, case.root / "small.gguf", quant="q8_0")
    (case.root / "small.gguf").replace(case.gguf)


@defect(GGUF, "split", command=QUANTIZE)
def part_of_a_split_gguf(case: Case) -> None:
    with case.gguf.open("r+b") as file:
        raw = file.read()
        # The same length, so that the rest of the file stays where it is.
        old, new = b"general.sampling.top_p", b"split.count"
        assert raw.count(old) == 1
        at = raw.index(old)
        file.seek(at - 8)
        file.write(struct.pack("<Q", len(new)) + new)
        # The value fills what is left: a text as long as the name became shorter.
        rest = len(old) - len(new) + 8
        file.write(struct.pack("<IQ", 8, rest - 12) + b"0" * (rest - 12))


def _tensor_value(case: Case, name: str, value: float) -> None:
    tensor = next(tensor for tensor in gguf.GGUFReader(case.gguf).tensors if tensor.name == name)
    offset = int(tensor.data_offset)
    del tensor
    with case.gguf.open("r+b") as file:
        file.seek(offset)
        file.write(np.float16(value).tobytes())


@defect(GGUF, "blk.0.attn_q.weight", "NaN", command=QUANTIZE)
def nan_in_a_gguf(case: Case) -> None:
    _tensor_value(case, "blk.0.attn_q.weight", float("nan"))


@defect(GGUF, "output_norm.weight", command=QUANTIZE)
def gguf_tensor_without_rows(case: Case) -> None:
    name = b"output_norm.weight"
    raw = case.gguf.read_bytes()
    old, new = (name + struct.pack("<IQ", 1, rows) for rows in (64, 0))
    assert raw.count(old) == 1
    case.gguf.write_bytes(raw.replace(old, new))


@defect(GGUF, "output_norm.weight", command=QUANTIZE)
def gguf_tensor_without_dimensions(case: Case) -> None:
    start = read_header(case.gguf).data_offset
    raw = case.gguf.read_bytes()
    at = raw.index(b"output_norm.weight") + len(b"output_norm.weight")
    # The padding behind the list takes what the list lost.
    listed = raw[:at] + struct.pack("<I", 0) + raw[at + 12 : start]
    case.gguf.write_bytes(listed.ljust(start, b"\0") + raw[start:])


@defect("model-f16.gguf", "same name", command=("package", "{gguf}", "{root}/other/model-f16.gguf", "-o", "{out}"))
def two_ggufs_of_one_name(case: Case) -> None:
    (case.root / "other").mkdir()
    (case.root / "other" / GGUF).write_bytes(case.gguf.read_bytes())


@defect(GGUF, "different chat template", hint="--template", command=(*PACKAGE, "--template", "chatml"))
def package_with_another_template(case: Case) -> None:
    pass


@defect(GGUF, "chat template", hint="quantkit build", command=PACKAGE)
def package_of_a_gguf_without_template(case: Case) -> None:
    raw = case.gguf.read_bytes()
    case.gguf.write_bytes(raw.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX"))


# What inspect says of the same files

for _name, _path, _texts in (
    ("nothing", "{root}/nowhere", ("nowhere", "no such")),
    ("folder-of-something-else", "{root}/outputs", ("outputs", "not a checkpoint")),
):
    request(f"inspect-{_name}", *_texts, command=("inspect", _path))


@defect("model.safetensors", "truncated", hint="download", command=("inspect", "{model}"))
def inspect_truncated_checkpoint(case: Case) -> None:
    cut(case.weights, 10)


@defect("adapter_model.safetensors", "truncated", hint="download", command=("inspect", "{adapter}"))
def inspect_truncated_adapter(case: Case) -> None:
    cut(case.adapter_weights, 10)


@defect(GGUF, "truncated", hint="again", command=("inspect", "{gguf}"))
def inspect_truncated_gguf(case: Case) -> None:
    cut(case.gguf, 10)


# What prove cannot compare

request("prove-nothing", "nowhere", "no such folder", hint="quantkit build", command=("prove", "{root}/nowhere"))
