"""Gated delta nets (Yang et al. 2024, arXiv:2412.06464): linear attention, in models where some layers attend to all.

A layer keeps one matrix per value head instead of keys and values. Several value heads share a key head; GGUF stores
them tiled (the first of every key head, then the second of every one) where the graph repeats keys that way.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.arch.base import Config, Rule, layers, positive, require
from quantkit.arch.decoder import linear, vector
from quantkit.arch.layer_types import FULL, layer_types
from quantkit.arch.mamba2 import negative_exp
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, KVType, array, u32
from quantkit.plan.order import Runs, tiled

_LINEAR = "linear_attention"
_INTERVAL = 4  # transformers' default, and llama.cpp's


@dataclass(frozen=True)
class DeltaSizes:
    """Sizes of a gated delta net.

    Attributes:
        hidden: width of the model.
        head: dimensions of a key head, and of a value head.
        keys: key heads.
        each: value heads of a key head.
        kernel: tokens that the convolution sees.
    """

    hidden: int
    head: int
    keys: int
    each: int
    kernel: int

    @property
    def values(self) -> int:
        """Value heads."""
        return self.keys * self.each

    @property
    def queries_and_keys(self) -> int:
        """Rows of queries and keys together."""
        return 2 * self.keys * self.head

    @property
    def inner(self) -> int:
        """Rows of values."""
        return self.values * self.head

    def heads(self, size: int, before: int = 0) -> Runs:
        """The value heads as GGUF stores them, of *size* rows each; none if that is their order already.

        Args:
            size: rows of a head.
            before: rows that come first and stay.
        """
        if self.each == 1:
            return ()
        return (*([range(before)] if before else ()), *tiled(self.keys, self.each, size, before))


def delta_sizes(config: Config) -> DeltaSizes:
    """The sizes in a config.

    Raises:
        ArchitectureError: a size is missing, the sizes do not fit together, or llama.cpp's graph has no such sizes.
    """
    keys, values = positive(config, "linear_num_key_heads"), positive(config, "linear_num_value_heads")
    head = positive(config, "linear_key_head_dim")
    if values % keys:
        raise ArchitectureError(
            f"config.json: linear_num_value_heads {values} is not a multiple of linear_num_key_heads {keys}"
        )
    require(config, "linear_value_head_dim", head)
    return DeltaSizes(
        hidden=positive(config, "hidden_size"),
        head=head,
        keys=keys,
        each=values // keys,
        kernel=positive(config, "linear_conv_kernel_dim"),
    )


def attends(config: Config) -> list[bool]:
    """By layer, whether it attends to all tokens.

    Raises:
        ArchitectureError: ``layer_types`` has another number of layers, or another kind of layer.
    """
    every = positive({"full_attention_interval": _INTERVAL} | dict(config), "full_attention_interval")
    default = [_LINEAR if (i + 1) % every else FULL for i in range(layers(config))]
    return [kind == FULL for kind in layer_types(config, (_LINEAR, FULL), default)]


def delta_metadata(arch: str, config: Config, more: int) -> list[KV]:
    """The sizes of the gated delta nets, and which layers are some.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        more: layers behind those of the config, which attend to all tokens.
    """
    size = delta_sizes(config)
    recurrent = [not full for full in attends(config)] + [False] * more
    # Beside the list, the interval says nothing; the converter sees it only where transformers has not used it up.
    interval = config.get("full_attention_interval") if config.get("layer_types") is not None else None
    return [
        u32(f"{arch}.ssm.conv_kernel", size.kernel),
        u32(f"{arch}.ssm.state_size", size.head),
        u32(f"{arch}.ssm.group_count", size.keys),
        u32(f"{arch}.ssm.time_step_rank", size.values),
        u32(f"{arch}.ssm.inner_size", size.inner),
        array(f"{arch}.attention.recurrent_layers", recurrent, KVType.BOOL),
        u32(f"{arch}.full_attention_interval", _INTERVAL if interval is None else interval),
    ]


def apart(size: DeltaSizes) -> list[Rule]:
    """A layer's gated delta net with a matrix for each of its parts, of Qwen3.5: its value heads are tiled."""
    one, whole = size.heads(1), size.heads(size.head)
    mixed = size.heads(size.head, size.queries_and_keys)
    rows, hidden = size.queries_and_keys + size.inner, size.hidden
    return [
        Rule("linear_attn.in_proj_qkv.weight", "attn_qkv.weight", (rows, hidden), row_order=mixed),
        Rule("linear_attn.in_proj_z.weight", "attn_gate.weight", (size.inner, hidden), row_order=whole),
        Rule("linear_attn.in_proj_b.weight", "ssm_beta.weight", (size.values, hidden), row_order=one),
        Rule("linear_attn.in_proj_a.weight", "ssm_alpha.weight", (size.values, hidden), row_order=one),
        *_rest(size, one, mixed),
        Rule("linear_attn.out_proj.weight", "ssm_out.weight", (hidden, size.inner), column_order=whole),
    ]


def fused(size: DeltaSizes) -> list[Rule]:
    """A layer's gated delta net with fused matrices, of Qwen3-Next: for each key head its query, its key, its values
    and the gates of these."""
    parts = (size.head, size.head, size.each * size.head, size.each * size.head)
    starts = [sum(parts[:i]) for i in range(len(parts))]

    def of_every_head(part: int) -> Runs:
        firsts = [head * sum(parts) + starts[part] for head in range(size.keys)]
        return tuple(range(first, first + parts[part]) for first in firsts)

    rows, hidden = size.queries_and_keys + size.inner, size.hidden
    stored = (size.keys * sum(parts), hidden)
    source = "linear_attn.in_proj_qkvz.weight"
    mixed = (*of_every_head(0), *of_every_head(1), *of_every_head(2))
    return [
        Rule(source, "attn_qkv.weight", (rows, hidden), source_shape=stored, row_order=mixed),
        Rule(source, "attn_gate.weight", (size.inner, hidden), source_shape=stored, row_order=of_every_head(3)),
        *linear("linear_attn.in_proj_ba", "ssm_ba", 2 * size.values, hidden),
        *_rest(size, (), ()),
        *linear("linear_attn.out_proj", "ssm_out", hidden, size.inner),
    ]


def _rest(size: DeltaSizes, one: Runs, mixed: Runs) -> list[Rule]:
    """The convolution, the decay and the norm; *one* and *mixed* order value heads of one row, and the channels."""
    channels = size.queries_and_keys + size.inner
    return [
        Rule(
            "linear_attn.conv1d.weight",
            "ssm_conv1d.weight",
            (channels, size.kernel),
            source_shape=(channels, 1, size.kernel),
            row_order=mixed,
        ),
        Rule("linear_attn.dt_bias", "ssm_dt.bias", (size.values,), row_order=one),
        Rule("linear_attn.A_log", "ssm_a", (size.values,), compute=negative_exp, row_order=one),
        vector("linear_attn.norm", "ssm_norm", size.head),
    ]
