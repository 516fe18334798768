"""Choices of types that cannot be met, split files with parts that are wrong, and llama.cpp checkouts that are none."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from quantkit.gguf.model import read_model
from quantkit.jobs.convert import convert_adapter
from quantkit.jobs.quantize import quantize
from tests.checkpoints.case import Case, cut
from tests.checkpoints.defect import BUILD, CONVERT, PACKAGE, QUANTIZE, defect, request

# Types of single tensors

for _command, _name in ((BUILD, "build"), (QUANTIZE, "quantize")):
    request(
        f"unknown-type-of-tensors-in-{_name}",
        "--tensor-type",
        "'q9_0'",
        hint="q8_0",
        command=(*_command, "--tensor-type", "attn_v=q9_0"),
    )
    request(
        f"tensors-that-are-not-there-in-{_name}",
        "--tensor-type attn_x=q4_0",
        "matches no tensor",
        hint="quantkit inspect",
        command=(*_command, "--tensor-type", "attn_x=q4_0"),
    )
request("unknown-type-of-output", "--output-tensor-type", "'f64'", command=(*BUILD, "--output-tensor-type", "f64"))
request("unknown-type-of-embedding", "--token-embedding-type", command=(*BUILD, "--token-embedding-type", "q4_k_m"))
request("tensor-type-without-type", "REGEX=TYPE", "'attn_v='", command=(*QUANTIZE, "--tensor-type", "attn_v="))
request("tensor-type-without-regex", "REGEX=TYPE", "'=q8_0'", command=(*QUANTIZE, "--tensor-type", "=q8_0"))
request(
    "broken-regex",
    "--tensor-type blk(=q4_0",
    "regular expression",
    hint="attn_v=q8_0",
    command=(*QUANTIZE, "--tensor-type", "blk(=q4_0"),
)
request(
    "tensors-that-are-never-quantized",
    "_norm",
    "can be quantized",
    command=(*QUANTIZE, "--tensor-type", "_norm=q8_0"),
)
request(
    "embedding-type-that-needs-an-imatrix",
    "token_embd.weight",
    "iq4_xs",
    "256",
    command=(*QUANTIZE, "--token-embedding-type", "iq4_xs"),
)
request(
    "the-type-llama-cpp-refuses",
    "nvfp4",
    hint="mxfp4_moe",
    command=("quantize", "{gguf}", "-o", "{out}", "--quant", "nvfp4"),
)


@defect(
    "unknown key",
    "tensor_type",
    hint="tensor_types",
    command=("build", "--recipe", "{root}/recipe.toml", "-o", "{out}"),
)
def recipe_with_the_singular(case: Case) -> None:
    (case.root / "recipe.toml").write_text('model = "model"\ntensor_type = "attn_v=q8_0"\n', encoding="utf-8")


@defect("split_max_size", "'many'", command=("build", "--recipe", "{root}/recipe.toml", "-o", "{out}"))
def recipe_with_a_size_that_is_none(case: Case) -> None:
    (case.root / "recipe.toml").write_text('model = "model"\nsplit_max_size = "many"\n', encoding="utf-8")


# Quantized files


@defect(
    "model-f16.gguf",
    "blk.0.attn_q.weight",
    "NaN",
    command=("quantize", "{gguf}", "-o", "{out}", "--quant", "q4_0", "--allow-requantize"),
)
def nan_in_a_quantized_gguf(case: Case) -> None:
    quantize(case.gguf, case.root / "small.gguf", quant="q8_0")
    (case.root / "small.gguf").replace(case.gguf)
    model = read_model(case.gguf)
    with case.gguf.open("r+b") as file:
        file.seek(model.locate("blk.0.attn_q.weight")[1])
        file.write(np.float16("nan").tobytes())  # the scale of the first block


# Split files

FIRST = "{root}/parts-00001-of-00003.gguf"
QUANTIZE_PARTS = ("quantize", FIRST, "-o", "{out}", "--quant", "q8_0")
SECOND = "parts-00002-of-00003.gguf"


def split(case: Case, name: str = "parts") -> list[Path]:
    """The sound file in three parts."""
    size = case.gguf.stat().st_size
    files: tuple[Path, ...] = ()
    for limit in range(size // 4, size // 2, size // 100):
        files = read_model(
            quantize(case.gguf, case.root / f"{name}.gguf", quant="f16", split_max_size=limit, overwrite=True)
        ).files
        if len(files) == 3:
            return list(files)
        for file in files:
            file.unlink()
    raise AssertionError("no limit gives three parts")


@defect(SECOND, "part 2 of 3", "missing", hint="one folder", command=QUANTIZE_PARTS)
def a_part_is_missing(case: Case) -> None:
    split(case)[1].unlink()


@defect(SECOND, "missing", command=("package", FIRST, "-o", "{out}"))
def a_part_is_missing_for_the_package(case: Case) -> None:
    split(case)[1].unlink()


@defect(SECOND, "missing", command=("inspect", FIRST))
def a_part_is_missing_for_inspect(case: Case) -> None:
    split(case)[1].unlink()


@defect(SECOND, "missing", command=("smoke", FIRST))
def a_part_is_missing_for_smoke(case: Case) -> None:
    split(case)[1].unlink()


@defect(
    SECOND,
    "part 2 of 3",
    hint="parts-00001-of-00003.gguf",
    command=("quantize", "{root}/" + SECOND, "-o", "{out}", "--quant", "q8_0"),
)
def a_later_part_is_given(case: Case) -> None:
    split(case)


@defect("model-f16.gguf", "part 1 of 3", "name", hint="NAME-00001-of-00003.gguf", command=QUANTIZE)
def a_part_under_another_name(case: Case) -> None:
    split(case)[0].replace(case.gguf)


@defect(SECOND, "split.no is 2", "expected 1 and 3", command=QUANTIZE_PARTS)
def parts_in_the_wrong_order(case: Case) -> None:
    files = split(case)
    files[2].replace(files[1])
    files[1].with_name(files[2].name).write_bytes(files[1].read_bytes())


@defect(SECOND, "truncated", hint="again", command=QUANTIZE_PARTS)
def a_part_is_truncated(case: Case) -> None:
    cut(split(case)[1], 100)


@defect(SECOND, "not a GGUF file", command=QUANTIZE_PARTS)
def a_part_is_no_gguf(case: Case) -> None:
    split(case)[1].write_bytes(b"x" * 1000)


@defect(SECOND, "is also in an earlier part", hint="again", command=QUANTIZE_PARTS)
def a_part_repeats_a_tensor(case: Case) -> None:
    files = split(case)
    write_part(files[1], 1, 3, 21, "token_embd.weight")


@defect("parts-00001-of-00003.gguf", "split.tensors.count", hint="different models", command=QUANTIZE_PARTS)
def a_part_of_another_model(case: Case) -> None:
    write_part(split(case)[1], 1, 3, 7, "blk.7.attn_q.weight")


def write_part(path: Path, number: int, count: int, tensors: int, name: str) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", count)
    writer.add_int32("split.tensors.count", tensors)
    writer.add_tensor(name, np.ones((8, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Adapters by themselves

for _name, _command in {"quantize": QUANTIZE, "package": PACKAGE, "smoke": ("smoke", "{gguf}")}.items():

    @defect(
        "{gguf}",
        "an adapter's LoRA file, not a model",
        hint="--lora",
        command=_command,
        id=f"{_name}-of-an-adapter-by-itself",
    )
    def adapter_by_itself(case: Case) -> None:
        convert_adapter(case.model, case.gguf, adapter=case.adapter, overwrite=True)


# Outputs that would be in the way


@defect(
    "is a file",
    "a folder",
    hint="choose another output path",
    command=(*BUILD[:3], "{gguf}", *BUILD[4:], "--overwrite"),
)
def a_file_in_place_of_the_folder(case: Case) -> None:
    pass


SPLIT = ("convert", "{model}", "-o", "{root}/parts.gguf", "--split-max-size", "100KB", "--device", "cpu")


@defect("already exists", hint="--overwrite", command=SPLIT)
def a_part_that_exists(case: Case) -> None:
    for file in read_model(quantize(case.gguf, case.root / "parts.gguf", quant="f16", split_max_size=100_000)).files[
        1:
    ]:
        file.unlink()


# Checkouts of llama.cpp

request(
    "no-checkout",
    "{root}/nowhere",
    "convert_hf_to_gguf.py",
    hint="git clone",
    command=(*CONVERT, "--via-llama-cpp", "{root}/nowhere"),
)
request(
    "no-checkout-for-build",
    "{root}/outputs",
    "convert_hf_to_gguf.py",
    hint="git clone",
    command=(*BUILD, "--via-llama-cpp", "{root}/outputs"),
)
request(
    "dry-run-of-a-conversion-elsewhere",
    "llama.cpp's converter",
    hint="leave out one of the two",
    command=(*BUILD, "--dry-run", "--via-llama-cpp", "{root}"),
)


@defect(
    "ended with exit code 3",
    "the converter's words",
    hint="convert_hf_to_gguf.py",
    command=(*BUILD, "--via-llama-cpp", "{root}"),
)
def a_checkout_that_fails(case: Case) -> None:
    script = 'import sys\nprint("the converter\'s words", file=sys.stderr)\nsys.exit(3)\n'
    (case.root / "convert_hf_to_gguf.py").write_text(script, encoding="utf-8")


@defect("not a GGUF file", command=(*CONVERT, "--via-llama-cpp", "{root}"))
def a_checkout_that_writes_something_else(case: Case) -> None:
    script = "import sys\nopen(sys.argv[sys.argv.index('--outfile') + 1], 'w').write('no model' * 9)\n"
    (case.root / "convert_hf_to_gguf.py").write_text(script, encoding="utf-8")
