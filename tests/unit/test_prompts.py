"""difs.actors.prompts: what is kept of encoded prompts, bounded by bytes."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from difs.actors.prompts import PromptCache


def test_what_was_put_is_got() -> None:
    cache = PromptCache(100)
    cache.put("apple", "tensor", 60)
    assert cache.get("apple") == "tensor"
    assert (cache.get("pear"), cache.misses, cache.nbytes) == (None, 1, 60)


def test_the_least_recently_used_goes_first() -> None:
    cache = PromptCache(100)
    for name in ("a", "b"):
        cache.put(name, name, 50)
    cache.get("a")
    cache.put("c", "c", 50)
    assert [cache.get(name) for name in ("a", "b", "c")] == ["a", None, "c"]


def test_what_is_larger_than_the_budget_is_not_kept_and_empties_nothing() -> None:
    cache = PromptCache(100)
    cache.put("a", "a", 100)
    cache.put("b", "b", 101)
    assert (cache.get("a"), cache.get("b")) == ("a", None)


def test_a_budget_of_nothing_keeps_nothing() -> None:
    cache = PromptCache(0)
    cache.put("a", "a", 1)
    assert (len(cache), cache.nbytes) == (0, 0)


@given(st.integers(0, 60), st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 50))))
def test_it_never_holds_more_than_its_budget_and_is_a_plain_lru(
    budget: int, puts: list[tuple[str, int]]
) -> None:
    cache, model = PromptCache(budget), OrderedDict[str, int]()
    for name, nbytes in puts:
        cache.put(name, name, nbytes)
        model.pop(name, None)
        if nbytes <= budget:
            model[name] = nbytes
        while sum(model.values()) > budget:
            model.popitem(last=False)
        assert cache.nbytes == sum(model.values()) <= budget
    assert {name for name in "abcdef" if cache.get(name) is not None} == set(model)
