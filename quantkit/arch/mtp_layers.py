"""Metadata and tensors of layers for multi-token prediction, see :mod:`quantkit.arch.mtp`."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.arch.base import Rule
from quantkit.arch.decoder import in_layer, linear, vector
from quantkit.arch.mtp import Mtp
from quantkit.gguf.kv import KV, u32


def mtp_metadata(arch: str, count: int) -> list[KV]:
    """The number of these layers, which ``block_count`` includes."""
    return [u32(f"{arch}.nextn_predict_layers", count)] if count else []


def mtp_rules(mtp: Mtp, layer: Sequence[Rule], number: int, hidden: int) -> list[Rule]:
    """The tensors of one layer for multi-token prediction.

    Args:
        mtp: where the family has them.
        layer: the tensors of a layer of the same kind, with names without ``model.layers.N.`` and ``blk.N.``.
        number: of the layer in the file.
        hidden: width of the model.
    """
    own = [
        *linear("fc", "nextn.eh_proj", hidden, 2 * hidden),
        vector("pre_fc_norm_embedding", "nextn.enorm", hidden),
        vector("pre_fc_norm_hidden", "nextn.hnorm", hidden),
        vector("norm", "nextn.shared_head_norm", hidden),
    ]
    return [
        *(in_layer(rule, number, f"{mtp.prefix}layers.0.") for rule in layer),
        *(in_layer(rule, number, mtp.prefix) for rule in own),
    ]
