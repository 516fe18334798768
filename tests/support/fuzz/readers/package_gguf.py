"""GGUF files that somebody else made, as `package` reads them: names, tokens, sampling, context, types of tensors."""

from __future__ import annotations

from quantkit.jobs.package import package
from tests.support.fuzz.mutate_gguf import GgufMutator
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import file
from tests.support.fuzz.tiny_gguf import KEYS, TEXTS, models


def _read(data: bytes) -> None:
    path = file("model.gguf", data)
    package([path], path.parent / "out")


READER = Reader(
    "package-gguf",
    models,
    _read,
    GgufMutator(keys=KEYS, texts=TEXTS),
    largest=1 << 16,
    allows=frozenset({"subprocess.Popen"}),
)
