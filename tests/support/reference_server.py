"""Run llama.cpp's convert_hf_to_gguf.py for one request after another; started by ``ReferenceConverter``.

A request is a JSON line on stdin, the answer a JSON line on stdout. The converter runs as it is but for one thing that
a request may ask: the name of the pre-tokenizer, which it can find for vocabularies with a known hash only.
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> None:
    # Whatever the converter prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, sys.argv[1])
    import convert_hf_to_gguf
    from conversion.base import TextModel

    recognise = TextModel.get_vocab_base_pre
    for line in sys.stdin:
        request = json.loads(line)
        name = request["pre"]
        TextModel.get_vocab_base_pre = recognise if name is None else lambda self, tokenizer, name=name: name
        sys.argv[1:] = [request["model"], "--outfile", request["out"], "--outtype", request["outtype"]]
        error = ""
        try:
            convert_hf_to_gguf.main()
        except (Exception, SystemExit):  # the oracle's failure, whatever it is, is the answer
            error = traceback.format_exc()
        print(json.dumps({"error": error}), file=answers, flush=True)


if __name__ == "__main__":
    main()
