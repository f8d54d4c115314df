"""The evaluation: parts are made, scored and kept one after the other, by any number of processes.

A part's pictures depend on nothing outside of it, so that one process and several give the same
files, and what was interrupted goes on.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from chats.errors import UserError
from chats.generation.png import save_png
from chats.scoring import Scorer, score_pictures, scorer
from chats.shapes.sampling import first_seed
from training.evaluate.folder import EvaluationFolder, Part
from training.evaluate.layouts import lay_out
from training.evaluate.painting import AnyPainter, settings_of
from training.evaluate.prompts import PromptSet, check_captions, read_prompts
from training.evaluate.report import write_report
from training.evaluation_config import EvaluateConfig
from training.loop.checkpoints import StopRequested
from training.loop.log import log_file

logger = logging.getLogger(__name__)


class EvaluationStoppedError(RuntimeError):
    """It was asked to stop; what is made is kept, and the same command goes on."""


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
        EvaluationStoppedError: SIGTERM or Ctrl-C was heard; the part under way is finished first.
    """
    folder = EvaluationFolder(config.output.expanduser())
    prompts = read_prompts(config)
    check_captions(prompts, config)
    parts = parts_of(config, num_prompts=len(prompts.prompts))
    kept = _kept(folder, say) if rank == 0 else contextlib.nullcontext(say)
    with kept as say, StopRequested() as stop:
        folder.begin(config, is_main=rank == 0)
        torch.set_num_threads(config.cpu_threads)
        own = [part for part in parts[rank::num_processes] if not folder.has(part)]
        progress = _Progress(folder, parts, stop, is_main=rank == 0)
        progress.tell()
        worker = _Worker(config, prompts, folder, device=device) if own else None
        for number, part in enumerate(own, start=1):
            progress.tell()
            folder.write(part, worker.rows(part))
            say(f"Process {rank}: part {number} of {len(own)}, {part.name}")
        progress.tell()
        if rank == 0:
            folder.wait_for(parts, each_time=progress.tell)
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


@contextlib.contextmanager
def _kept(folder: EvaluationFolder, say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Keep the folder, tell in it how the evaluation ends, and log what is said."""

    def both(text: str) -> None:
        say(text)
        logger.info("%s", text)

    run = folder.run
    with run.hold(), log_file(run.log, mistakes=(UserError, EvaluationStoppedError)):
        try:
            yield both
        except EvaluationStoppedError as error:
            run.update_status(state="interrupted", message=str(error), seconds_left=None)
            raise
        except Exception as error:
            run.update_status(state="failed", message=str(error), seconds_left=None)
            raise
        run.update_status(state="succeeded", message="", seconds_left=None, exit_code=0)


class _Progress:
    """Says in status.json how far all processes are together, and hears who wants it to end."""

    def __init__(
        self,
        folder: EvaluationFolder,
        parts: Sequence[Part],
        stop: StopRequested,
        *,
        is_main: bool,
    ) -> None:
        self._folder, self._parts, self._stop, self._is_main = folder, parts, stop, is_main
        self._total = sum(part.last - part.first for part in parts)
        self._told = -1
        self._before, self._began = folder.num_done(parts), time.monotonic()

    def tell(self) -> None:
        """Tell it between two parts.

        Raises:
            EvaluationStoppedError: it was asked to end, and something is left to do.
        """
        done = self._folder.num_done(self._parts)
        if self._is_main and done != self._told:
            self._told = done
            run, speed = self._folder.run, self._speed(done)
            run.update_status(
                step=done,
                num_steps=self._total,
                seconds_left=(self._total - done) / speed if speed else None,
                is_durable=False,
            )
            if speed:
                run.append_metrics({"step": done, "pictures_per_second": speed})
        if self._stop.is_set and done < self._total:
            raise EvaluationStoppedError(
                f"Stopped as asked, with {done} of {self._total} pictures made and scored. "
                "Start it again to go on."
            )

    def _speed(self, done: int) -> float:
        """Pictures a second since this start; 0 before the first."""
        return (done - self._before) / (time.monotonic() - self._began)


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
