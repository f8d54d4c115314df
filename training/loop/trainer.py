"""Train a pair: one loop, read top to bottom, for all objectives, LoRA and full."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from tqdm import tqdm

from chats.denoising.families import denoiser_of, family_of, require_trainable
from chats.denoising.sizes import num_tokens
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
from training.data.draws import PairBatch, draw_batch
from training.data.encoded_pairs import EncodedPairs, encode_preferences
from training.loop.checkpoints import StopRequested
from training.loop.metrics import MetricsWindow
from training.loop.noise import NoiseSchedule
from training.loop.optimizers import MovingAverage, learning_rate, make_optimizer
from training.loop.pair_model import PairModel
from training.loop.saving import trained_pair
from training.loop.state import TrainingState, check_same_training
from training.preferences import read_preferences
from training.run import RunDirectory


class TrainingStoppedError(RuntimeError):
    """The training could not go on; its text says at which step, and what to do."""


class TrainingInterruptedError(RuntimeError):
    """The training was asked to stop, saved a checkpoint, and can go on."""


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

    Many models can so be trained on the same encoded pairs; `config.data` is then not read. A run
    that was interrupted goes on from its newest checkpoint as if nothing had happened.

    Args:
        config: The settings.
        dataset: What `encode_preferences` made with this pipeline.
        pipeline: Holds the denoiser to start from and the scheduler that it was made for.

    Raises:
        UserError: The output folder holds another or a finished run, or the model can't be trained.
        TrainingStoppedError: The loss or the gradient was no longer a finite number.
        TrainingInterruptedError: It was asked to stop, and saved a checkpoint.
    """
    _check_run(config.run)
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        gradient_accumulation_steps=config.optimizer.gradient_accumulation,
    )
    run = RunDirectory(config.run.output)
    with _held(run, accelerator), StopRequested() as stop:
        try:
            check_same_training(config, run)
            if accelerator.is_main_process:
                run.write_config(config)
            result = _train(config, dataset, pipeline, accelerator=accelerator, run=run, stop=stop)
        except TrainingInterruptedError as error:
            _tell(run, accelerator, state="interrupted", message=str(error))
            raise
        except Exception as error:
            _tell(run, accelerator, state="failed", message=str(error))
            raise
        _tell(run, accelerator, state="succeeded", exit_code=0)
    accelerator.free_memory()
    return result


