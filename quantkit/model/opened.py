"""An open checkpoint with its adapters, and the tensors and metadata of the GGUF file that it becomes."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.adapter.folder import Adapter
from quantkit.arch.base import Architecture
from quantkit.arch.vision.base import mmproj_type
from quantkit.checkpoint.folder import Checkpoint
from quantkit.ggml.types import GGMLType
from quantkit.gguf.header import EMBEDDING as GGUF_EMBEDDING
from quantkit.gguf.kv import KV
from quantkit.model.planned import base_type, planned_tensor
from quantkit.model.projector import Projector
from quantkit.model.sampling import checkpoint_sampling
from quantkit.model.stored_blocks import copied
from quantkit.model.tokenizer_choice import TokenizerChoice
from quantkit.plan.values import PlannedTensor, general_metadata
from quantkit.vocab.files import ParsedFiles
from quantkit.vocab.phi3_name import known_name
from quantkit.vocab.vocabulary import Vocabulary, read_vocabulary


@dataclass(frozen=True)
class MergedCheckpoint:
    """An open checkpoint of any architecture with its adapters: enough to merge them.

    Attributes:
        checkpoint: the base.
        adapters: in the order in which they are merged.
        untied: the checkpoint ties the embedding and the output head, but the adapters make them different.
        notes: decisions the user should see.
        tokenizer: where the tokenizer comes from.
    """

    checkpoint: Checkpoint
    adapters: tuple[Adapter, ...]
    untied: bool
    notes: tuple[str, ...]
    tokenizer: TokenizerChoice

    @property
    def libraries(self) -> tuple[str, ...]:
        """Libraries besides torch that affect the merged values: PEFT, if its own layers merge."""
        return ("peft",) if any(adapter.layers is not None for adapter in self.adapters) else ()


@dataclass(frozen=True)
class Model(MergedCheckpoint):
    """An open model of a supported architecture.

    Attributes:
        architecture: its family.
        parsed: files of the tokenizer that were read when it was chosen.
        projector: its vision part, if that is wanted.
    """

    architecture: Architecture
    parsed: ParsedFiles
    projector: Projector | None = None

    @property
    def rows(self) -> int:
        """Number of rows of the embedding: the size of the vocabulary."""
        return next(tensor for tensor in self.tensors(GGMLType.F32) if tensor.name == GGUF_EMBEDDING).rows

    def tensors(self, base: GGMLType) -> tuple[PlannedTensor, ...]:
        """The tensors of the GGUF file: matrices are rounded to *base*, vectors and norms stay float32.

        What is stored in blocks of a ggml type, and what no adapter changes, keeps that type.
        """
        planned = [
            copied(self.checkpoint, self.adapters, rule)
            or planned_tensor(rule, rule.outtype or base_type(rule.target, rule.shape, base))
            for rule in self.architecture.rules(self.checkpoint.config)
            if rule.sources[0] in self.checkpoint.tensors
        ]
        there = {tensor.name for tensor in planned}
        for made in self.architecture.generated(self.checkpoint.config):
            if made.target not in there:
                shape = tuple(made.values.shape)
                planned.append(
                    PlannedTensor(made.target, "", shape, base_type(made.target, shape, base), values=made.values)
                )
        return tuple(planned)

    def projector_tensors(self, base: GGMLType) -> tuple[PlannedTensor, ...]:
        """The tensors of the mmproj file of type *base*; none without :attr:`projector`."""
        if self.projector is None:
            return ()
        return tuple(
            planned_tensor(rule, mmproj_type(rule, base))
            for rule in self.projector.rules
            if rule.sources[0] in self.checkpoint.tensors
        )

    def vocabulary(self) -> Vocabulary:
        """The tokenizer, as metadata."""
        try:
            return read_vocabulary(
                self.checkpoint,
                self.rows,
                tokenizers=self.architecture.tokenizers,
                rules=self.architecture.vocabulary,
                folder=self.tokenizer.folder,
                templates=self.tokenizer.templates,
                special=self.tokenizer.special,
                parsed=self.parsed,
            )
        finally:
            self.parsed.clear()

    def metadata(self, name: str, vocabulary: Vocabulary, chat_template: str | None) -> list[KV]:
        """The metadata of the GGUF file.

        Args:
            name: ``general.name``.
            vocabulary: the result of :meth:`vocabulary`.
            chat_template: the Jinja template to write, from the model or a built-in one.
        """
        return [
            *self.bare_metadata(name),
            *vocabulary.metadata,
            *vocabulary.template_metadata(chat_template),
        ]

    def bare_metadata(self, name: str) -> list[KV]:
        """The metadata without the vocabulary and the chat template."""
        kind = self.architecture.name
        return [
            *general_metadata(kind, known_name(name, kind, self.tokenizer.folder, self.parsed)),
            *checkpoint_sampling(self.checkpoint),
            *self.architecture.metadata(self.checkpoint.config),
        ]
