"""Makes the evidence: pairs, trainings, scales, test, report.

    python -m benchmarks.evidence

Every piece is kept under the workdir; the same command goes on after an interruption.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import tyro

from benchmarks.evidence.measure import Measurement, measure, train_once
from benchmarks.evidence.plan import CONTESTANTS, TRAININGS, EvidenceConfig
from benchmarks.evidence.report import Findings, write_report
from chats.shapes.pairs import PairsConfig, make_pairs, write_pairs


def main(config: EvidenceConfig) -> None:
    """Run what is not done yet, then write the report."""
    pairs = config.workdir / "pairs"
    if not pairs.exists():
        pairs.parent.mkdir(parents=True, exist_ok=True)
        num_pairs = write_pairs(make_pairs(PairsConfig(output=pairs)), pairs)
        _say(f"{num_pairs} pairs")
    trainings = [(name, seed, config) for seed in config.training_seeds for name in TRAININGS]
    _map(train_once, trainings, config)
    scales = _choose_scales(config)
    _say(f"scales chosen on the tuning prompts: {scales}")
    planned = {name: _test_measurements(name, scales[name], config) for name in CONTESTANTS}
    sweep = {alpha: _sweep_measurements(alpha, scales, config) for alpha in config.alphas}
    everything = [item for items in [*planned.values(), *sweep.values()] for item in items]
    _map(measure, [(item, config) for item in dict.fromkeys(everything)], config)
    findings = Findings(
        scales=scales,
        tuning=_tuning_table(config),
        test={name: _collect(items, config) for name, items in planned.items()},
        sweep={alpha: _collect(items, config) for alpha, items in sweep.items()},
        num_pairs=sum(1 for _ in (pairs / "metadata.jsonl").open(encoding="utf-8")),
    )
    write_report(findings, config)
    _say(f"written to {config.report}")


def _choose_scales(config: EvidenceConfig) -> dict[str, float]:
    """For each contestant the scale that keeps most tuning promises, with the first training."""
    table = _tuning_table(config)
    return {name: max(row, key=row.get) for name, row in table.items()}


def _tuning_table(config: EvidenceConfig) -> dict[str, dict[float, float]]:
    cells = {
        name: {
            scale: _measurement(name, "tuning", scale, config) for scale in _scales(name, config)
        }
        for name in CONTESTANTS
    }
    todo = [(cell, config) for row in cells.values() for cell in row.values()]
    _map(measure, todo, config)
    return {
        name: {scale: float(measure(cell, config).mean()) for scale, cell in row.items()}
        for name, row in cells.items()
    }


def _scales(name: str, config: EvidenceConfig) -> Sequence[float]:
    return (0.0,) if CONTESTANTS[name].method == "standard" else config.scales


def _measurement(
    name: str,
    prompts: str,
    scale: float,
    config: EvidenceConfig,
    *,
    alpha: float | None = None,
    training: int = 0,
    image: int = 0,
) -> Measurement:
    contestant = CONTESTANTS[name]
    return Measurement(
        contestant=name,
        prompts=prompts,
        scale=scale,
        alpha=contestant.alpha if alpha is None else alpha,
        training_seed=config.training_seeds[training] if contestant.training else None,
        image_seed=config.image_seeds[image],
    )


def _test_measurements(name: str, scale: float, config: EvidenceConfig) -> list[Measurement]:
    trainings = len(config.training_seeds) if CONTESTANTS[name].training else 1
    return [
        _measurement(name, "test", scale, config, training=training, image=image)
        for training in range(trainings)
        for image in range(len(config.image_seeds))
    ]


def _sweep_measurements(
    alpha: float, scales: dict[str, float], config: EvidenceConfig
) -> list[Measurement]:
    scale = scales["chats-0.5"]
    return [
        _measurement("chats-0.5", "test", scale, config, alpha=alpha, image=image)
        for image in range(len(config.image_seeds))
    ]


def _collect(measurements: list[Measurement], config: EvidenceConfig) -> np.ndarray:
    """Kept promises as `(training seeds, image seeds, prompts)`."""
    flat = np.stack([measure(item, config) for item in measurements])
    return flat.reshape(-1, len(config.image_seeds), flat.shape[-1])


def _map(function: Callable, calls: list[tuple], config: EvidenceConfig) -> None:
    """Run the calls in processes of one thread each: for small models the fastest use of cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.num_workers, mp_context=context) as pool:
        for future in [pool.submit(function, *call) for call in calls]:
            future.result()


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(tyro.cli(EvidenceConfig))
