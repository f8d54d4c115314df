"""Speed and memory of training and sampling on one GPU: `make bench-gpu`.

    python -m benchmarks.speed --write docs/performance.md
    python -m benchmarks.speed --tiny --rounds 1        # a check of all of it, also on a CPU

Makes models of the published shapes with random weights, trains them in every way against a
re-creation of the released settings, and samples them with every method against diffusers' own CFG.
Results are written after every turn: where it was stopped, or reached its limit of minutes, the
same command goes on. A table is printed, and written, of whatever is there.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from pydantic import Field

from benchmarks.speed.device import free_memory
from benchmarks.speed.published import SHAPES
from benchmarks.speed.random_models import RandomModelConfig, make_folder
from benchmarks.speed.report import report_lines, results_of, table, title, write_part
from benchmarks.speed.sampling import SamplingSettings, measure_sampling
from benchmarks.speed.trained import Kind, StepSettings
from benchmarks.speed.training import measure_training
from benchmarks.speed.turns import Clock, OutOfTime
from chats.config import FrozenSettings
from chats.environment import quieten_libraries
from chats.errors import UserError

COMMAND = "make bench-gpu"
_TINY_PX = 64


class SpeedConfig(FrozenSettings):
    """What is measured, and for how long."""

    models: tuple[str, ...] = ("sdxl", "sd3")
    """Models that are sampled: `sd15`, `sdxl`, `sd3` (random weights), a folder or a Hub id."""
    trained_models: tuple[str, ...] = ("sdxl",)
    """Models that are trained, named the same way."""
    kinds: tuple[Kind, ...] = ("full", "lora")
    """Kinds of pair that are trained."""
    resolution: int | None = Field(1024, ge=8)
    """Side of the pictures in pixels; none means the model's own."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the forwards."""
    steps: int = Field(50, ge=1)
    """Sampling steps."""
    batch_sizes: tuple[int, ...] = (1, 4)
    """Pictures per call."""
    train_batch_sizes: tuple[int, ...] = (1,)
    """Pairs per forward of our own ways to train; the released settings have one."""
    pairs_per_step: int = Field(16, ge=1)
    """Pairs of an optimizer step."""
    num_pairs: int = Field(24, ge=2)
    """Pairs of the data set."""
    rounds: int = Field(3, ge=1)
    """Rounds; in each of them every contestant takes a turn."""
    seconds_each: float = Field(12.0, gt=0)
    """What the forwards and backwards of one way to train may take, in all rounds."""
    minutes: float = Field(9.0, gt=0)
    """No turn starts that would end after so many minutes."""
    setup_seconds: float = Field(120.0, ge=0)
    """No model is made or loaded where less is left."""
    compiled: bool = True
    """Whether sampling is measured with compiled blocks too, which takes minutes to compile."""
    tiny: bool = False
    """Tiny models of the same architectures and 64 px, to check the program."""
    folder: Path = Path("build/speed")
    """Folder of the random models; they can be made again."""
    results: Path = Path("build/speed/results")
    """Folder of the results."""
    write: Path | None = None
    """The page that gets the tables; none only prints them."""


def main(config: SpeedConfig) -> int:
    """Measure what is not measured yet; return the exit code.

    Raises:
        UserError: There is no GPU, or a model is not known.
    """
    if not torch.cuda.is_available() and not config.tiny:
        raise UserError(
            "This measures models of 2 to 3 billion parameters and needs a GPU; there is none. "
            "Give --tiny to check the program, or run `make bench` and `make bench-train`."
        )
    clock = Clock(time.monotonic() + 60 * config.minutes, setup_seconds=config.setup_seconds)
    code = 0
    for name, measure in stages(config):
        try:
            found = measure(path=config.results / f"{name}.json", clock=clock)
        except OutOfTime:
            print(f"{config.minutes:g} minutes are over. Start the same command again to go on.")
            break
        except Exception as error:  # a rented hour is not lost for one stage
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(file=sys.stderr)
            code = 1
        else:
            print("\n".join(["", title(found), "", *table(found)]), flush=True)
        free_memory()
    lines = report_lines(results_of(config.results))
    if config.write is not None and lines:
        write_part(config.write, COMMAND, lines)
    return code


def stages(config: SpeedConfig) -> Iterator[tuple[str, Callable[..., dict[str, Any]]]]:
    """Return the stages by name, the models that come first with all of theirs."""
    side = _TINY_PX if config.tiny else config.resolution
    for model in dict.fromkeys([*config.trained_models, *config.models]):
        base, make = _base(model, config)
        if model in config.trained_models:
            for kind in config.kinds:
                yield (
                    f"{Path(model).name}-training-{kind}",
                    partial(_train, config, base, make, side=side, kind=kind),
                )
        if model in config.models:
            for batch_size in config.batch_sizes:
                yield (
                    f"{Path(model).name}-sampling-{batch_size}",
                    partial(_sample, config, base, make, side=side, batch_size=batch_size),
                )


def _train(
    config: SpeedConfig,
    base: str,
    make: Callable[[], object],
    *,
    side: int | None,
    kind: Kind,
    path: Path,
    clock: Clock,
) -> dict[str, Any]:
    settings = StepSettings(
        base=base,
        resolution=side,
        mixed_precision="bf16" if config.dtype == "bfloat16" else "no",
        pairs_per_step=config.pairs_per_step,
        seconds=config.seconds_each / config.rounds,
        num_pairs=config.num_pairs,
    )
    return measure_training(
        settings,
        kind=kind,
        batch_sizes=config.train_batch_sizes,
        rounds=config.rounds,
        path=path,
        clock=clock,
        make_base=make,
    )


def _sample(
    config: SpeedConfig,
    base: str,
    make: Callable[[], object],
    *,
    side: int | None,
    batch_size: int,
    path: Path,
    clock: Clock,
) -> dict[str, Any]:
    settings = SamplingSettings(
        base=base,
        resolution=side,
        dtype=config.dtype,
        num_steps=config.steps,
        batch_size=batch_size,
        compiled=config.compiled and not config.tiny,
    )
    return measure_sampling(settings, rounds=config.rounds, path=path, clock=clock, make_base=make)


def _base(model: str, config: SpeedConfig) -> tuple[str, Callable[[], object]]:
    """Return a model's folder, and what makes it if it has random weights and is not there."""
    if model not in SHAPES:
        return model, lambda: None
    folder = config.folder / (f"tiny-{model}" if config.tiny else model)
    made = RandomModelConfig(shape=model, output=folder, tiny=config.tiny)
    return str(folder), lambda: make_folder(made)


if __name__ == "__main__":
    quieten_libraries()
    try:
        sys.exit(main(tyro.cli(SpeedConfig, description=__doc__)))
    except UserError as error:
        sys.exit(str(error))
