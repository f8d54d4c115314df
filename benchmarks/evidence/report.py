"""Writes docs/evidence.md from the findings; the discussion around the tables is kept by hand."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.evidence.plan import CONTESTANTS, TRAININGS, EvidenceConfig, Training
from chats.shapes.prompts import evaluation_specs
from chats.shapes.world import CATEGORIES, RELATIONS
from chats.statistics import Estimate, estimate, paired_difference

_BEGIN = "<!-- measured: written by `make evidence`; do not edit -->"
_END = "<!-- end of measured -->"


@dataclass(frozen=True)
class Findings:
    """All results; arrays of kept promises are `(training seeds, image seeds, prompts)`."""

    scales: dict[str, float]
    tuning: dict[str, dict[float, float]]
    test: dict[str, np.ndarray]
    sweep: dict[float, np.ndarray]
    chance: np.ndarray
    num_pairs: int


def write_report(findings: Findings, config: EvidenceConfig) -> None:
    """Replace the measured part of the report; what people wrote around it stays."""
    measured = "\n".join([_BEGIN, *_lines(findings, config), _END])
    text = config.report.read_text(encoding="utf-8") if config.report.exists() else ""
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    config.report.parent.mkdir(parents=True, exist_ok=True)
    config.report.write_text(f"{before}{measured}{after or chr(10)}", encoding="utf-8")


def _lines(findings: Findings, config: EvidenceConfig) -> list[str]:
    return [
        "",
        f"Command: `make evidence`. Date: {datetime.date.today().isoformat()}. "
        f"Commit of the code: `{_commit()}`.",
        "",
        f"{len(evaluation_specs())} test prompts × {len(config.image_seeds)} image seeds, "
        f"{len(config.training_seeds)} training seeds, {config.num_steps} steps; "
        f"{findings.num_pairs} preference pairs. Kept promises in percent, ± one standard error.",
        "",
        *_main_table(findings),
        "",
        *_chosen(findings),
        "",
        "### By category",
        "",
        *_category_table(findings),
        "",
        "### Head to head",
        "",
        *_head_to_head(findings),
        "",
        "### α sweep",
        "",
        *_sweep_table(findings),
        "",
        "### Scales on the tuning prompts",
        "",
        *_tuning_table(findings, config),
        "",
        "### Trainings",
        "",
        *_training_table(),
        "",
    ]


def _main_table(findings: Findings) -> list[str]:
    cfg = findings.test["cfg"]
    rows = []
    for name, kept in findings.test.items():
        difference = "–" if name == "cfg" else _signed(_gain(kept, cfg))
        scale = f"{findings.scales[name]:g}"
        label = CONTESTANTS[name].label
        rows.append([label, scale, str(len(kept)), str(_percent(kept)), difference])
    header = ["method", "s", "trainings", "promises kept", "difference to CFG (paired)"]
    return _table(header, rows)


def _chosen(findings: Findings) -> list[str]:
    """For each kind of pair the setting, α and s, that keeps most tuning promises."""
    lines = ["α and s chosen on the tuning prompts:", ""]
    for training in ("chats", "chats-lora"):
        names = [
            name
            for name, contestant in CONTESTANTS.items()
            if contestant.training == training and contestant.method == "chats"
        ]
        name = max(names, key=lambda each: max(findings.tuning[each].values()))
        difference = _signed(_gain(findings.test[name], findings.test["cfg"]))
        lines.append(
            f"- {CONTESTANTS[name].label}, s = {findings.scales[name]:g}: {difference} to CFG."
        )
    return lines


def _category_table(findings: Findings) -> list[str]:
    specs = evaluation_specs()
    masks = [np.array([spec.category == name for spec in specs]) for name in CATEGORIES]
    rows = [
        [CONTESTANTS[name].label, *(str(_percent(kept[..., mask])) for mask in masks)]
        for name, kept in findings.test.items()
    ]
    rows.append(["chance", *(str(_percent(findings.chance[..., mask])) for mask in masks)])
    return [
        *_table(["method", *(name.replace("_", " ") for name in CATEGORIES)], rows),
        "",
        "Chance: CFG's pictures of another prompt of the category. A stricter chance level of "
        "position, with both objects right and their relation guessed, is a quarter of two object: "
        f"{_guessed_position(findings):.1f} for CFG.",
    ]


def _guessed_position(findings: Findings) -> float:
    two = np.array([spec.category == "two_object" for spec in evaluation_specs()])
    return _percent(findings.test["cfg"][..., two]).mean / len(RELATIONS)


def _head_to_head(findings: Findings) -> list[str]:
    pairs = [
        ("chats--0.5", "chats-0"),
        ("chats-0.5", "chats-0"),
        ("chats-lora--0.5", "chats-lora-0"),
        ("chats-lora-0.5", "chats-lora-0"),
        ("chats-exact-0.5", "chats-0.5"),
        ("chats-0.5", "dpo"),
        ("chats-0", "dpo"),
        ("chats--0.5", "dpo"),
        ("chats-0.5", "sft"),
        ("chats-0", "sft"),
        ("chats--0.5", "sft"),
        ("chats-lora-0.5", "chats-0.5"),
    ]
    rows = [
        [
            f"{CONTESTANTS[first].label} − {CONTESTANTS[second].label}",
            _signed(_difference(findings.test[first], findings.test[second])),
        ]
        for first, second in pairs
    ]
    return _table(["difference", "percentage points"], rows)


def _difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Compare as many trainings of both as there are of each, the first ones."""
    count = min(len(first), len(second))
    return _gain(first[:count], second[:count])


def _percent(kept: np.ndarray) -> Estimate:
    return estimate(100.0 * kept)


def _gain(kept: np.ndarray, baseline: np.ndarray) -> Estimate:
    return paired_difference(100.0 * kept, 100.0 * baseline)


def _sweep_table(findings: Findings) -> list[str]:
    scale = findings.scales["chats-0.5"]
    label = f"promises kept (full pair, s = {scale:g}, one training and image seed)"
    rows = [[f"{alpha:g}", str(_percent(kept))] for alpha, kept in findings.sweep.items()]
    return _table(["α", label], rows)


def _tuning_table(findings: Findings, config: EvidenceConfig) -> list[str]:
    rows = []
    for name, row in findings.tuning.items():
        cells = [f"{100 * row[scale]:.1f}" if scale in row else "–" for scale in config.scales]
        rows.append([CONTESTANTS[name].label, *cells])
    return _table(["method", *(f"s = {scale:g}" for scale in config.scales)], rows)


def _training_table() -> list[str]:
    header = ["training", "objective", "kind", "learning rate", "steps of 32", "T or β"]
    return _table(header, [_training_row(name, item) for name, item in TRAININGS.items()])


def _training_row(name: str, training: Training) -> list[str]:
    strength = {
        "chats": f"T = {training.temperature:g}",
        "diffusion-dpo": f"β = {training.beta:g}",
    }.get(training.objective, "–")
    rate = f"{training.learning_rate:g}"
    return [name, training.objective, training.kind, rate, str(training.num_steps), strength]


def _signed(estimate: object) -> str:
    text = str(estimate)
    return text if text.startswith("-") else f"+{text}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(header)
    return [f"| {' | '.join(cells)} |" for cells in [header, rule, *rows]]


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
