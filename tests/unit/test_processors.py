"""The processors that are free, and what is said where a model is absurdly slow."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_loop import Loop
from tiny_gguf import write_tiny_gguf

import quantkit.run.speed
from quantkit.run.session import ChatModel
from quantkit.run.speed import slow_note, too_slow
from quantkit.system import processors
from quantkit.system.processors import cgroup_processors, free_processors, llama_threads, usable_processors

IDLE = dict.fromkeys(range(4), (1000, 2000))


@pytest.mark.parametrize(
    ("idle", "own", "free"),
    [
        ((100, 100, 100, 100), 0, 4),
        ((100, 100, 0, 0), 0, 2),
        ((0, 0, 0, 0), 0, 1),  # one at least
        ((0, 0, 0, 0), 200, 2),  # this process itself is not in its own way
        ((60, 60, 60, 100), 0, 3),
    ],
)
def test_what_other_programs_leave_free(idle: tuple[int, ...], own: float, free: int) -> None:
    after = {number: (1000 + span, 2100) for number, span in enumerate(idle)}
    assert free_processors(IDLE, after, own, frozenset(range(4))) == free


def test_only_the_processors_that_may_be_used_count() -> None:
    after = {0: (1100, 2100), 1: (1000, 2100), 2: (1100, 2100), 3: (1100, 2100)}
    assert free_processors(IDLE, after, 0, frozenset({0, 1})) == 1
    assert free_processors(IDLE, IDLE, 0, frozenset({0, 1})) is None, "no time has passed"
    assert free_processors({}, {}, 0, frozenset({0})) is None


@pytest.mark.parametrize(
    ("membership", "files", "allowed"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, 4.0),
        ("0::/a/b", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("3:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/", {"cpu.max": "nonsense\n"}, None),
        ("0::/../..", {}, None),
    ],
)
def test_what_control_groups_allow(
    tmp_path: Path, membership: str, files: dict[str, str], allowed: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text, encoding="utf-8")
    (tmp_path / "membership").write_text(membership + "\n", encoding="utf-8")
    assert cgroup_processors(tmp_path / "cgroup", tmp_path / "membership") == allowed


def test_the_threads_of_llama_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert llama_threads(7) == 7
    monkeypatch.setattr(processors, "_allowed", lambda: set(range(8)))
    monkeypatch.setattr(processors, "_CGROUP", tmp_path)
    assert usable_processors() == 8
    (tmp_path / "cpu.max").write_text("300000 100000", encoding="utf-8")
    (tmp_path / "membership").write_text("0::/", encoding="utf-8")
    monkeypatch.setattr(processors, "_MEMBERSHIP", tmp_path / "membership")
    assert usable_processors() == 3
    looks = iter([IDLE, dict.fromkeys(IDLE, (1000, 2100))])
    monkeypatch.setattr(processors, "_times", lambda: next(looks))
    processors._free_now.cache_clear()
    try:
        assert llama_threads(None) == 1
    finally:
        processors._free_now.cache_clear()


@pytest.mark.parametrize(
    ("rate", "size", "slow"),
    [
        (2.0, 17_000_000, True),
        (200.0, 17_000_000, False),
        (2.0, 8_000_000_000, False),  # a large model on a small machine
        (0.0, 17_000_000, False),
        (11.0, 100_000, False),
    ],
)
def test_what_is_too_slow(rate: float, size: int, slow: bool) -> None:
    assert ("is slow for this model" in too_slow(rate, size)) == slow


def test_a_chat_says_that_it_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatModel.load(write_tiny_gguf(tmp_path / "tiny.gguf"), threads=1) as model:
        assert slow_note(model) == ""
        model.answer([{"role": "user", "content": "hello"}], max_tokens=20)
        assert slow_note(model) == ""
        monkeypatch.setattr(quantkit.run.speed, "_SLOW", 1e9)
        model.engine.size = 1
        assert slow_note(model).endswith("try --threads 1")
        said = Loop(model).terminal("hello", "hello")
        assert said.count("is slow for this model") == 1
