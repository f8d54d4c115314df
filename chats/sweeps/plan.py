"""From settings to work: the cells of a sweep, its pictures in their order, and its calls.

The order is a pure function of the settings, so a sweep that was ended goes on with the same calls.
Cells fill evenly: every cell has its first picture before any has its second. No torch here.
"""

import itertools
from dataclasses import dataclass

from chats.config import GenerationConfig, Row, SchedulerName, SharedSettings
from chats.denoising.methods import terms
from chats.sweeps.config import SweepConfig


@dataclass(frozen=True)
class Panel:
    """What one call of a pipeline has in common: a grid of α and s for each of these."""

    num_steps: int | None
    scheduler: SchedulerName
    interval: tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """One setting that is compared with the others."""

    panel: Panel
    scale: float
    alpha: float


@dataclass(frozen=True)
class Picture:
    """One picture of a sweep: where it stands, by index."""

    index: int
    cell: int
    prompt: int
    seed: int


@dataclass(frozen=True)
class Cost:
    """What a sweep comes to before anything is made."""

    num_cells: int
    num_pictures: int
    num_calls: int
    num_predictions: float
    """Predictions of a denoiser for one picture, summed over steps and pictures."""


def panels(config: SweepConfig) -> tuple[Panel, ...]:
    """Return the combinations of steps, scheduler and interval."""
    steps = config.num_steps or (None,)
    return tuple(
        itertools.starmap(Panel, itertools.product(steps, config.schedulers, config.intervals))
    )


def cells(config: SweepConfig) -> tuple[Cell, ...]:
    """Return the cells, panel by panel, in each of them s by s."""
    return tuple(
        itertools.starmap(Cell, itertools.product(panels(config), config.scales, config.alphas))
    )


def pictures(config: SweepConfig) -> tuple[Picture, ...]:
    """Return the pictures in the order in which they are made."""
    num_panels = len(panels(config))
    per_panel = config.num_cells // num_panels
    places = itertools.product(
        range(num_panels), range(len(config.prompts)), range(len(config.seeds)), range(per_panel)
    )
    return tuple(
        Picture(index, cell=panel * per_panel + cell, prompt=prompt, seed=seed)
        for index, (panel, prompt, seed, cell) in enumerate(places)
    )


def next_call(config: SweepConfig, first: int, *, max_rows: int) -> range:
    """Return the pictures of the call that begins at `first`; it stays within one panel."""
    per_panel = config.num_pictures // len(panels(config))
    end_of_panel = (first // per_panel + 1) * per_panel
    return range(first, min(first + max_rows, end_of_panel))


def request(config: SweepConfig, made: tuple[Picture, ...]) -> GenerationConfig:
    """Return what makes some pictures of one panel in one call."""
    grid = cells(config)
    panel = grid[made[0].cell].panel
    shared = {name: getattr(config, name) for name in SharedSettings.model_fields}
    rows = tuple(
        Row(
            method=config.method,
            scale=grid[each.cell].scale,
            alpha=grid[each.cell].alpha,
            seed=config.seeds[each.seed],
            prompt=config.prompts[each.prompt],
        )
        for each in made
    )
    return GenerationConfig(
        rows=rows,
        num_steps=panel.num_steps,
        scheduler=panel.scheduler,
        interval=panel.interval,
        preview_every=0,
        **shared,
    )


def cost(config: SweepConfig, *, default_num_steps: int) -> Cost:
    """Count the work of a sweep.

    Args:
        config: the sweep.
        default_num_steps: the number of steps that suits the model.
    """
    first, num_calls = 0, 0
    while first < config.num_pictures:
        first = next_call(config, first, max_rows=config.rows_per_call).stop
        num_calls += 1
    per_cell = len(config.prompts) * len(config.seeds)
    predictions = sum(
        per_cell * _predictions(config, cell, default_num_steps) for cell in cells(config)
    )
    return Cost(config.num_cells, config.num_pictures, num_calls, predictions)


def _predictions(config: SweepConfig, cell: Cell, default_num_steps: int) -> float:
    start, end = cell.panel.interval
    guided = len(terms(config.method, cell.scale, cell.alpha))
    return (cell.panel.num_steps or default_num_steps) * (1 + (guided - 1) * (end - start))
