"""Any order of loading, lending, failing and cancelling on several threads keeps the promises."""

import random
import threading

import pytest

from chats.errors import UserError
from chats.models.leases import LeaseCache

NUM_SCHEDULES, NUM_THREADS, NUM_ACTS = 2000, 3, 5
BUDGET = 100
SIZES = {"a": 60, "b": 50, "c": 40, "d": 30, "e": 10, "too large": 101}


class Ledger:
    """What really lies in memory, by the lives of the fake models."""

    def __init__(self):
        self.lock, self.live, self.most, self.faults = threading.Lock(), 0, 0, []

    def add(self, num_bytes):
        with self.lock:
            self.live += num_bytes
            self.most = max(self.most, self.live)


class Model:
    """Takes memory from its birth to its end."""

    def __init__(self, ledger, num_bytes):
        self.ledger, self.num_bytes = ledger, num_bytes
        ledger.add(num_bytes)

    def __del__(self):
        self.ledger.add(-self.num_bytes)


class OutOfMemoryError(RuntimeError):
    """Injected."""


def loader(ledger, key, luck):
    """Load, or fail in one of the ways that loading fails."""

    def load():
        dice = luck.random()
        if dice < 0.1:
            raise OutOfMemoryError
        if dice < 0.2:
            raise OSError("the disk was pulled out")
        return Model(ledger, SIZES[key])

    return load


def act(cache, ledger, luck):
    key = luck.choice(list(SIZES))
    kind = luck.random()
    if kind < 0.15:
        cache.evict(key, reason="by hand")
    elif kind < 0.2:
        cache.evict_unused(reason="memory ran out")
    elif kind < 0.3:
        work(cache, ledger, num_bytes=luck.randrange(1, 60))
    else:
        use(cache, ledger, key, luck)


def work(cache, ledger, *, num_bytes):
    with cache.reserve(num_bytes):
        ledger.add(num_bytes)
        ledger.add(-num_bytes)


def use(cache, ledger, key, luck):
    load = loader(ledger, key, luck)
    with cache.lease(key, measure=lambda: SIZES[key], load=load) as model:
        if luck.random() < 0.3:
            work(cache, ledger, num_bytes=luck.randrange(1, 20))
        leases = {kept.key: kept.num_leases for kept in cache.kept()}
        if leases.get(key, 0) < 1 or cache.evict(key, reason="by hand"):
            ledger.faults.append(f"{key} was evicted while it was leased")
        if luck.random() < 0.2:
            del model
            raise InterruptedError("cancelled")
        del model


def run_schedule(seed):
    ledger = Ledger()
    cache = LeaseCache(
        budget_bytes=BUDGET, is_out_of_memory=lambda error: isinstance(error, OutOfMemoryError)
    )

    def person(number):
        luck = random.Random(f"{seed} {number}")
        for _ in range(NUM_ACTS):
            try:
                act(cache, ledger, luck)
            except (UserError, OSError):
                pass
            except BaseException as error:
                ledger.faults.append(repr(error))

    threads = [
        threading.Thread(target=person, args=(number,), daemon=True)
        for number in range(NUM_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), f"schedule {seed} never ended"
    assert ledger.faults == [], f"schedule {seed}"
    assert ledger.most <= BUDGET, f"schedule {seed}"
    return cache, ledger


def test_no_schedule_exceeds_the_budget_evicts_what_is_leased_or_never_ends():
    for seed in range(NUM_SCHEDULES):
        cache, ledger = run_schedule(seed)
        assert cache.room_bytes() == BUDGET  # every lease and every claim was given back
        assert ledger.live == sum(kept.num_bytes for kept in cache.kept())
        with cache.lease("a", measure=lambda: 60, load=lambda: "works"):  # nothing is poisoned
            pass


def test_the_promises_are_ones_that_can_be_broken(monkeypatch):
    """The same schedules find a cache that forgets to make room."""
    monkeypatch.setattr(LeaseCache, "_make_room", lambda self, num_bytes, what: None)
    with pytest.raises(AssertionError, match="schedule"):
        all(run_schedule(seed) for seed in range(200))


def test_memory_that_ran_out_drops_what_nobody_uses_and_is_tried_once_more():
    cache = LeaseCache(is_out_of_memory=lambda error: isinstance(error, OutOfMemoryError))
    with cache.lease("old", measure=lambda: 1, load=object):
        pass
    tries = []

    def load():
        tries.append([kept.key for kept in cache.kept()])
        if len(tries) == 1:
            raise OutOfMemoryError
        return "value"

    with cache.lease("new", measure=lambda: 1, load=load) as value:
        assert value == "value"
    assert tries == [["old"], []]
    assert [(gone.key, gone.reason) for gone in cache.evicted()] == [
        ("old", "memory ran out while another was loaded")
    ]


def test_memory_that_runs_out_twice_is_told_and_the_next_request_works():
    cache = LeaseCache(
        budget_bytes=10, is_out_of_memory=lambda error: isinstance(error, OutOfMemoryError)
    )

    def fail():
        raise OutOfMemoryError

    with (
        pytest.raises(UserError, match="Memory ran out while this model was loaded"),
        cache.lease("a", measure=lambda: 10, load=fail),
    ):
        pass
    with cache.lease("a", measure=lambda: 10, load=object):
        pass


def test_work_makes_room_for_itself_and_gives_it_back():
    cache = LeaseCache(budget_bytes=100)
    with cache.lease("old", measure=lambda: 50, load=object):
        pass
    with cache.lease("a", measure=lambda: 40, load=object):
        with cache.reserve(30):
            assert [kept.key for kept in cache.kept()] == ["a"]
            assert cache.room_bytes() == 30
        with pytest.raises(UserError, match="The work on these pictures takes"), cache.reserve(61):
            pass
    assert cache.evicted()[0].reason == "it made room for 0.00 GB"
