"""A child for the tests of follow_module: it counts, tells each number, and stops when it is asked to."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.system.child_process import answer_module, tell

_asked = False


def _stop(*signalled: object) -> None:
    global _asked
    _asked = True


def answer(question: dict[str, Any]) -> dict[str, bool]:
    if question.get("refuse"):
        raise QuantkitError(question["refuse"], hint="another")
    for number in range(question["count"]):
        if _asked:
            tell("stopped")
            return {"stopped": True}
        tell(number)
        time.sleep(0.005)
    if question.get("full"):
        with open("/dev/full", "w") as file:
            file.write("more than there is room for")
    if question.get("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if question.get("fail"):
        1 / 0  # noqa: B018
    return {"stopped": False}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _stop)
    answer_module(answer)
