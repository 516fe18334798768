"""The process that loads GGUF files with llama.cpp, each in a fork of its own: a crash ends only the fork.

It reads one path a line and answers with one line of JSON: how the fork ended, and the last of what llama.cpp said.
llama.cpp comes first and torch never (:mod:`quantkit.ggml.llama`); no thread runs when it forks.

usage: python -m tests.support.fuzz.llama_child FOLDER
"""

from __future__ import annotations

from quantkit.ggml.llama import llama_cpp  # isort: skip
import json
import os
import resource
import signal
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

_SECONDS = 10  # of the processor
_MEMORY = 4 << 30


def main() -> None:
    said = Path(sys.argv[1]) / "llama.txt"
    llama_cpp.llama_backend_init()
    for line in sys.stdin:
        path = line.rstrip("\n")
        child = os.fork()
        if not child:
            _load(path, said)
        _, status = os.waitpid(child, 0)
        text = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        print(json.dumps({"ended": ended, "said": [one.strip() for one in text[-12:]]}), flush=True)


def _load(path: str, said: Path) -> None:
    """Load the vocabulary alone, then the whole file; ends the process with 0 if llama.cpp takes it, 1 if not."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    signal.alarm(round(PATIENCE))
    os.environ["GGML_NO_BACKTRACE"] = "1"  # which a debugger would print
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    for vocab_only in (True, False):
        params = llama_cpp.llama_model_default_params()
        params.vocab_only, params.n_gpu_layers = vocab_only, 0
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if model is None:
            os._exit(1)
        llama_cpp.llama_model_free(model)
    os._exit(0)


if __name__ == "__main__":
    main()
