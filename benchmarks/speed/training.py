"""The stage that trains: the released settings against all ways of our own, for a kind of pair."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.device import place
from benchmarks.speed.released import Released
from benchmarks.speed.trained import Kind, StepSettings, Trained
from benchmarks.speed.training_steps import StepBench, ways, write_pictures
from benchmarks.speed.turns import Clock, Contestant, take_turns
from chats.denoising.sizes import default_size_px
from training.loop.trainer import load_base


def measure_training(
    settings: StepSettings,
    *,
    kind: Kind,
    batch_sizes: Sequence[int],
    rounds: int,
    path: Path,
    clock: Clock,
    make_base: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure, or go on measuring; return what the file of results holds.

    `make_base` is called before the model is read, where anything is left to measure.

    Raises:
        OutOfTime: The file is not complete yet.
    """
    with tempfile.TemporaryDirectory(prefix="chats-speed-") as folder:

        def contestants() -> list[Contestant]:
            make_base()
            return _contestants(settings, kind, batch_sizes, folder=Path(folder))

        return take_turns(
            contestants,
            path=path,
            settings={**vars(settings), "kind": kind, "batch_sizes": list(batch_sizes)},
            rounds=rounds,
            clock=clock,
        )


def _contestants(
    settings: StepSettings, kind: Kind, batch_sizes: Sequence[int], *, folder: Path
) -> list[Contestant]:
    pipeline = load_base(settings.base)
    side = settings.resolution or default_size_px(pipeline)
    pairs = write_pictures(folder / "pairs", num_pairs=settings.num_pairs, side=side)
    # The baseline trains whole models also where the others train adapters.
    full = Trained(pipeline, "full", settings)
    bench = StepBench(
        settings, pipeline, Trained(pipeline, "lora", settings) if kind == "lora" else full, pairs
    )
    released = Released(bench, settings, trained=full)
    parts = [*full.modules, *bench.trained.modules, *bench.encoders]
    place([], parts, "cpu")

    def others_rest(active: Trained) -> None:
        for each in (full, bench.trained):
            each.let_go()
            if each is not active:
                each.move_optimizer("cpu")

    return [
        released.contestant(others=parts, clear=lambda: others_rest(full)),
        *(
            bench.contestant(way, others=parts, clear=lambda: others_rest(bench.trained))
            for way in ways(batch_sizes)
        ),
    ]