def _train(
    config: TrainingConfig,
    dataset: EncodedPairs,
    pipeline: DiffusionPipeline,
    *,
    accelerator: Accelerator,
    run: RunDirectory,
    stop: StopRequested,
) -> TrainingResult:
    """Do the steps that are not done yet."""
    settings = config.optimizer
    family = family_of(pipeline)
    require_trainable(family)
    objective = OBJECTIVES[config.objective.name]
    schedule = NoiseSchedule.from_scheduler(
        pipeline.scheduler,
        shift=config.noise.shift,
        num_tokens=num_tokens(dataset.latent_shape, denoiser_of(pipeline).config, family),
    )
    weights = schedule.error_weights(config.noise.min_snr_gamma).to(accelerator.device)
    schedule = schedule.to(accelerator.device)
    pair_model = PairModel(
        denoiser_of(pipeline),
        objective=objective,
        settings=config.model,
        family=family,
        seed=config.run.seed,
    )
    if settings.gradient_checkpointing:
        pair_model.enable_gradient_checkpointing()
    model, optimizer = accelerator.prepare(
        pair_model, make_optimizer(pair_model.trained_parameters(), settings)
    )
    pair_model = accelerator.unwrap_model(model)
    average = None
    if settings.ema_decay is not None:
        average = MovingAverage([*pair_model.trained_parameters()], decay=settings.ema_decay)
    state = TrainingState(
        model=pair_model,
        optimizer=getattr(optimizer, "optimizer", optimizer),
        average=average,
        scaler=accelerator.scaler,
        num_pairs=len(dataset),
    )
    done = state.resume(run)
    if accelerator.is_main_process:
        run.cut_metrics(after_step=done)
        run.update_status(state="running", step=done, num_steps=settings.num_steps)

    window = MetricsWindow()
    steps = tqdm(
        range(done + 1, settings.num_steps + 1),
        desc="Training",
        unit="step",
        initial=done,
        total=settings.num_steps,
        disable=not accelerator.is_main_process,
    )
    for step in steps:
        lr = learning_rate(step, settings, num_processes=accelerator.num_processes)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for micro_step in range(settings.gradient_accumulation):
            batch = draw_batch(
                dataset,
                positions(step, micro_step, settings=settings, accelerator=accelerator),
                seed=config.run.seed,
                level_at=lambda uniform: schedule.level_at(uniform, config.noise),
                prompt_drop=config.objective.prompt_drop,
                dispreferred_prompt_drop=config.objective.dispreferred_prompt_drop,
            ).to(accelerator.device)
            with accelerator.accumulate(model):
                terms = loss_terms(
                    model,
                    batch,
                    schedule=schedule,
                    error_weights=weights,
                    objective=objective,
                    settings=config.objective,
                )
                # Every process sees the losses of all, so that all of them stop, or none.
                seen = _gathered(terms, accelerator)
                _require_finite(seen.loss.mean().item(), name="loss", step=step)
                accelerator.backward(terms.loss.mean())
            window.add_forward(seen)
        grad_norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        # With fp16 the scaler meets infinite gradients itself: it skips the step and scales less.
        if accelerator.scaler is None:
            _require_finite(grad_norm, name="gradient's norm", step=step)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update(step)
        window.add_step(grad_norm=grad_norm)
        is_last = step == settings.num_steps
        is_stopping = _any(stop.is_set, accelerator)
        if (step % config.run.log_every == 0 or is_last) and accelerator.is_main_process:
            metrics = window.summary(step=step, lr=lr)
            run.append_metrics(metrics)
            steps.set_postfix(loss=metrics["loss"])
        if step % config.run.log_every == 0:
            window = MetricsWindow()
        # After the last step the pair is written instead.
        if (step % config.run.save_every == 0 or is_stopping) and not is_last:
            if accelerator.is_main_process:
                state.save(run, step=step, keep_last=config.run.keep_last)
                run.update_status(step=step)
            accelerator.wait_for_everyone()
        if is_stopping and not is_last:
            raise TrainingInterruptedError(
                f"Stopped as asked, after step {step} of {settings.num_steps}, and saved. "
                "Start the same command again to go on."
            )

    if average is not None:
        average.copy_to_parameters()
    if accelerator.is_main_process:
        pair = trained_pair(pair_model, config=config, dataset=dataset, family=family)
        save_pair(pair, run.pair)
    accelerator.wait_for_everyone()
    return TrainingResult(pair=run.pair, metrics=run.read_metrics()[-1])


def positions(
    step: int, micro_step: int, *, settings: OptimizerSettings, accelerator: Accelerator
) -> range:
    """Return this process's places in the stream of samples; together they are the step's."""
    micro_batch = settings.batch_size * accelerator.num_processes
    first = ((step - 1) * settings.gradient_accumulation + micro_step) * micro_batch
    first += accelerator.process_index * settings.batch_size
    return range(first, first + settings.batch_size)


def loss_terms(
    model: nn.Module,
    batch: PairBatch,
    *,
    schedule: NoiseSchedule,
    error_weights: Tensor,
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
    counts = error_weights[batch.levels]
    errors = {
        each: counts * error(output, targets[each.half]) for each, output in predictions.items()
    }
    return objective_loss(objective, errors, temperature=settings.temperature, beta=settings.beta)


@contextlib.contextmanager
def _held(run: RunDirectory, accelerator: Accelerator) -> Iterator[None]:
    """Keep the run's folder, by the main process for all of them."""
    with run.hold() if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        yield


def _tell(run: RunDirectory, accelerator: Accelerator, **status: object) -> None:
    if accelerator.is_main_process:
        run.update_status(**status)


def _gathered(terms: LossTerms, accelerator: Accelerator) -> LossTerms:
    """Return the terms of every process's samples, without gradients."""
    terms = terms.detach()
    if accelerator.num_processes == 1:
        return terms
    found = {name: value for name, value in vars(terms).items() if value is not None}
    return LossTerms(**accelerator.gather(found))


def _any(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set in some process."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.gather(torch.tensor([flag], device=accelerator.device)).any().item()


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
    require_trainable(family_of(loaded.pipeline))
    return loaded.pipeline


def _require_finite(value: float, *, name: str, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingStoppedError(
            f"The {name} is {value} at step {step}: stopped before that step's update. "
            "Lower optimizer.learning_rate, or set run.mixed_precision to no."
        )
