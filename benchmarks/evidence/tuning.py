"""What the tuning prompts decide: for each contestant its guidance scale."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

from benchmarks.evidence.measure import Measurement, measure
from benchmarks.evidence.plan import CONTESTANTS, EvidenceConfig

TuningTable = dict[str, dict[float, float]]
"""Contestant -> scale -> fraction of the tuning promises kept."""


def tuning_table(config: EvidenceConfig) -> TuningTable:
    """Measure every contestant at every scale, with the first training and image seed."""
    cells = {
        name: {scale: planned(name, "tuning", scale, config) for scale in _scales(name, config)}
        for name in CONTESTANTS
    }
    run_all(measure, [(cell, config) for row in cells.values() for cell in row.values()], config)
    return {
        name: {scale: float(measure(cell, config).mean()) for scale, cell in row.items()}
        for name, row in cells.items()
    }


def best_scales(table: TuningTable) -> dict[str, float]:
    """For each contestant the scale that keeps most promises."""
    return {name: max(row, key=row.get) for name, row in table.items()}


def planned(
    name: str,
    prompts: str,
    scale: float,
    config: EvidenceConfig,
    *,
    alpha: float | None = None,
    training: int = 0,
    image: int = 0,
    shuffled: bool = False,
) -> Measurement:
    """Name one measurement; seeds are given by their position in the protocol."""
    contestant = CONTESTANTS[name]
    return Measurement(
        contestant=name,
        prompts=prompts,
        scale=scale,
        alpha=contestant.alpha if alpha is None else alpha,
        training_seed=config.training_seeds[training] if contestant.training else None,
        image_seed=config.image_seeds[image],
        shuffled=shuffled,
    )


def run_all(function: Callable, calls: Sequence[tuple], config: EvidenceConfig) -> None:
    """Run the calls in processes of one thread each: for small models the fastest use of cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.num_workers, mp_context=context) as pool:
        for future in [pool.submit(function, *call) for call in calls]:
            future.result()


def _scales(name: str, config: EvidenceConfig) -> Sequence[float]:
    return (0.0,) if CONTESTANTS[name].method == "standard" else config.scales
