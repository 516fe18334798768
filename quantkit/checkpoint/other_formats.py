"""Errors for files and folders that are not a Hugging Face checkpoint: which format was found, and what to do.

Publishers put several formats of one model into one folder. If the folder has weights in Hugging Face's format, those
are read and the others ignored; if not, the error names the format that was found.
"""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import CheckpointError
from quantkit.system.shell import command

_GET_HF = "get the same model in Hugging Face's format (config.json and model*.safetensors)"
# patterns of file names, the format, the hint; the first format that is found is reported
_FORMATS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("*.gguf",), "GGUF files", "quantize the GGUF file: {quantize}"),
    (
        ("consolidated*.safetensors", "tekken.json"),
        "Mistral's own format",
        f"{_GET_HF}, or convert it with transformers' convert_mistral_weights_to_hf.py",
    ),
    (
        ("consolidated.*.pth", "original/consolidated.*.pth"),
        "Meta's own format",
        f"{_GET_HF}, or convert it with transformers' convert_llama_weights_to_hf.py",
    ),
    (("*.pth", "*.pt", "*.ckpt"), "PyTorch checkpoints", f"{_GET_HF}: save it with transformers' save_pretrained"),
    (("*.h5", "*.msgpack", "*.onnx"), "weights for other frameworks", _GET_HF),
)


def refuse_file(path: Path) -> CheckpointError:
    """The error for a file where a model folder is expected."""
    if path.suffix == ".gguf":
        return CheckpointError(
            f"{path}: this is a GGUF file, not a checkpoint folder",
            hint=f"{_quantize(path)}, or {command('quantkit', 'package', path, '-o', 'DIR')}",
        )
    return CheckpointError(
        f"{path}: this is a file, not a checkpoint folder",
        hint=f"give the folder {path.parent}; unpack an archive first",
    )


def refuse_format(path: Path, missing: str, hint: str) -> CheckpointError:
    """The error for a folder that does not have the files of a checkpoint.

    Args:
        path: the folder.
        missing: what is missing.
        hint: the hint if the folder has no other format either.
    """
    for patterns, what, way_on in _FORMATS:
        for pattern in patterns:
            if found := sorted(path.glob(pattern)):
                name = found[0].relative_to(path)
                return CheckpointError(
                    f"{path}: {missing}; the folder has only {what} ({name})",
                    hint=way_on.format(quantize=_quantize(found[0])),
                )
    return CheckpointError(f"{path}: {missing}", hint=hint)


def _quantize(gguf: Path) -> str:
    return command("quantkit", "quantize", gguf, "--quant", "q4_0", "-o", "OUT.gguf")
