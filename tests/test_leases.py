"""The cache of loaded things, with plain values in the place of models."""

import threading

import pytest

from chats.errors import UserError
from chats.models.leases import LeaseCache


def lease(cache, key, *, num_bytes=10, load=object):
    return cache.lease(key, measure=lambda: num_bytes, load=load)


def keys(cache):
    return [kept.key for kept in cache.kept()]


def failing():
    raise RuntimeError("cannot be read")


def test_a_load_that_fails_leaves_nothing_behind_and_the_next_one_works():
    cache = LeaseCache()
    with pytest.raises(RuntimeError, match="cannot be read"), lease(cache, "a", load=failing):
        pass
    assert keys(cache) == []
    with lease(cache, "a", load=lambda: "value") as value:
        assert value == "value"


def test_a_request_that_fails_gives_its_lease_back():
    cache = LeaseCache()
    with pytest.raises(RuntimeError, match="request"), lease(cache, "a"):
        raise RuntimeError("request")
    assert cache.kept()[0].num_leases == 0


def test_what_is_larger_than_the_budget_is_refused_with_numbers_and_evicts_nothing():
    cache = LeaseCache(budget_bytes=25_000_000_000)
    with lease(cache, "small", num_bytes=10_000_000_000):
        pass
    with pytest.raises(UserError, match=r"takes 30\.00 GB; the budget is 25\.00 GB"):
        lease(cache, "large", num_bytes=30_000_000_000).__enter__()
    assert keys(cache) == ["small"]


def test_what_is_leased_is_never_evicted():
    cache = LeaseCache(budget_bytes=25)
    with lease(cache, "a"), lease(cache, "b"):
        with pytest.raises(UserError, match="in use"):
            lease(cache, "c").__enter__()
        assert not cache.evict("a", reason="")
        assert keys(cache) == ["a", "b"]
    with lease(cache, "c"):
        assert keys(cache) == ["b", "c"]


def test_the_least_recently_used_goes_first():
    dropped = []
    cache = LeaseCache(budget_bytes=30, after_eviction=lambda: dropped.append(keys(cache)))
    for key in ("a", "b", "c", "a"):
        with lease(cache, key):
            pass
    with lease(cache, "d", num_bytes=20):
        assert keys(cache) == ["a", "d"]
    assert dropped == [["a"]]


def test_it_is_loaded_once_however_many_ask_at_the_same_time():
    cache, loads, start = LeaseCache(), [], threading.Barrier(4)

    def ask():
        start.wait()
        with lease(cache, "a", load=lambda: loads.append(1)):
            pass

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [1]
    assert cache.kept()[0].num_leases == 0
