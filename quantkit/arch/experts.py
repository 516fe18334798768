"""Parts that all mixtures of experts share: the router, and the experts' matrices, which GGUF stacks."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.arch.base import Config, Rule, positive, require
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

# The names of an expert's matrices in most checkpoints.
GATED: Mapping[str, str] = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
# llama.cpp's numbers for how a router scores experts.
GATINGS: Mapping[str, int] = {"softmax": 1, "sigmoid": 2}


def refuse_partly_sparse(config: Config, *, renormalized: bool) -> None:
    """Refuse settings of Qwen's mixtures of experts that llama.cpp's graph does not support.

    Args:
        config: config.json.
        renormalized: the graph makes the weights of a token's experts sum to 1.

    Raises:
        ArchitectureError: some layers are dense, or ``norm_topk_prob`` is not what the graph computes.
    """
    require(config, "decoder_sparse_step", 1)
    require(config, "mlp_only_layers", [])
    # The default is false.
    require({"norm_topk_prob": bool(config.get("norm_topk_prob"))}, "norm_topk_prob", renormalized)


def expert_metadata(arch: str, config: Config, key: str, per_token: str = "num_experts_per_tok") -> list[KV]:
    """The number of experts, and the number of experts per token.

    Args:
        arch: the GGUF architecture.
        config: config.json.
        key: the setting with the former.
        per_token: the setting with the latter.

    Raises:
        ArchitectureError: a number is missing, or a token uses more experts than there are.
    """
    count, used = positive(config, key), positive(config, per_token)
    if used > count:
        raise ArchitectureError(f"config.json: {per_token} is {used}, but there are only {count} experts ({key})")
    return [u32(f"{arch}.expert_count", count), u32(f"{arch}.expert_used_count", used)]


def expert_rules(
    module: str, count: int, names: Mapping[str, str], hidden: int, inner: int, *, bias: str | None = None
) -> list[Rule]:
    """The router and the experts of one layer, each kind of matrix stacked over the experts.

    Args:
        module: the layer's module that contains ``gate`` (the router) and ``experts``.
        count: number of experts.
        names: the checkpoint's names for an expert's ``gate``, ``up`` and ``down`` matrices.
        hidden: width of the model.
        inner: width inside an expert.
        bias: the name in the module of the router's bias, which counts for the choice of experts alone; None without.
    """
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    return [
        Rule(f"{module}.gate.weight", "ffn_gate_inp.weight", (count, hidden)),
        *([Rule(f"{module}.{bias}", "exp_probs_b.bias", (count,))] if bias else ()),
        *(
            Rule(
                tuple(f"{module}.experts.{expert}.{names[kind]}.weight" for expert in range(count)),
                f"ffn_{kind}_exps.weight",
                (count, *shape),
            )
            for kind, shape in shapes.items()
        ),
    ]


def transposed_experts(
    source: str, target: str, shape: tuple[int, int, int], *, stored: int | None = None, which: range | None = None
) -> Rule:
    """The matrices of all experts, which a checkpoint has in one tensor, each of them transposed.

    Args:
        source: the tensor.
        target: name in the GGUF file.
        shape: of the target: experts, rows, columns.
        stored: columns of a stored matrix, if they are more than the target's rows.
        which: those of them that become the target's rows; default all.
    """
    count, rows, columns = shape
    return Rule(
        source,
        target,
        shape,
        # A matrix is read as a whole, whichever of its rows are wanted: they are wanted together.
        unit=rows,
        source_shape=(count, columns, stored or rows),
        row_order=tuple(range(first, first + columns) for first in range(0, count * columns, columns)),
        column_order=() if which is None else (which,),
        transposed=True,
    )
