"""A training of a few steps on a tiny pipeline, and what it left."""

import os
import signal
from pathlib import Path

import torch

from chats.pairs.pair import load_pair
from training.config import TrainingConfig
from training.data.batches import DrawSettings
from training.loop import trainer
from training.loop.metrics import MEASURED
from training.run import RunDirectory


def tiny_config(output: Path, **groups: dict) -> TrainingConfig:
    """Six steps of two pairs; `groups` go over it, group by group."""
    settings = {
        "data": {"path": output.parent / "pairs"},
        "model": {"rank": 2, "lora_alpha": 4, "targets": ("to_q", "to_v")},
        "objective": {"temperature": 100.0},
        "optimizer": {"num_steps": 6, "batch_size": 2, "learning_rate": 1e-2},
        "run": {"output": output, "log_every": 1, "save_every": 100},
        "samples": {"num_steps": 2},
    }
    for name, group in groups.items():
        settings[name] = settings.get(name, {}) | group
    return TrainingConfig.model_validate(settings)


def tiny_draws(batch_size: int) -> DrawSettings:
    """Draws of a model of 1,000 levels; only the dispreferred half drops prompts."""
    return DrawSettings(
        seed=0,
        batch_size=batch_size,
        level_at=lambda uniform: int(1000 * uniform),
        prompt_drop=0.0,
        dispreferred_prompt_drop=0.5,
    )


def told(config: TrainingConfig) -> list[dict]:
    """The metrics of a run, but for what the machine decides."""
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in RunDirectory(config.run.output).read_metrics()
    ]


def trained_weights(config: TrainingConfig) -> dict[str, torch.Tensor]:
    """The weights of the pair that a run left."""
    pair = load_pair(config.run.output / "pair")
    return {
        f"{role}.{name}": value
        for role, half in pair.halves().items()
        for name, value in (
            half.state_dict() if isinstance(half, torch.nn.Module) else half
        ).items()
    }


def stop_at(step: int, monkeypatch) -> None:
    """Stand for a person who asks to stop while a step of one forward is under way."""
    terms_of, calls = trainer.loss_terms, 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += torch.is_grad_enabled()  # held-out pairs are measured without
        if calls == step:
            os.kill(os.getpid(), signal.SIGTERM)
            calls += 1
        return terms_of(*args, **kwargs)

    monkeypatch.setattr(trainer, "loss_terms", counted)
