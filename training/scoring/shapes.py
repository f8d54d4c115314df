"""Scores a run's pair by the checker of the Shapes world: `python -m training.scoring.shapes RUN`.

CFG on the base and CHATS with the pair paint the same held-out prompts from the same noise.
"""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from chats.errors import UserError
from chats.scoring.scorer import Scorer, score_pictures
from chats.scoring.shapes import ShapesChecker
from chats.shapes import BASE
from chats.shapes.prompts import evaluation_specs
from chats.shapes.sampling import Sampler
from chats.shapes.world import caption
from chats.statistics.estimates import Estimate, estimate, paired_difference
from training.run import RunDirectory
from training.scoring.record import Percent, RunScore, read_score, score_lock, write_score

_BATCH_SIZE = 30
_FIRST_SEED = 1_000_000
_NICENESS = 5

logger = logging.getLogger(__name__)


def score_run(run: RunDirectory, judge: Scorer) -> RunScore:
    """Paint, judge, and write down how far it is after every batch.

    Raises:
        UserError: The pair can't be loaded, or the disk refuses the record.
    """
    score = read_score(run)
    prompts = [caption(spec) for spec in evaluation_specs()[: score.num_prompts]]
    kept: list[np.ndarray] = []
    for judged in _batches(run, score, prompts, judge):
        kept.append(judged)
        score = score.model_copy(update={"num_done": sum(map(len, kept))})
        write_score(run, score)
    cfg, chats = np.concatenate(kept).reshape(2, 1, 1, len(prompts))
    score = score.model_copy(
        update={
            "state": "done",
            "cfg": _percent(estimate(cfg)),
            "chats": _percent(estimate(chats)),
            "difference": _percent(paired_difference(chats, cfg)),
        }
    )
    write_score(run, score)
    return score


def _batches(
    run: RunDirectory, score: RunScore, prompts: list[str], judge: Scorer
) -> Iterator[np.ndarray]:
    """Yield what CFG keeps, batch by batch, then what CHATS keeps; each `(B,)` of 0 and 1."""
    for method, pair in (("cfg", None), ("chats", run.pair)):
        sampler = Sampler(BASE, pair)
        for start in range(0, len(prompts), _BATCH_SIZE):
            batch = prompts[start : start + _BATCH_SIZE]
            first = _FIRST_SEED + start
            pictures = sampler.sample(
                batch,
                range(first, first + len(batch)),
                method=method,
                scale=score.scale,
                alpha=score.alpha,
            )
            yield score_pictures(judge, [Image.fromarray(each) for each in pictures], batch)


def _percent(found: Estimate) -> Percent:
    return Percent(mean=100 * found.mean, error=100 * found.error)


def main(folder: Path) -> int:
    """Score, or write down why not."""
    os.nice(_NICENESS)
    run = RunDirectory(folder)
    with score_lock(run):
        try:
            score_run(run, ShapesChecker())
        except Exception as error:
            if not isinstance(error, UserError):
                logger.exception("The scoring failed")
            said = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            failed = {"state": "failed", "message": said}
            write_score(run, read_score(run).model_copy(update=failed))
            return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(main(Path(sys.argv[1])))
