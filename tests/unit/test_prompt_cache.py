"""What is kept of past answers, and what a step takes of each lane."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quantkit.run.lanes import shares
from quantkit.run.prompt_cache import Kept, PromptCache, common_length

TOKENS = st.lists(st.integers(0, 2), max_size=12)


@given(TOKENS, TOKENS)
def test_what_two_lists_have_in_common(one: list[int], other: list[int]) -> None:
    found = common_length(one, other)
    assert one[:found] == other[:found]
    assert found == min(len(one), len(other)) or one[found] != other[found]


def filled(*tokens: list[int], whole: bool = False) -> PromptCache:
    cache = PromptCache(8)
    for held in tokens:
        number = cache.take_free()
        assert number is not None
        cache.keep(Kept(number, held), whole=whole)
    return cache


def test_the_longest_beginning_is_found() -> None:
    cache = filled([1, 2], [1, 2, 3, 4], [2])
    found, common = cache.longest([1, 2, 3, 5])
    assert (found, common) == (Kept(1, [1, 2, 3, 4]), 3)
    assert cache.longest([9]) == (None, 0)
    assert cache.longest([1, 2, 3, 4], "of another kind") == (None, 0)


def test_a_memory_that_cannot_go_back_gives_whole_sequences() -> None:
    cache = filled([1, 2], [1, 2, 3, 4], whole=True)
    assert cache.longest([1, 2, 3, 5], whole=True) == (Kept(0, [1, 2]), 2)
    assert cache.longest([1, 2, 3, 4, 5], whole=True) == (Kept(1, [1, 2, 3, 4]), 4)
    assert cache.longest([1], whole=True) == (None, 0)


def test_what_says_nothing_beside_others_is_not_kept() -> None:
    cache = filled([1, 2], [5], [1, 2, 3])
    assert [one.tokens for one in cache.kept] == [[5], [1, 2, 3]], "a beginning of the new one"
    number = cache.take_free()
    assert number == 0, "it is free again"
    assert cache.keep(Kept(0, [5])) == [1]
    assert cache.keep(Kept(1, [1])) == [1] if cache.take_free() == 1 else False
    assert [one.tokens for one in cache.kept] == [[5], [1, 2, 3]]


def test_the_least_recently_used_is_the_oldest() -> None:
    cache = filled([1], [2], [3])
    first, second, third = cache.kept
    cache.touch(first)
    assert cache.oldest() is second
    assert cache.oldest(but=second) is third
    assert cache.take(second) == 1
    assert cache.kept == (third, first)
    assert cache.has_other(third)
    for _ in range(5):
        cache.take_free()
    assert cache.has_other(third), "the first can be dropped"
    cache.take(first)
    assert not cache.has_other(third)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.integers(20, 200))
def test_a_step_is_shared_fairly(pending: list[int], room: int) -> None:
    taken = shares(pending, room)
    if 1 in pending:
        room = max(len(pending), room // 4)
    assert sum(taken) == min(room, sum(pending)), "nothing is left over"
    for one, most in zip(taken, pending, strict=True):
        assert 1 <= one <= most
        assert one == most or one >= max(taken) - 1, "who has more to come gets as much as any other"
