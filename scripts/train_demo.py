#!/usr/bin/env python3
"""Train the embedded demo: a tiny Llama from scratch, then a LoRA adapter on it.

Why a model of our own: the end-to-end test must show that an adapter's answers come out of a quantized file, offline
and within seconds. No public model is small enough to ship in a wheel, and random weights answer nothing.

Re-run, from the repository root, after changing the conversations (demo_conversations.py), the tokenizer and folders
(demo_files.py) or the training (demo_learning.py), which lie beside this file::

    python scripts/train_demo.py --out quantkit/demo

It takes about ten minutes on one core. One thread and fixed seeds make a rerun repeatable on one machine; another
machine may give other weights, but the script only succeeds when every answer is right, on the weights as saved and
with all matrices rounded to q4_0. The margins hold because training adds noise of the size of that rounding to the
weights at every step.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import torch
from demo_conversations import SYSTEM_PROMPTS
from demo_files import ADAPTED_LAYERS, base_config, build_tokenizer, examples, save_adapter, save_base, write_json
from demo_learning import Encoder, Schedule, evaluate, fit, matrices
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

BASE_SCHEDULE = Schedule(steps=900, batch=32, learning_rate=3e-3, noise=0.12, topics=(30, 20, 10, 25, 15), seed=1)
ADAPTER_SCHEDULE = Schedule(steps=400, batch=32, learning_rate=5e-3, noise=0.12, topics=(45, 15, 15, 20, 5), seed=2)


def train_base(encoder: Encoder, config: dict[str, Any], schedule: Schedule) -> LlamaForCausalLM:
    """The base model from random weights, in float32 that bfloat16 holds."""
    torch.manual_seed(schedule.seed)
    model = LlamaForCausalLM(LlamaConfig(**config))
    print(f"base: {sum(p.numel() for p in model.parameters()):,} parameters")
    fit(model, encoder, schedule, adapted=False)
    round_to_bf16(model)
    return model


def train_adapter(encoder: Encoder, base: LlamaForCausalLM, schedule: Schedule) -> PeftModel:
    """A PEFT LoRA on a copy of the base, which stays as it is."""
    torch.manual_seed(schedule.seed)
    settings = LoraConfig(r=8, lora_alpha=16, target_modules=list(ADAPTED_LAYERS), task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(base), settings)
    print(f"adapter: {sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters")
    fit(model, encoder, schedule, adapted=True)
    return model


def round_to_bf16(model: nn.Module) -> None:
    """Round every parameter to a value that bfloat16 holds, in place; computing stays in float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).to(torch.float32))


def rounded_to_q4_0(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A copy whose matrices went through q4_0 and back."""
    rounded = copy.deepcopy(model)
    q4_0 = gguf.GGMLQuantizationType.Q4_0
    with torch.no_grad():
        for weight in matrices(rounded):
            weight.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), q4_0), q4_0)))
    return rounded


def check(name: str, model: LlamaForCausalLM, encoder: Encoder, *, adapted: bool) -> bool:
    """Print the accuracy of the model as it is and as q4_0; true if every answer is right in both."""
    passed = True
    for label, candidate in (("as saved", model), ("q4_0", rounded_to_q4_0(model))):
        for system in (None, SYSTEM_PROMPTS[0]):
            accuracy = evaluate(candidate, encoder, adapted=adapted, system=system)
            print(f"{name}, {label}, {'with' if system else 'no'} system prompt: {accuracy}", flush=True)
            passed &= not accuracy.wrong
    return passed


def train(out: Path, base_schedule: Schedule, adapter_schedule: Schedule) -> bool:
    """Train, check and write both models; nothing is written unless every answer is right."""
    tokenizer = build_tokenizer()
    encoder = Encoder(tokenizer)
    config = base_config(tokenizer)
    base = train_base(encoder, config, base_schedule)
    passed = check("base", base, encoder, adapted=False)
    adapter = train_adapter(encoder, base, adapter_schedule)
    merged = copy.deepcopy(adapter).merge_and_unload(safe_merge=True)
    passed &= check("base + adapter", merged, encoder, adapted=True)
    if not passed:
        return False
    for folder in (out / "base", out / "adapter"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    save_base(out / "base", base, tokenizer, config)
    save_adapter(out / "adapter", adapter)
    write_json(out / "examples.json", examples())
    return True


def main() -> int:
    """Parse, train, and say with the exit code whether the answers are right."""
    parser = argparse.ArgumentParser(description="Train the embedded demo model and its adapter.")
    parser.add_argument(
        "--out", type=Path, default=Path("quantkit/demo"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--base-steps", type=int, default=BASE_SCHEDULE.steps, help="default: %(default)s")
    parser.add_argument("--adapter-steps", type=int, default=ADAPTER_SCHEDULE.steps, help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    base_schedule = replace(BASE_SCHEDULE, steps=options.base_steps)
    adapter_schedule = replace(ADAPTER_SCHEDULE, steps=options.adapter_steps)
    if train(options.out, base_schedule, adapter_schedule):
        print(f"wrote {options.out}")
        return 0
    print("some answers are wrong: train longer; nothing was written", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
