"""What mixtures of experts have in common: the router, and the experts' matrices that GGUF stacks."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.arch.base import Config, Rule, positive, require
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32

# The names of an expert's matrices in most checkpoints.
GATED: Mapping[str, str] = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
# LLAMA_MAX_EXPERTS of llama.cpp
_MAX_EXPERTS = 1024


def refuse_partly_sparse(config: Config, *, renormalized: bool) -> None:
    """Refuse settings of Qwen's mixtures that llama.cpp's graph for them does not have.

    Args:
        config: config.json.
        renormalized: whether that graph makes the weights of a token's experts sum to 1.

    Raises:
        ArchitectureError: some layers are dense, or the weights are used in the other way.
    """
    require(config, "decoder_sparse_step", 1)
    require(config, "mlp_only_layers", [])
    # What is left out is false.
    require({"norm_topk_prob": bool(config.get("norm_topk_prob"))}, "norm_topk_prob", renormalized)


def expert_metadata(arch: str, config: Config, key: str) -> list[KV]:
    """How many experts there are, by the config's *key*, and how many of them a token goes through.

    Raises:
        ArchitectureError: one of them is absent, or a token goes through more experts than there are.
    """
    count, used = positive(config, key, _MAX_EXPERTS), positive(config, "num_experts_per_tok")
    if used > count:
        raise ArchitectureError(f"config.json: num_experts_per_tok is {used}, of {count} experts ({key})")
    return [u32(f"{arch}.expert_count", count), u32(f"{arch}.expert_used_count", used)]


def expert_rules(module: str, count: int, names: Mapping[str, str], hidden: int, inner: int) -> list[Rule]:
    """The router and the experts of one layer, each kind of matrix stacked over the experts.

    Args:
        module: of the layer, that holds ``gate`` (the router) and ``experts``.
        count: number of experts.
        names: what an expert's ``gate``, ``up`` and ``down`` matrix are called in the checkpoint.
        hidden: width of the model.
        inner: width inside an expert.
    """
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    return [
        Rule(f"{module}.gate.weight", "ffn_gate_inp.weight", (count, hidden)),
        *(
            Rule(
                tuple(f"{module}.experts.{expert}.{names[kind]}.weight" for expert in range(count)),
                f"ffn_{kind}_exps.weight",
                (count, *shape),
            )
            for kind, shape in shapes.items()
        ),
    ]
