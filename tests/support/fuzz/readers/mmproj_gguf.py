"""mmproj files: what a model sees with, as `smoke --mmproj` and `package` take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.files.workspace import workspace
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import TensorInfo, encode_header
from quantkit.gguf.kv import boolean, string, u32
from quantkit.gguf.model import read_model
from quantkit.jobs.package_files import add_projector, split_sources
from quantkit.package.manifest import PACKAGE_MARK
from quantkit.verify.sight import require_files
from tests.support.fuzz.mutate_gguf import GgufMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder


def _seeds() -> Sequence[bytes]:
    metadata = [
        string("general.architecture", "clip"),
        string("general.type", "mmproj"),
        string("clip.projector_type", "gemma3"),
        boolean("clip.has_vision_encoder", True),
        u32("clip.vision.image_size", 32),
    ]
    return [encode_header(metadata, [TensorInfo("mm.input_projection.weight", (4, 8), GGMLType.F16, 0)]) + bytes(64)]


def _read(data: bytes) -> None:
    place = folder({"mmproj.gguf": data, "model.gguf": encode_header([string("general.architecture", "llama")], [])})
    path = place / "mmproj.gguf"
    require_files(path, None)
    split_sources(Path("Modelfile"), [place / "model.gguf", path])
    with workspace(place / "out", overwrite=False, inputs=[path], mark=PACKAGE_MARK) as work:
        add_projector(read_model(path), work, lambda nbytes: None)


READER = Reader(
    "mmproj-gguf",
    _seeds,
    _read,
    GgufMutator(keys=(b"clip.vision.projector_type", b"split.count"), texts=(b"clip", b"mmproj", b"gemma3", b"llama")),
)
