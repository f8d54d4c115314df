"""A sweep against the same pictures one by one, in one run: `make bench-sweep`.

    python -m benchmarks.sweep --rounds 1

Every round makes all pictures in each way, so that whatever else the machine does hits all of them.
Pictures are written down and scored in all of them. "Cell by cell" makes the seeds of a cell in
one call, as Compare does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
import tyro
from pydantic import Field

from chats.config import FrozenSettings
from chats.environment import quieten_libraries
from chats.generation.generate import generate
from chats.generation.png import config_of_row, save_png
from chats.models.manager import ModelManager
from chats.scoring import scorer
from chats.sweeps.config import SweepConfig
from chats.sweeps.folder import SweepFolder
from chats.sweeps.plan import Picture, pictures, request
from chats.sweeps.run import run_sweep

PROMPT = "a photo of three red stars on a black background"


class SweepBenchConfig(FrozenSettings):
    """What is measured, and how often."""

    rounds: int = Field(3, ge=1)
    """Rounds; in each of them every way makes all pictures once."""
    alphas: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    """Proxy strengths α."""
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Guidance scales s."""
    num_seeds: int = Field(4, ge=1)
    """Pictures of each cell."""
    num_steps: int = Field(20, ge=1)
    """Denoising steps."""
    rows_per_call: int = Field(16, ge=1, le=64)
    """The most pictures in one call of the sweep."""
    num_threads: int = Field(2, ge=1)
    """CPU threads of torch."""
    device: str = "cpu"
    """Torch device."""


def main(config: SweepBenchConfig) -> None:
    """Print seconds of each way, and how much faster the sweep is."""
    torch.set_num_threads(config.num_threads)
    quieten_libraries()
    manager = ModelManager(device=config.device, max_rows=config.rows_per_call)
    sweep = SweepConfig(
        prompts=(PROMPT,),
        alphas=config.alphas,
        scales=config.scales,
        seeds=tuple(range(config.num_seeds)),
        num_steps=(config.num_steps,),
        scorer="shapes",
        rows_per_call=config.rows_per_call,
    )
    plan = pictures(sweep)
    by_cell = [tuple(p for p in plan if p.cell == cell) for cell in range(sweep.num_cells)]
    one_by_one = [(each,) for each in plan]
    _calls(manager, sweep, one_by_one[:1])  # loads the model
    seconds: dict[str, list[float]] = {"sweep": [], "cell by cell": [], "one by one": []}
    for _ in range(config.rounds):
        seconds["sweep"].append(_sweep(manager, sweep))
        seconds["cell by cell"].append(_calls(manager, sweep, by_cell))
        seconds["one by one"].append(_calls(manager, sweep, one_by_one))
    print(
        f"\n{sweep.num_cells} cells × {config.num_seeds} seeds, {config.num_steps} steps, "
        f"{manager.device_name}, {config.rounds} rounds"
    )
    print(f"{'':14} seconds   sweep is faster by (rounds)")
    for name, values in seconds.items():
        ratios = [slow / fast for slow, fast in zip(values, seconds["sweep"], strict=True)]
        told = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{name:14} {statistics.median(values):7.1f}   {statistics.median(ratios):.2f} ({told})"
        )


def _sweep(manager: ModelManager, sweep: SweepConfig) -> float:
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        folder = SweepFolder.create(Path(place) / "sweep", sweep)
        judge = scorer(sweep.scorer, device="cpu")
        for _ in run_sweep(
            folder,
            generate=lambda config, cancel: generate(manager, config, cancel=cancel),
            judge=judge,
        ):
            pass
        return time.perf_counter() - began


def _calls(manager: ModelManager, sweep: SweepConfig, parts: list[tuple[Picture, ...]]) -> float:
    judge = scorer(sweep.scorer, device="cpu")
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        for number, part in enumerate(parts):
            *_, made = generate(manager, request(sweep, part))
            judge.score(made.images, [sweep.prompts[each.prompt] for each in part])
            for k, image in enumerate(made.images):
                path = Path(place) / f"{number}-{k}.png"
                save_png(image, path, config=config_of_row(made.config, k))
        return time.perf_counter() - began


if __name__ == "__main__":
    main(tyro.cli(SweepBenchConfig))
