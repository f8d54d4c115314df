"""The evaluation: parts are made, scored and kept one after the other, by any number of processes.

A part's pictures depend on nothing outside of it, so that one process and several give the same
files, and what was interrupted goes on.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from chats.errors import UserError
from chats.generation.png import save_png
from chats.scoring import Scorer, score_pictures, scorer
from chats.scoring.registry import parse_terms
from chats.shapes.grammar import parse_caption
from chats.shapes.sampling import first_seed
from training.evaluate.config import EvaluateConfig
from training.evaluate.folder import EvaluationFolder, Part
from training.evaluate.layouts import lay_out
from training.evaluate.painting import AnyPainter, settings_of
from training.evaluate.prompts import PromptSet, read_prompts
from training.evaluate.report import write_report


def evaluate(
    config: EvaluateConfig,
    *,
    rank: int = 0,
    num_processes: int = 1,
    device: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Make, score and tabulate what is not done yet.

    Args:
        config: what is evaluated.
        rank: number of this process; 0 writes the tables.
        num_processes: how many share the work.
        device: where this process's models are; none chooses.
        say: told after every part.

    Raises:
        UserError: a prompt set, scorer, model or folder is not as it must be.
    """
    folder = EvaluationFolder(config.output.expanduser())
    prompts = read_prompts(config)
    _check_captions(prompts, config)
    parts = parts_of(config, num_prompts=len(prompts.prompts))
    with folder.hold() if rank == 0 else nullcontext():
        folder.begin(config, is_main=rank == 0)
        torch.set_num_threads(config.cpu_threads)
        own = [part for part in parts[rank::num_processes] if not folder.has(part)]
        worker = _Worker(config, prompts, folder, device=device) if own else None
        for number, part in enumerate(own, start=1):
            folder.write(part, worker.rows(part))
            say(f"Process {rank}: part {number} of {len(own)}, {part.name}")
        if rank == 0:
            folder.wait_for(parts)
            rows = folder.merge(parts)
            write_report(rows, config, categories=prompts.categories, folder=folder.path)
            lay_out(prompts, config, folder)
            say(f"The tables are in {folder.path / 'report.md'}")


def parts_of(config: EvaluateConfig, *, num_prompts: int) -> list[Part]:
    """All parts in the order of scores.jsonl: by method, by seed, by prompt."""
    return [
        Part(each.name, seed, first, min(first + config.batch_size, num_prompts))
        for each in config.contestants
        for seed in config.seeds
        for first in range(0, num_prompts, config.batch_size)
    ]


def _check_captions(prompts: PromptSet, config: EvaluateConfig) -> None:
    """Refuse prompts that the Shapes checker can't read before any picture is made."""
    if not any(name == "shapes" for each in config.scorers for _, name in parse_terms(each)):
        return
    for number, prompt in enumerate(prompts.prompts, start=1):
        try:
            parse_caption(prompt.text)
        except UserError as error:
            raise UserError(
                f"Prompt {number}: {error} Set scorers to others, such as pickscore."
            ) from None


class _Worker:
    """Makes and scores parts with one painter and the scorers, loaded once."""

    def __init__(
        self,
        config: EvaluateConfig,
        prompts: PromptSet,
        folder: EvaluationFolder,
        *,
        device: str | None,
    ) -> None:
        self._config, self._prompts, self._folder = config, prompts.prompts, folder
        self._scorers: dict[str, Scorer] = {
            name: scorer(name, device=device) for name in config.scorers
        }
        self._painter = AnyPainter(config, device=device)
        self._contestants = {each.name: each for each in config.contestants}

    def rows(self, part: Part) -> Sequence[dict[str, Any]]:
        """Make the pictures of a part, write them, and return a row of scores for each."""
        contestant = self._contestants[part.method]
        numbers = range(part.first, part.last)
        prompts = [self._prompts[number] for number in numbers]
        texts = [prompt.text for prompt in prompts]
        seeds = [first_seed(part.seed) + number for number in numbers]
        images = self._painter.paint(contestant, texts, seeds)
        scores = {
            name: score_pictures(judge, images, texts) for name, judge in self._scorers.items()
        }
        rows = []
        for place, (number, prompt, image) in enumerate(zip(numbers, prompts, images, strict=True)):
            path = self._folder.picture(part.method, part.seed, number)
            settings = settings_of(
                self._config,
                contestant,
                prompt=prompt.text,
                seed=seeds[place],
                size_px=image.width,
            )
            save_png(image, path, config=settings)
            rows.append(
                {
                    "method": part.method,
                    "seed": part.seed,
                    "number": number,
                    "prompt": prompt.text,
                    "category": prompt.category,
                    "scores": {name: float(values[place]) for name, values in scores.items()},
                    "file": str(path.relative_to(self._folder.path).as_posix()),
                }
            )
        return rows
