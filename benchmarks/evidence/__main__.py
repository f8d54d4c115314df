"""Makes the evidence: pairs, trainings, scales, test, report.

    python -m benchmarks.evidence

Every piece is kept under the workdir; the same command goes on after an interruption.
"""

from __future__ import annotations

import numpy as np
import tyro

from benchmarks.evidence.measure import Measurement, measure, train_once
from benchmarks.evidence.plan import CONTESTANTS, TRAININGS, EvidenceConfig
from benchmarks.evidence.report import Findings, write_report
from benchmarks.evidence.tuning import best_scales, planned, run_all, tuning_table
from chats.shapes.pairs import PairsConfig, make_pairs, write_pairs


def main(config: EvidenceConfig) -> None:
    """Run what is not done yet, then write the report."""
    pairs = config.workdir / "pairs"
    if not pairs.exists():
        pairs.parent.mkdir(parents=True, exist_ok=True)
        num_pairs = write_pairs(make_pairs(PairsConfig(output=pairs)), pairs)
        _say(f"{num_pairs} pairs")
    trainings = [(name, seed, config) for seed in config.training_seeds for name in TRAININGS]
    run_all(train_once, trainings, config)
    tuning = tuning_table(config)
    scales = best_scales(tuning)
    _say(f"scales chosen on the tuning prompts: {scales}")
    tests = {name: _test_measurements(name, scales[name], config) for name in CONTESTANTS}
    sweep = {alpha: _sweep_measurement(alpha, scales, config) for alpha in config.alphas}
    chance = _test_measurements("cfg", scales["cfg"], config, shuffled=True)
    everything = [item for items in [*tests.values(), [*sweep.values()], chance] for item in items]
    run_all(measure, [(item, config) for item in dict.fromkeys(everything)], config)
    findings = Findings(
        scales=scales,
        tuning=tuning,
        test={name: _collect(items, config) for name, items in tests.items()},
        sweep={alpha: measure(item, config)[None, None] for alpha, item in sweep.items()},
        chance=_collect(chance, config),
        num_pairs=sum(1 for _ in (pairs / "metadata.jsonl").open(encoding="utf-8")),
    )
    write_report(findings, config)
    _say(f"written to {config.report}")


def _test_measurements(
    name: str, scale: float, config: EvidenceConfig, *, shuffled: bool = False
) -> list[Measurement]:
    contestant = CONTESTANTS[name]
    has_many = contestant.training and not contestant.first_training_only
    trainings = len(config.training_seeds) if has_many else 1
    return [
        planned(name, "test", scale, config, training=training, image=image, shuffled=shuffled)
        for training in range(trainings)
        for image in range(len(config.image_seeds))
    ]


def _sweep_measurement(
    alpha: float, scales: dict[str, float], config: EvidenceConfig
) -> Measurement:
    return planned("chats-0.5", "test", scales["chats-0.5"], config, alpha=alpha)


def _collect(measurements: list[Measurement], config: EvidenceConfig) -> np.ndarray:
    """Kept promises as `(training seeds, image seeds, prompts)`."""
    flat = np.stack([measure(item, config) for item in measurements])
    return flat.reshape(-1, len(config.image_seeds), flat.shape[-1])


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(tyro.cli(EvidenceConfig))
