"""A choice of types: what was asked, what each tensor got, and why. One value, one writer and one reader."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from quantkit.files.json_fields import Fields

SIZE, BITS, FIT = "size", "bits", "fit"
"""What may be asked for: bytes of the file, its bits a weight, or the memory that it runs in."""


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        kind: :data:`SIZE`, :data:`BITS` or :data:`FIT`.
        value: bytes, or bits a weight.
    """

    kind: str
    value: float


@dataclass(frozen=True)
class ChosenTensor:
    """What a tensor got.

    Attributes:
        name: the tensor.
        type: its type, by ggml's name.
        nbytes: its size.
        error: the squared error of its layer's output to be expected, relative to the output.
        kl: what it adds to the divergence, in nats.
        reason: why.
    """

    name: str
    type: str
    nbytes: int
    error: float
    kl: float
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values = asdict(self)
        values["bytes"] = values.pop("nbytes")
        return values


@dataclass(frozen=True)
class Compared:
    """llama.cpp's own type that is as large as the choice, or the next smaller one.

    Attributes:
        quant: its name.
        nbytes: the size of its file.
        predicted_kl: of its mixture, by the same measures.
    """

    quant: str
    nbytes: int
    predicted_kl: float


@dataclass(frozen=True)
class Choice:
    """A choice of types.

    Attributes:
        asked: what was asked for.
        quant: llama.cpp's file type that is nearest in size: what the file says it is, and the ``--quant`` that gives
            the same file together with *tensor_types*.
        nbytes: the size of the file.
        bits_per_weight: of the whole file.
        predicted_kl: the mean divergence from the unquantized file, in nats.
        gap: how far a better choice could be below it at most, by the same measures; relative.
        importance: whether importances were used.
        text: what the sensitivities were measured on.
        evaluations: how many.
        sampling: the largest standard error of a tensor's error, relative, for rows that were not looked at.
        tensor_types: the ``--tensor-type`` options.
        tensors: in the order of the file.
        compared: what llama.cpp has at this size; None if all its types are larger.
    """

    asked: Asked
    quant: str
    nbytes: int
    bits_per_weight: float
    predicted_kl: float
    gap: float
    importance: bool
    text: str
    evaluations: int
    sampling: float
    tensor_types: tuple[str, ...]
    tensors: tuple[ChosenTensor, ...]
    compared: Compared | None = None

    @property
    def label(self) -> str:
        """What stands in the file's name for a type: ``4.60bpw``."""
        return f"{self.bits_per_weight:.2f}bpw"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values = {
            "asked": asdict(self.asked),
            "quant": self.quant,
            "bytes": self.nbytes,
            "bits_per_weight": self.bits_per_weight,
            "predicted_kl": self.predicted_kl,
            "gap": self.gap,
            "importance": self.importance,
            "text": self.text,
            "evaluations": self.evaluations,
            "sampling": self.sampling,
            "tensor_types": list(self.tensor_types),
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }
        if self.compared is not None:
            compared = self.compared
            values["compared"] = {
                "quant": compared.quant, "bytes": compared.nbytes, "predicted_kl": compared.predicted_kl
            }  # fmt: skip
        return values

    @classmethod
    def from_json(cls, found: Fields) -> Choice:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: something else did.
        """
        asked = found.fields("asked")
        compared = found.fields("compared") if "compared" in found else None
        return cls(
            asked=Asked(asked.text("kind"), asked.number("value")),
            quant=found.text("quant"),
            nbytes=found.size("bytes"),
            bits_per_weight=found.number("bits_per_weight"),
            predicted_kl=found.number("predicted_kl"),
            gap=found.number("gap"),
            importance=found.value("importance") is True,
            text=found.text("text"),
            evaluations=found.size("evaluations"),
            sampling=found.number("sampling"),
            tensor_types=found.texts("tensor_types"),
            tensors=tuple(
                ChosenTensor(
                    one.text("name"),
                    one.text("type"),
                    one.size("bytes"),
                    one.number("error"),
                    one.number("kl"),
                    one.text("reason"),
                )
                for one in found.each("tensors")
            ),
            compared=None
            if compared is None
            else Compared(compared.text("quant"), compared.size("bytes"), compared.number("predicted_kl")),
        )
