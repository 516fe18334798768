"""A child process that tells how far it is, and is asked to stop."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from quantkit.errors import QuantkitError
from quantkit.system.child_process import ChildError, follow_module
from quantkit.system.kept_child import KeptChild

MODULE = "tests.support.telling_worker"


def test_what_is_told_comes_in_order_and_before_the_answer() -> None:
    told: list[Any] = []
    assert follow_module(MODULE, {"count": 3}, told.append) == {"stopped": False}
    assert told == [0, 1, 2]


def test_ctrl_c_lets_the_child_finish_its_sentence() -> None:
    told: list[Any] = []

    def hear(value: Any) -> None:
        told.append(value)
        if value == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        follow_module(MODULE, {"count": 10_000}, hear)
    assert told[-1] == "stopped"


def test_a_child_that_fails() -> None:
    with pytest.raises(ChildError, match=r"(?s)exit code 1: .*ZeroDivisionError"):
        follow_module(MODULE, {"count": 1, "fail": True}, lambda value: None)
    with pytest.raises(QuantkitError, match="not this"):
        follow_module(MODULE, {"count": 1, "refuse": "not this"}, lambda value: None)


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_child_that_the_system_kills_had_no_memory() -> None:
    with pytest.raises(ChildError, match="signal SIGKILL") as caught:
        follow_module(MODULE, {"count": 1, "killed": True}, lambda value: None)
    assert "memory" in caught.value.hint("look at the file")
    assert ChildError("exit code 1", "").hint("look at the file") == "look at the file"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_a_refusal() -> None:
    with pytest.raises(QuantkitError, match="No space left on device"):
        follow_module(MODULE, {"count": 1, "full": True}, lambda value: None)


def test_what_the_caller_raises_ends_the_child() -> None:
    def hear(value: Any) -> None:
        raise ValueError(value)

    with pytest.raises(ValueError, match="0"):
        follow_module(MODULE, {"count": 10_000}, hear)


def test_a_child_that_is_kept_answers_again_also_after_it_has_refused_or_crashed() -> None:
    told: list[Any] = []
    child = KeptChild(MODULE)
    try:
        assert child.ask({"count": 2}, told.append) == {"stopped": False}
        with pytest.raises(QuantkitError, match="not this"):
            child.ask({"count": 1, "refuse": "not this"})
        assert child.ask({"count": 1}, told.append) == {"stopped": False}
        with pytest.raises(ChildError, match=r"(?s)exit code 1: .*ZeroDivisionError"):
            child.ask({"count": 0, "fail": True})
        assert child.ask({"count": 3}, told.append) == {"stopped": False}
    finally:
        child.close()
    assert told == [0, 1, 0, 0, 1, 2]
