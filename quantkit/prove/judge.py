"""transformers' own logits of a model with its adapters, in float32: what a proof compares with.

PEFT applies the adapters without merging them, so that quantkit's merging is judged too. All sequences go through a
layer together, padded at their ends, which changes nothing before: attention only looks back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantkit.errors import ArchitectureError, QuantkitError
from quantkit.prove.judged import Judged
from quantkit.prove.peft_adapters import add_adapters
from quantkit.prove.plan import needs_whole_model
from quantkit.prove.sequences import TokenSequence, total
from quantkit.prove.weights import open_weights


def write_logits(judged: Judged, sequences: Sequence[TokenSequence], out: Path) -> bool:
    """Write the logits after each token of each sequence: a .npy file, float32, shape [positions, vocabulary].

    Returns:
        Whether the layers were loaded one at a time.

    Raises:
        QuantkitError: transformers does not know the model, or PEFT does not read an adapter as quantkit does.
    """
    with torch.no_grad(), _model(judged) as (model, by_layer):
        device = torch.device(judged.device)
        body = _body(model, sequences, device)
        logits, start = None, 0
        for row, one in enumerate(sequences):
            found = _head(model, body, row, one.ids, device)
            if logits is None:
                shape = (total(sequences), found.shape[-1])
                logits = np.lib.format.open_memmap(out, "w+", dtype=np.float32, shape=shape)
            logits[start : start + len(one.ids)] = found.cpu().numpy()
            start += len(one.ids)
        assert logits is not None, "a proof without sequences"
        logits.flush()
        return by_layer


def check_known(judged: Judged) -> None:
    """See whether transformers knows the model, and PEFT its adapters; only the adapters' weights are read.

    Raises:
        QuantkitError: they do not.
    """
    config = _config(judged.model)
    model = _empty(config)
    if not needs_whole_model(judged, config.get_text_config().vocab_size):
        from quantkit.prove.layerwise import put_placeholders

        put_placeholders(model, torch.device(judged.device))
        add_adapters(model, judged, by_layer=True)


@contextmanager
def _model(judged: Judged) -> Iterator[tuple[Any, bool]]:
    """The model with its adapters, and whether its layers are loaded one at a time."""
    config = _config(judged.model)
    plain = _empty(config)
    with open_weights(judged.model, plain.state_dict().keys()) as weights:
        if needs_whole_model(judged, config.get_text_config().vocab_size):
            with weights.some(weights.names) as tensors:
                state = {name: tensor[...] for name, tensor in tensors.items()}
            model = _class(config).from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)
            model.to(judged.device)
            add_adapters(model, judged, by_layer=False)
            yield model.eval(), False
            return
        from quantkit.prove.layerwise import Loader, fill_buffers, put_placeholders

        device = torch.device(judged.device)
        running = _empty(config)
        fill_buffers(running, device)
        put_placeholders(running, device)
        add_adapters(running, judged, by_layer=True)
        Loader(plain, weights, device).attach(running)
        yield running.eval(), True


def _config(folder: Path) -> Any:
    """The config, with attention and experts computed in plain steps.

    Raises:
        ArchitectureError: transformers has no such model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise ArchitectureError(
            f"{folder / 'config.json'}: transformers does not know this model without code from its folder "
            f"({str(error).strip().splitlines()[0]})",
            hint="build it without --prove; nothing from a model folder is executed",
        ) from None
    for one in {id(c): c for c in (config, config.get_text_config())}.values():
        one._attn_implementation = "eager"
        one._experts_implementation = "eager"
        if hasattr(one, "quantization_config"):  # its weights are given as floats
            del one.quantization_config
    return config


def _class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = config.get_text_config() is not config
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    try:
        return auto._model_mapping[type(config)]
    except KeyError:
        raise ArchitectureError(
            f"transformers has no language model for {type(config).__name__}", hint="build it without --prove"
        ) from None


def _empty(config: Any) -> Any:
    """The model on the meta device."""
    with torch.device("meta"):
        model = _class(config)._from_config(config, dtype=torch.float32)
    return model.requires_grad_(False)


def module_classes(folder: Path) -> dict[str, str]:
    """The class of each module of a model, by its name, as transformers has them; no weights are read.

    Raises:
        ArchitectureError: transformers has no such model.
    """
    return {name: type(module).__name__ for name, module in _empty(_config(folder)).named_modules()}


def _body(model: Any, sequences: Sequence[TokenSequence], device: torch.device) -> Any:
    """What the layers return, which the model gives to its head: hidden states [sequences, longest, width]."""
    longest = max(len(one.ids) for one in sequences)
    ids = torch.tensor([[*one.ids, *one.ids[-1:] * (longest - len(one.ids))] for one in sequences], device=device)
    return _base(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def _base(model: Any) -> Any:
    """The model without its head. (Llama 4's class names another as its base, and so itself.)"""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return plain.model if plain.base_model is plain else model.base_model


def _head(model: Any, found: Any, row: int, ids: Sequence[int], device: torch.device) -> torch.Tensor:
    """The logits of one sequence, shape [tokens, vocabulary]: the model's own forward pass, its layers done already.

    Args:
        model: the model.
        found: the result of :func:`_body`.
        row: the sequence.
        ids: its tokens.
        device: of the result.
    """
    tokens = torch.tensor([list(ids)], device=device)
    done = type(found)(last_hidden_state=found.last_hidden_state[row : row + 1, : len(ids)])
    body = _base(model)
    body.forward = lambda *args, **options: done
    try:
        logits: torch.Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    finally:
        del body.forward
    if not bool(torch.isfinite(logits).all()):
        raise QuantkitError(
            "transformers' own logits of this model are not finite, so there is nothing to compare with",
            hint="check the checkpoint: quantkit inspect MODEL",
        )
    return logits[0].float()
