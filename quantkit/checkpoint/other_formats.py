"""What a folder holds that is no Hugging Face checkpoint, and what to do then.

Publishers put several formats of one model into one folder. Where weights of the Hugging Face format are there they
are read and the others passed over; where they are not, the refusal says which format was found.
"""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import CheckpointError
from quantkit.system.shell import command

_GET_HF = "get the same model in Hugging Face's format (config.json and model*.safetensors)"
# patterns of names, what they are, the way on; the first that is found is told
_FORMATS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("*.gguf",), "GGUF files", "go on from the GGUF file: {quantize}"),
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
    """The error for a model that is a file, where a folder is expected."""
    if path.suffix == ".gguf":
        return CheckpointError(
            f"{path}: is a GGUF file, not the folder of a checkpoint",
            hint=f"{_quantize(path)}, or {command('quantkit', 'package', path, '-o', 'DIR')}",
        )
    return CheckpointError(f"{path}: is a file, not the folder of a checkpoint", hint=f"give the folder {path.parent}")


def refuse_format(path: Path, missing: str, hint: str) -> CheckpointError:
    """The error for a folder without what a checkpoint must have.

    Args:
        path: the folder.
        missing: what is not there.
        hint: where no other format is there either.
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
