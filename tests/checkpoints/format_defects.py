"""Folders and files that hold a model in another format."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoints.case import Case
from tests.checkpoints.defect import BUILD, CONVERT, defect


def only(case: Case, *names: str, config: bool = True) -> None:
    """Leave the model's folder without its weights (and config), and with these files."""
    case.weights.unlink()
    if not config:
        (case.model / "config.json").unlink()
    for name in names:
        path = case.model / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")


@defect(
    "{gguf}", "GGUF file, not a checkpoint folder", hint="quantkit quantize", command=("build", "{gguf}", "-o", "{out}")
)
def a_gguf_file_as_model(case: Case) -> None:
    pass


@defect("config.json", "a file, not a checkpoint folder", command=("convert", "{model}/config.json", "-o", "{out}"))
def a_file_as_model(case: Case) -> None:
    pass


@defect("{model}", "only GGUF files (model.gguf)", hint="quantkit quantize")
def a_folder_of_ggufs(case: Case) -> None:
    only(case, "model.gguf", config=False)


@defect("{model}", "no weights", "Mistral's own format", "consolidated.safetensors", hint="Hugging Face's format")
def only_consolidated_safetensors(case: Case) -> None:
    only(case, "consolidated.safetensors", "params.json", "tekken.json")


@defect("{model}", "config.json is missing", "Mistral's own format", hint="convert_mistral", command=CONVERT)
def mistral_format_alone(case: Case) -> None:
    only(case, "consolidated.safetensors", "params.json", "tekken.json", config=False)


@defect("{model}", "Meta's own format", str(Path("original") / "consolidated.00.pth"), hint="convert_llama")
def only_the_original_folder(case: Case) -> None:
    only(case, "original/consolidated.00.pth", "original/params.json")


@defect("{model}", "PyTorch checkpoints (model.pth)", hint="save_pretrained", command=BUILD)
def only_a_pth(case: Case) -> None:
    only(case, "model.pth")


@defect("{model}", "other frameworks (tf_model.h5)")
def only_tensorflow(case: Case) -> None:
    only(case, "tf_model.h5")
