"""Run llama.cpp's convert_hf_to_gguf.py and convert_lora_to_gguf.py for one request after another.

Started by ``ReferenceConverter``.

A request is a JSON line on stdin, the answer a JSON line on stdout. The converter runs as it is but for four things. A
request may ask for the name of the pre-tokenizer, which the converter can find for vocabularies with a known hash only.
What it asks protobuf, which the tests do without, sentencepiece answers. A folder with ``qwen.tiktoken``,
``hy.tiktoken`` or ChatGLM 3's ``tokenizer.model`` gets a stand-in for the tokenizer class that such a model brings as
code. And the converter's class for Baichuan calls itself without end, where it is to call the one that it is derived
from.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
import types


class ModelProto:
    """What the converter for InternLM 2 reads of ``tokenizer.model`` through protobuf: whether text gets a blank."""

    def ParseFromString(self, data: bytes) -> None:
        import sentencepiece

        pieces = sentencepiece.SentencePieceProcessor(model_proto=data).encode("a", out_type=str)
        self.normalizer_spec = types.SimpleNamespace(add_dummy_prefix=pieces[0].startswith("\u2581"))


def main() -> None:
    # Whatever the converter prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    root = sys.argv[1]
    sys.path.insert(0, root)
    stand_in = types.ModuleType("sentencepiece.sentencepiece_model_pb2")
    stand_in.ModelProto = ModelProto
    sys.modules[stand_in.__name__] = stand_in
    import convert_hf_to_gguf
    import transformers
    from chatglm_tokenizer import ChatGLMTokenizer, is_chatglm3
    from conversion.baichuan import BaichuanModel
    from conversion.base import ModelBase, TextModel
    from qwen_tokenizer import QwenTokenizer

    split = BaichuanModel.modify_tensors
    BaichuanModel.modify_tensors = lambda self, values, name, layer: (
        split if name.endswith("W_pack.weight") else TextModel.modify_tensors
    )(self, values, name, layer)
    load = transformers.AutoTokenizer.from_pretrained

    def from_pretrained(folder, **options):
        if any(os.path.isfile(os.path.join(folder, file)) for file in ("qwen.tiktoken", "hy.tiktoken")):
            return QwenTokenizer(folder)
        return ChatGLMTokenizer(folder) if is_chatglm3(folder) else load(folder, **options)

    transformers.AutoTokenizer.from_pretrained = from_pretrained
    recognise = TextModel.get_vocab_base_pre
    for line in sys.stdin:
        request = json.loads(line)
        name = request.get("pre")
        TextModel.get_vocab_base_pre = recognise if name is None else lambda self, tokenizer, name=name: name
        ModelBase.no_mtp = request.get("no_mtp", False)  # the option itself would hold for all that follow
        output = ["--outfile", request["out"], "--outtype", request["outtype"]]
        error = ""
        try:
            if request["adapter"] is None:
                sys.argv[1:] = [request["model"], *output, *(f"--{option}" for option in request["options"])]
                convert_hf_to_gguf.main()
            else:
                sys.argv[1:] = [request["adapter"], "--base", request["model"], *output]
                runpy.run_path(os.path.join(root, "convert_lora_to_gguf.py"), run_name="__main__")
        except (Exception, SystemExit):  # the oracle's failure, whatever it is, is the answer
            error = traceback.format_exc()
        print(json.dumps({"error": error}), file=answers, flush=True)


if __name__ == "__main__":
    main()
