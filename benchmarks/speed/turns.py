"""Contestants that take turns, what each turn measured, and a file that outlives a stop.

Every round begins and ends with the first contestant, the baseline; a ratio is a contestant's speed
over the mean of the two. All is written after each turn: a later start goes on with the next round.
A contestant that fails, for want of memory or otherwise, says so in its row, and the others go on.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.device import free_memory, machine

_AFTER = "baseline, after"


class OutOfTime(Exception):
    """The next turn would end after the limit; all that was measured is written."""


@dataclass(frozen=True)
class Turn:
    """What one turn measured.

    Attributes:
        speed: Items per second.
        memory_gb: The most that was in use on the GPU in this turn; on a CPU what the process
            holds, of all contestants together.
    """

    speed: float
    memory_gb: float


@dataclass(frozen=True)
class Contestant:
    """One way to do the same.

    Attributes:
        name: Its row.
        prepare: Called once, before the first turn: warms up, and returns facts for its row.
        take: One turn.
        clean: Called after it failed: lets go of what it holds.
    """

    name: str
    prepare: Callable[[], Mapping[str, float]]
    take: Callable[[], Turn]
    clean: Callable[[], None] = lambda: None


@dataclass
class Clock:
    """Says when to stop: before a turn that would end after the limit.

    Attributes:
        deadline: On the monotonic clock, in seconds.
        setup_seconds: What it may take to make contestants.
    """

    deadline: float
    setup_seconds: float = 0.0

    def check(self, seconds: float = 0.0) -> None:
        """Raise OutOfTime unless so many seconds are left."""
        if time.monotonic() + seconds > self.deadline:
            raise OutOfTime


def take_turns(
    contestants: Callable[[], Sequence[Contestant]],
    *,
    path: Path,
    settings: Mapping[str, Any],
    rounds: int,
    clock: Clock,
) -> dict[str, Any]:
    """Let the contestants take turns until all rounds are in the file; return what it holds.

    Args:
        contestants: Makes them, the baseline first; not called where nothing is left to do.
        path: The file of results; one with other settings is replaced.
        settings: What was measured, for the records.
        rounds: How many.
        clock: Stops it.

    Raises:
        OutOfTime: The file is not complete yet.
    """
    found = _resumed(path, settings)
    if found["is_complete"] and len(found["rounds"]) >= rounds:
        return found
    clock.check(clock.setup_seconds)
    present = list(contestants())
    found["names"] = [each.name for each in present]
    seconds: dict[str, float] = {}

    def attempt(each: Contestant, act: Callable[[], Any]) -> Any:
        if each.name in found["failed"]:
            return None
        clock.check(seconds.get(each.name, 0.0))
        _write(path, found)
        start = time.monotonic()
        try:
            return act()
        except Exception as error:
            found["failed"][each.name] = _reason(error)
            each.clean()
        finally:
            seconds[each.name] = time.monotonic() - start
        free_memory()  # outside of the except, whose traceback holds the tensors
        return None

    try:
        for each in present:
            facts = attempt(each, each.prepare)
            found["facts"].setdefault(each.name, {}).update(facts or {})
        baseline = present[0]
        for _ in range(len(found["rounds"]), rounds):
            turns: dict[str, dict[str, float]] = {}
            found["rounds"].append(turns)
            for name, each in [*((each.name, each) for each in present), (_AFTER, baseline)]:
                if turn := attempt(each, each.take):
                    turns[name] = vars(turn)
        found["is_complete"] = True
    finally:
        _write(path, found)
    return found


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each contestant: its name and medians, or why it failed.

    `ratio` is the median over rounds, `low` and `high` their range; the baseline's own are the
    turns after over those before, which is the drift.
    """
    table = []
    baseline = found["names"][0]
    for name in found["names"]:
        row: dict[str, Any] = {"name": name, **found["facts"].get(name, {})}
        turns = [each for each in found["rounds"] if name in each]
        if name in found["failed"]:
            row["failed"] = found["failed"][name]
        if turns:
            row["speed"] = statistics.median(each[name]["speed"] for each in turns)
            row["memory_gb"] = max(each[name]["memory_gb"] for each in turns)
        if ratios := [ratio for each in turns if (ratio := _ratio(each, name, baseline))]:
            row |= {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        table.append(row)
    return table


def _ratio(turns: Mapping[str, Any], name: str, baseline: str) -> float | None:
    own = [turns[key]["speed"] for key in (baseline, _AFTER) if key in turns]
    if name == baseline:
        return own[1] / own[0] if len(own) == 2 else None
    return turns[name]["speed"] / statistics.mean(own) if own else None


def _resumed(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read what was measured with the same settings on the same machine; drop a broken round."""
    fresh = {
        "settings": json.loads(json.dumps(settings)),
        "machine": machine(),
        "names": [],
        "facts": {},
        "failed": {},
        "rounds": [],
        "is_complete": False,
    }
    if not path.is_file():
        return fresh
    found = json.loads(path.read_text("utf-8"))
    undated = [{**each["machine"], "date": ""} for each in (found, fresh)]
    if found["settings"] != fresh["settings"] or undated[0] != undated[1]:
        return fresh
    if not found["is_complete"] and found["rounds"]:
        running = {*found["names"], _AFTER} - found["failed"].keys()
        if not running <= found["rounds"][-1].keys():
            found["rounds"].pop()
    return found


def _reason(error: Exception) -> str:
    is_full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if is_full or "can't allocate memory" in str(error):
        return "out of memory"
    traceback.print_exc(file=sys.stderr)
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def _write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".partial")
    staged.write_text(json.dumps(found, indent=1), encoding="utf-8")
    staged.replace(path)
