"""The demo's merged model in transformers: the tokens of base and adapter through PEFT, and the answers of the GGUF."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from quantkit.demo.data import ADAPTER, BASE, EXAMPLES
from quantkit.jobs.merge import merge


def answer(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Greedy token ids, the end of turn among them."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        made = model.generate(**prompt, do_sample=False, max_new_tokens=64, pad_token_id=tokenizer.eos_token_id)
    return made[0, prompt["input_ids"].shape[1] :].tolist()


def test_greedy_tokens_are_those_of_base_and_adapter(tmp_path: Path) -> None:
    folder = merge(BASE, tmp_path / "merged", adapters=[ADAPTER], dtype="f32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    trained = PeftModel.from_pretrained(base, ADAPTER).eval()
    for example in EXAMPLES:
        tokens = answer(merged, tokenizer, example.question)
        assert tokens == answer(trained, tokenizer, example.question)
        assert tokenizer.decode(tokens) == example.adapted_answer + "<|eot_id|>"
