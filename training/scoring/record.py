"""The score of a run: what score.json says, and how a scoring is started; no torch.

A scoring is a process of its own that outlives page and server. It holds score.lock as long as it
lives, and tells in score.json how far it is.
"""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, Field, ValidationError

import training
from chats.config import FrozenSettings
from chats.errors import UserError
from chats.shapes import SHAPES_MODEL
from training.config import TrainingConfig
from training.disk import disk_errors_explained, read_if_there, write_atomically
from training.run import RunDirectory

NUM_PROMPTS = 120
_ROOT = Path(training.__file__).parents[1]
_BEGINS_WITHIN_SECONDS = 120
"""A process that was started takes so long at most to take its lock."""


class Percent(FrozenSettings):
    """A mean and its standard error, in percent."""

    mean: float
    """The mean."""

    error: float
    """Its standard error."""

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f}"


class RunScore(FrozenSettings):
    """What score.json says."""

    state: Literal["running", "done", "failed"] = "running"
    """How it stands."""

    started: AwareDatetime
    """When it was asked for (UTC)."""

    num_pictures: int = Field(ge=1)
    """Pictures to be made, of CFG and CHATS together."""

    num_done: int = 0
    """Pictures that are made."""

    num_prompts: int = Field(ge=1)
    """Held-out prompts."""

    scale: float
    """The guidance scale s of both."""

    alpha: float
    """The α of CHATS."""

    cfg: Percent | None = None
    """Promises that CFG on the base keeps."""

    chats: Percent | None = None
    """Promises that CHATS with the pair keeps."""

    difference: Percent | None = None
    """CHATS − CFG in percentage points, paired by prompt and noise."""

    message: str = ""
    """What went wrong."""


def told_scores(score: RunScore | None) -> dict[str, str]:
    """Say a finished score in words, for a model card; nothing of one that is not finished."""
    if score is None or score.cfg is None or score.chats is None or score.difference is None:
        return {}
    prompts = f"promises kept, {score.num_prompts} held-out prompts"
    return {
        f"CFG on the base, s = {score.scale:g}: {prompts}": f"{score.cfg} %",
        f"CHATS, s = {score.scale:g}, α = {score.alpha:g}: {prompts}": f"{score.chats} %",
        "difference, paired": f"{score.difference} points",
    }


def can_be_scored(config: TrainingConfig | None) -> bool:
    """Whether there is a judge for a run's pair: so far, the checker of the Shapes world."""
    return config is not None and config.model.base == SHAPES_MODEL


def read_score(run: RunDirectory) -> RunScore | None:
    """Return a run's score as it stands; none if nobody asked for one, or its file is damaged."""
    content = read_if_there(_path(run))
    if content is None:
        return None
    try:
        score = RunScore.model_validate_json(content)
    except ValidationError:
        return None
    age = (datetime.now(UTC) - score.started).total_seconds()
    if score.state != "running" or age < _BEGINS_WITHIN_SECONDS or _is_held(run):
        return score
    return score.model_copy(update={"state": "failed", "message": "It ended without a word."})


def write_score(run: RunDirectory, score: RunScore) -> None:
    """Write score.json.

    Raises:
        UserError: The disk refuses it.
    """
    write_atomically(_path(run), score.model_dump_json(indent=1) + "\n")


def score_lock(run: RunDirectory) -> FileLock:
    """Return what a scoring holds while it lives."""
    return FileLock(run.path / "score.lock")


def start_score(run: RunDirectory, *, num_prompts: int = NUM_PROMPTS) -> None:
    """Start to score a run's finished pair.

    Raises:
        UserError: It has no finished pair or no judge, is being scored, or the disk is full.
    """
    config = run.read_config()
    if not can_be_scored(config):
        raise UserError(
            f"Only pairs of the Shapes model can be scored, not of {config.model.base}."
        )
    if not (run.pair / "pair.json").is_file():
        raise UserError(f"The run {run.path.name} has no finished pair to score.")
    before = read_score(run)
    if before is not None and before.state == "running":
        raise UserError(f"The run {run.path.name} is being scored already.")
    score = RunScore(
        started=datetime.now(UTC),
        num_pictures=2 * num_prompts,
        num_prompts=num_prompts,
        scale=config.samples.scale,
        alpha=config.samples.alphas[0],
    )
    write_score(run, score)
    with disk_errors_explained(run.path), (run.path / "score.txt").open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "training.scoring.shapes", str(run.path)],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    threading.Thread(target=child.wait, name="score", daemon=True).start()


def _is_held(run: RunDirectory) -> bool:
    lock = score_lock(run)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _path(run: RunDirectory) -> Path:
    return run.path / "score.json"
