"""Runs in words: titles, states, times, and what to do about a failure."""

from datetime import datetime

from pathlib import Path

from training.config import ObjectiveName, TrainingConfig
from training.evaluation_config import EvaluateConfig
from training.jobs.catalogue import RunEntry
from training.jobs.kinds import KINDS, KindName
from training.run import RunState

OBJECTIVES: dict[ObjectiveName, str] = {
    "chats": "CHATS",
    "chats-no-ref": "CHATS without reference",
    "diffusion-dpo": "Diffusion-DPO",
    "sft-preferred": "SFT on preferred",
    "sft-all": "SFT on all",
    "diffusion-npo": "Diffusion-NPO",
}
STATES: dict[RunState, str] = {
    "queued": "starting",
    "waiting_for_device": "waiting",
    "running": "running",
    "stopping": "stopping",
    "succeeded": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
}
_OF_A_TRAINING = (
    (
        ("lower optimizer.", "set optimizer.", "set model.", "set data.", "set run."),
        "Such settings belong to a new training: Resume goes on with those it was started with.",
    ),
    (
        ("out of memory", "outofmemory", "cannot allocate memory"),
        "Lower optimizer.batch_size and raise optimizer.gradient_accumulation by as much, switch "
        "on optimizer.gradient_checkpointing, or train a LoRA pair. These are settings of a new "
        "training.",
    ),
    (
        ("not finite", "is nan", "is inf"),
        "Lower optimizer.learning_rate, or train without fp16. These are settings of a new "
        "training; Resume goes the same way again.",
    ),
)
_OF_AN_EVALUATION = (
    (
        ("out of memory", "outofmemory", "cannot allocate memory"),
        "Lower batch_size or size_px. These are settings of a new evaluation.",
    ),
    (
        ("prompt", "scorer"),
        "Mend what it names; settings belong to a new evaluation, Resume goes on with its own.",
    ),
)
_OF_ALL = (
    (
        ("no space left", "disk quota"),
        "Free some space on the disk, then press Resume.",
    ),
    (
        ("no module named",),
        "A package is missing on the server. Install its requirements, then press Resume.",
    ),
    (
        ("hub cannot be reached", "not on this machine"),
        "Connect the server to the network, or fetch the model first; then press Resume.",
    ),
)
_ADVICE: dict[KindName, tuple[tuple[tuple[str, ...], str], ...]] = {
    "training": (*_OF_A_TRAINING, *_OF_ALL),
    "evaluation": (*_OF_ALL, *_OF_AN_EVALUATION),
}


def title_of(entry: RunEntry) -> str:
    """Say what a run does: `CHATS, LoRA pair on shapes`, `cfg-s4 against chats-s4 on shapes`."""
    if entry.settings is None:
        return entry.id
    return _TITLES[type(entry.settings)](entry.settings)


def short_title(entry: RunEntry) -> str:
    """Name a run in a menu, where only its time tells it from others."""
    return f"{when(entry.summary.submitted)}  {title_of(entry)}"


def advice(error: str, kind: KindName) -> str:
    """Say what to do about a failure of a run."""
    text = error.lower()
    for marks, words in _ADVICE[kind]:
        if any(mark in text for mark in marks):
            return words
    return (
        f"The end of the log says what led to it. Resume goes on {KINDS[kind].goes_on} once the "
        "cause is gone."
    )


def accuracy(entry: RunEntry) -> tuple[float, bool] | None:
    """Return the share of pairs that are told apart, and whether they were held out."""
    for name, is_held_out in (("validation/accuracy", True), ("rewards/accuracies", False)):
        value = entry.newest.get(name)
        if value is not None:
            return value, is_held_out
    return None


def when(moment: datetime | None) -> str:
    """Write a moment in the server's time."""
    return f"{moment.astimezone():%-d %b %H:%M}" if moment else ""


def duration(seconds: float) -> str:
    """Write a time span in two units at most."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def _training_title(config: TrainingConfig) -> str:
    kind = "LoRA pair" if config.model.kind == "lora" else "full pair"
    base = config.model.base.rstrip("/").rpartition("/")[2]
    return f"{OBJECTIVES[config.objective.name]}, {kind} on {base}"


def _evaluation_title(config: EvaluateConfig) -> str:
    names = [each.name for each in config.contestants]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{rest} on {Path(config.prompts).name}"


_TITLES = {TrainingConfig: _training_title, EvaluateConfig: _evaluation_title}
