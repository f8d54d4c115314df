"""Train a pair: one loop, read top to bottom, for all objectives, LoRA and full."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from diffusers import DiffusionPipeline
from tqdm import tqdm

from chats.denoising.families import denoiser_of, family_of
from chats.errors import UserError
from chats.models.loading import load_model, resolve_model
from chats.objective import OBJECTIVES
from chats.pairs.pair import save_pair
from chats.pairs.weight_files import check_weight_files
from training.config import RunSettings, TrainingConfig
from training.data.batches import BatchSource, DrawSettings, ShuffledPairs
from training.data.encoded_pairs import EncodedPairs
from training.data.opening import open_batches, read_rows
from training.loop.batch_loader import BatchLoader
from training.loop.checkpoints import StopRequested
from training.loop.losses import any_of, gathered, loss_terms
from training.loop.metrics import MetricsWindow
from training.loop.noise import NoiseSchedule
from training.loop.optimizers import MovingAverage, learning_rate, make_optimizer
from training.loop.pair_model import PairModel
from training.loop.reference_errors import reference_errors
from training.loop.saving import trained_pair
from training.loop.state import TrainingState, check_same_training
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
    processes = PartialState()
    rows = read_rows(
        config.data,
        num_processes=processes.num_processes,
        process_index=processes.process_index,
    )
    pipeline = _load_base(config.model.base)
    dataset = open_batches(rows, pipeline, config.data, run=config.run.output)
    if config.data.encode == "ahead":
        pipeline.to("cpu")
    else:
        denoiser_of(pipeline).to("cpu")  # the encoders stay where they are
    return train_on(config, dataset, pipeline)


def train_on(
    config: TrainingConfig, dataset: EncodedPairs | BatchSource, pipeline: DiffusionPipeline
) -> TrainingResult:
    """Train on pairs that are ready, and save the pair; `pipeline` stays as it is.

    Many models can so be trained on the same encoded pairs; `config.data` is then not read. A run
    that was interrupted goes on from its newest checkpoint as if nothing had happened.

    Args:
        config: The settings.
        dataset: What `encode_pairs` or `open_batches` made with this pipeline.
        pipeline: Holds the denoiser to start from and the scheduler that it was made for.

    Raises:
        UserError: The output folder holds another or a finished run, or the model can't be trained.
        TrainingStoppedError: The loss or the gradient was no longer a finite number.
        TrainingInterruptedError: It was asked to stop, and saved a checkpoint.
    """
    _check_run(config.run)
    if isinstance(dataset, EncodedPairs):
        dataset = ShuffledPairs([dataset])
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        gradient_accumulation_steps=config.optimizer.gradient_accumulation,
    )
    run = RunDirectory(config.run.output)
    with _held(run, accelerator), StopRequested() as stop, BatchLoader() as batches:
        try:
            check_same_training(config, run)
            if accelerator.is_main_process:
                run.write_config(config)
            result = _train(
                config,
                dataset,
                pipeline,
                accelerator=accelerator,
                run=run,
                stop=stop,
                batches=batches,
            )
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
    dataset: BatchSource,
    pipeline: DiffusionPipeline,
    *,
    accelerator: Accelerator,
    run: RunDirectory,
    stop: StopRequested,
    batches: BatchLoader,
) -> TrainingResult:
    """Do the steps that are not done yet."""
    settings = config.optimizer
    family = family_of(pipeline)
    objective = OBJECTIVES[config.objective.name]
    schedule = NoiseSchedule.from_scheduler(pipeline.scheduler, shift=config.noise.shift)
    weights = schedule.error_weights(config.noise.min_snr_gamma).to(accelerator.device)
    schedule = schedule.to(accelerator.device)
    pair_model = PairModel(
        denoiser_of(pipeline),
        objective=objective,
        settings=config.model,
        family=family,
        seed=config.run.seed,
    )
    draws = DrawSettings(
        seed=config.run.seed,
        batch_size=settings.batch_size,
        level_at=lambda uniform: schedule.level_at(uniform, config.noise),
        prompt_drop=config.objective.prompt_drop,
        dispreferred_prompt_drop=config.objective.dispreferred_prompt_drop,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
    )
    kept = None
    if config.objective.cache_reference:
        kept = reference_errors(
            config,
            dataset,
            pair_model,
            base=denoiser_of(pipeline),
            schedule=schedule,
            settings=draws,
            accelerator=accelerator,
        )
        pair_model.drop_reference()
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
        num_pairs=dataset.num_pairs,
    )
    done = state.resume(run)
    if accelerator.is_main_process:
        run.cut_metrics(after_step=done)
        run.update_status(state="running", step=done, num_steps=settings.num_steps)

    micro_steps = done * settings.gradient_accumulation
    found = dataset.batches(draws, after=micro_steps)
    batches.start(found if kept is None else kept.attached(found, after=micro_steps))
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
        for _ in range(settings.gradient_accumulation):
            with window.waiting_for_data():
                loaded = batches.next()
            batch = loaded().to(accelerator.device)
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
                seen = gathered(terms, accelerator)
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
        is_stopping = any_of(stop.is_set, accelerator)
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


@contextlib.contextmanager
def _held(run: RunDirectory, accelerator: Accelerator) -> Iterator[None]:
    """Keep the run's folder, by the main process for all of them."""
    with run.hold() if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        yield


def _tell(run: RunDirectory, accelerator: Accelerator, **status: object) -> None:
    if accelerator.is_main_process:
        run.update_status(**status)


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
    family_of(loaded.pipeline)
    return loaded.pipeline


def _require_finite(value: float, *, name: str, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingStoppedError(
            f"The {name} is {value} at step {step}: stopped before that step's update. "
            "Lower optimizer.learning_rate, or set run.mixed_precision to no."
        )
