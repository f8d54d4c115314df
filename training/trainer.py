"""Train a pair: one loop, read top to bottom, for all objectives, LoRA and full."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from diffusers import DiffusionPipeline
from torch import nn
from tqdm import tqdm

from chats.denoising.families import denoiser_of, family_of
from chats.errors import UserError
from chats.models.loading import load_model, resolve_model
from chats.objective import (
    OBJECTIVES,
    LossTerms,
    Objective,
    error,
    noisy_latents,
    objective_loss,
    training_target,
)
from chats.pairs.pair import save_pair
from chats.pairs.weight_files import check_weight_files
from training.config import ObjectiveSettings, OptimizerSettings, RunSettings, TrainingConfig
from training.data import EncodedPairs, encode_preferences
from training.draws import PairBatch, draw_batch
from training.metrics import MetricsWindow, append_line, new_log
from training.noise import NoiseSchedule
from training.pair_model import PairModel
from training.preferences import read_preferences
from training.saving import trained_pair

TRAINABLE_FAMILIES = ("sd15",)
"""Families whose denoisers the loop can call; `chats.denoising.families` knows more."""


class TrainingStoppedError(RuntimeError):
    """The training could not go on; its text says at which step, and what to do."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves behind.

    Attributes:
        pair: Folder of the trained pair.
        metrics: The last line of metrics.jsonl.
    """

    pair: Path
    metrics: Mapping[str, float | None]


def train(config: TrainingConfig) -> TrainingResult:
    """Read and encode the preferences, train, and save the pair.

    Raises:
        UserError: A mistake in the settings or in the data, before anything was trained.
        TrainingStoppedError: The loss or the gradient was no longer a finite number.
    """
    _check_run(config.run)
    if config.data.buckets:
        raise UserError("The loop trains on squares only. Set data.buckets to false.")
    pairs = read_preferences(config.data)
    pipeline = _load_base(config.model.base)
    (dataset,) = encode_preferences(pairs, pipeline, config.data)
    return train_on(config, dataset, pipeline.to("cpu"))


def train_on(
    config: TrainingConfig, dataset: EncodedPairs, pipeline: DiffusionPipeline
) -> TrainingResult:
    """Train on pairs that are encoded already, and save the pair; `pipeline` stays as it is.

    Many models can so be trained on the same encoded pairs; `config.data` is then not read.

    Args:
        config: The settings.
        dataset: What `encode_preferences` made with this pipeline.
        pipeline: Holds the denoiser to start from and the scheduler that it was made for.

    Raises:
        UserError: The output folder holds a finished run, or the model can't be trained.
        TrainingStoppedError: The loss or the gradient was no longer a finite number.
    """
    _check_run(config.run)
    _check_family(pipeline)
    settings = config.optimizer
    family = family_of(pipeline)
    objective = OBJECTIVES[config.objective.name]
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation,
    )
    if accelerator.num_processes > 1:
        raise UserError("A training runs in one process: start it as `python -m training`.")
    schedule = NoiseSchedule.from_scheduler(pipeline.scheduler).to(accelerator.device)
    pair_model = PairModel(
        denoiser_of(pipeline),
        objective=objective,
        settings=config.model,
        targets=config.model.targets or family.lora_targets,
        seed=config.run.seed,
    )
    optimizer = torch.optim.AdamW(
        pair_model.trained_parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    model, optimizer = accelerator.prepare(pair_model, optimizer)
    log = new_log(config.run.output)
    window = MetricsWindow()

    steps = tqdm(range(1, settings.num_steps + 1), desc="Training", unit="step")
    for step in steps:
        lr = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for micro_step in range(settings.gradient_accumulation):
            first = ((step - 1) * settings.gradient_accumulation + micro_step) * settings.batch_size
            batch = draw_batch(
                dataset,
                range(first, first + settings.batch_size),
                seed=config.run.seed,
                num_levels=len(schedule),
                prompt_drop=config.objective.prompt_drop,
                dispreferred_prompt_drop=config.objective.dispreferred_prompt_drop,
            ).to(accelerator.device)
            with accelerator.accumulate(model):
                terms = loss_terms(
                    model,
                    batch,
                    schedule=schedule,
                    objective=objective,
                    settings=config.objective,
                )
                loss = terms.loss.mean()
                _require_finite(loss.item(), name="loss", step=step)
                accelerator.backward(loss)
            window.add_forward(terms)
        grad_norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        # With fp16 the scaler meets infinite gradients itself: it skips the step and scales less.
        if accelerator.scaler is None:
            _require_finite(grad_norm, name="gradient's norm", step=step)
        optimizer.step()
        optimizer.zero_grad()
        window.add_step(grad_norm=grad_norm)
        if step % config.run.log_every == 0 or step == settings.num_steps:
            metrics = window.summary(step=step, lr=lr)
            append_line(log, metrics)
            steps.set_postfix(loss=metrics["loss"])
            window = MetricsWindow()

    pair = config.run.output / "pair"
    trained = accelerator.unwrap_model(model)
    save_pair(trained_pair(trained, config=config, dataset=dataset, family=family), pair)
    accelerator.free_memory()
    return TrainingResult(pair=pair, metrics=metrics)


def loss_terms(
    model: nn.Module,
    batch: PairBatch,
    *,
    schedule: NoiseSchedule,
    objective: Objective,
    settings: ObjectiveSettings,
) -> LossTerms:
    """Noise a batch, predict, and compare: the objective's loss per sample and its terms."""
    level = {"signal": schedule.signal[batch.levels], "sigma": schedule.sigma[batch.levels]}
    noisy, targets = {}, {}
    for half, latents in batch.latents.items():
        noisy[half] = noisy_latents(latents, batch.noise, **level)
        targets[half] = training_target(schedule.prediction_type, latents, batch.noise, **level)
    predictions = model(noisy, schedule.timesteps[batch.levels], batch.conditions)
    errors = {each: error(output, targets[each.half]) for each, output in predictions.items()}
    return objective_loss(objective, errors, temperature=settings.temperature, beta=settings.beta)


def learning_rate(step: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of a step, counted from 1."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    done = (step - 1 - settings.warmup_steps) / (settings.num_steps - settings.warmup_steps)
    share = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[settings.schedule]
    return settings.learning_rate * share


def _check_run(settings: RunSettings) -> None:
    if (settings.output / "pair" / "pair.json").exists():
        raise UserError(
            f"The folder {settings.output} holds a finished run. Set run.output to a new folder."
        )
    if settings.mixed_precision == "fp16" and PartialState().device.type == "cpu":
        raise UserError("fp16 training needs a GPU. Set run.mixed_precision to bf16 or no.")


def _load_base(name: str) -> DiffusionPipeline:
    folder = resolve_model(name)
    check_weight_files(folder)
    loaded = load_model(folder, device=PartialState().device, dtype=torch.float32)
    if loaded.own_pair is not None:
        raise UserError(f"{name} is a trained pair. Set model.base to the model it was made from.")
    _check_family(loaded.pipeline)
    return loaded.pipeline


def _check_family(pipeline: DiffusionPipeline) -> None:
    family = family_of(pipeline).name
    if family not in TRAINABLE_FAMILIES:
        raise UserError(
            f"Models of the family {family!r} can't be trained yet; "
            f"those of {', '.join(TRAINABLE_FAMILIES)} can."
        )


def _require_finite(value: float, *, name: str, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingStoppedError(
            f"The {name} is {value} at step {step}: stopped before that step's update. "
            "Lower optimizer.learning_rate, or set run.mixed_precision to no."
        )
