"""Train a pair: one loop, read top to bottom, for all objectives, LoRA and full."""

import functools
import logging
import math
from collections.abc import Sequence

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from tqdm import tqdm

from chats.denoising.families import denoiser_of, family_of, require_trainable
from chats.denoising.sizes import num_tokens
from chats.errors import UserError
from chats.models.loading import load_model, resolve_model
from chats.objective import OBJECTIVES
from chats.pairs.pair import save_pair
from chats.pairs.weight_files import check_weight_files
from training.config import TrainingConfig
from training.data.batches import BatchSource, DrawSettings, PairSource, ShuffledPairs
from training.data.draws import PairBatch, draw_batch
from training.data.encoded_pairs import EncodedPairs
from training.data.opening import open_batches, open_held_out
from training.loop.batch_loader import BatchLoader
from training.loop.checkpoints import StopRequested
from training.loop.compiling import compile_blocks
from training.loop.engine import clip_gradients, prepare
from training.loop.losses import any_of, gathered, loss_terms
from training.loop.metrics import MetricsWindow
from training.loop.noise import NoiseSchedule
from training.loop.optimizers import MovingAverage, learning_rate, make_optimizer
from training.loop.pair_model import PairModel
from training.loop.reference_errors import reference_errors
from training.loop.reporting import Reporter, log_training
from training.loop.sample_pipeline import SamplePrompts, sample_prompts
from training.loop.samples import Sampler
from training.loop.saving import pair_metadata, trained_pair
from training.loop.session import (
    Session,
    TrainingInterruptedError,
    TrainingResult,
    TrainingStoppedError,
    training_session,
)
from training.loop.state import TrainingState
from training.loop.validation import DRAWS_SEED, Validation, read_sides
from training.preferences.stream import PairStream

logger = logging.getLogger(__name__)

__all__ = [
    "TrainingInterruptedError",
    "TrainingResult",
    "TrainingStoppedError",
    "load_base",
    "loss_terms",
    "train",
    "train_on",
]


def train(config: TrainingConfig) -> TrainingResult:
    """Read and encode the preferences, train, and save the pair.

    Raises:
        UserError: A mistake in the settings or in the data, before anything was trained.
        TrainingStoppedError: The loss or the gradient was no longer a finite number.
        TrainingInterruptedError: It was asked to stop, and saved a checkpoint.
    """
    with training_session(config) as session:
        if not session.is_trained:
            session.tell(message="Reading and encoding the data.")
            rows, held_out_pairs = read_sides(config)
            pipeline = load_base(config.model.base)
            dataset = open_batches(rows, pipeline, config.data, run=session.run.path)
            held_out = open_held_out(held_out_pairs, pipeline, config.data)
            named = () if isinstance(rows, PairStream) else held_out_pairs or rows
            prompts = sample_prompts(config.samples, named, pipeline)
            if config.data.encode == "ahead":
                pipeline = _without_text_encoders(pipeline).to("cpu")
            else:
                denoiser_of(pipeline).to("cpu")  # the encoders stay where they are
            _train(session, dataset, pipeline, held_out=held_out, prompts=prompts)
    return session.result()


def train_on(
    config: TrainingConfig,
    dataset: EncodedPairs | BatchSource,
    pipeline: DiffusionPipeline,
    *,
    held_out: PairSource | None = None,
) -> TrainingResult:
    """Train on pairs that are ready, and save the pair; `pipeline` stays as it is.

    Many models can so be trained on the same encoded pairs; `config.data` is then not read. A run
    that was interrupted goes on from its newest checkpoint as if nothing had happened.

    Args:
        config: The settings. Sample pictures are made only of prompts that it names.
        dataset: What `encode_pairs` or `open_batches` made with this pipeline.
        pipeline: Holds the denoiser to start from and the scheduler that it was made for.
        held_out: Pairs for validation, of one size; none leaves it out.

    Raises:
        UserError: The output folder holds another or a finished run, or the model can't be trained.
        TrainingStoppedError: The loss or the gradient was no longer a finite number.
        TrainingInterruptedError: It was asked to stop, and saved a checkpoint.
    """
    with training_session(config) as session:
        if not session.is_trained:
            prompts = sample_prompts(config.samples, (), pipeline)
            if isinstance(dataset, EncodedPairs):
                dataset = ShuffledPairs([dataset])
            _train(session, dataset, pipeline, held_out=held_out, prompts=prompts)
    return session.result()


def _train(
    session: Session,
    dataset: BatchSource,
    pipeline: DiffusionPipeline,
    *,
    held_out: PairSource | None,
    prompts: SamplePrompts | None,
) -> None:
    """Do the steps that are not done yet, until all are or it is asked to stop."""
    with StopRequested() as stop, BatchLoader() as batches:
        _do_steps(
            session,
            dataset,
            pipeline,
            held_out=held_out,
            prompts=prompts,
            stop=stop,
            batches=batches,
        )


def _do_steps(
    session: Session,
    dataset: BatchSource,
    pipeline: DiffusionPipeline,
    *,
    held_out: PairSource | None,
    prompts: SamplePrompts | None,
    stop: StopRequested,
    batches: BatchLoader,
) -> None:
    """Do the steps that are not done yet, and save the pair."""
    config, accelerator, run = session.config, session.accelerator, session.run
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
        if held_out is None:
            pair_model.drop_reference()
    if settings.gradient_checkpointing:
        pair_model.enable_gradient_checkpointing()
    if settings.compile:
        compile_blocks(pair_model, device=accelerator.device)
    optimizer = make_optimizer(pair_model.trained_parameters(), settings)
    model, optimizer = prepare(
        accelerator, pair_model, optimizer, mixed_precision=config.run.mixed_precision
    )
    pair_model = accelerator.unwrap_model(model)
    average = None
    if settings.ema_decay is not None:
        average = MovingAverage([*pair_model.trained_parameters()], decay=settings.ema_decay)
    window = MetricsWindow()
    state = TrainingState(
        model=pair_model,
        optimizer=getattr(optimizer, "optimizer", optimizer),
        average=average,
        scaler=accelerator.scaler,
        num_pairs=dataset.num_pairs,
        window=window,
    )

    def draw_held_out(positions: Sequence[int]) -> PairBatch:
        return draw_batch(
            held_out,
            positions,
            seed=DRAWS_SEED,
            level_at=draws.level_at,
            prompt_drop=draws.prompt_drop,
            dispreferred_prompt_drop=draws.dispreferred_prompt_drop,
        ).to(accelerator.device)

    terms_of = functools.partial(
        loss_terms,
        model,
        schedule=schedule,
        error_weights=weights,
        objective=objective,
        settings=config.objective,
    )
    validation, sampler = None, None
    if held_out is not None:
        validation = Validation(
            held_out,
            max_pairs=config.validation.max_pairs,
            batch_size=settings.batch_size,
            draw=draw_held_out,
            terms_of=terms_of,
            accelerator=accelerator,
        )
    if prompts is not None:
        sampler = Sampler(
            prompts,
            config=config,
            pair_model=pair_model,
            metadata=pair_metadata(config, dataset=dataset, family=family),
            pipeline=pipeline,
            accelerator=accelerator,
            run=run,
        )
    reporter = Reporter(
        session, window=window, average=average, validation=validation, sampler=sampler
    )

    done = state.resume(run)
    if session.is_main:
        run.write_config(config)
        log_training(config, dataset, held_out=held_out, num_processes=accelerator.num_processes)
    reporter.begin(done)
    micro_steps = done * settings.gradient_accumulation
    unfinished = dataset.batches(draws, after=micro_steps)
    batches.start(unfinished if kept is None else kept.attached(unfinished, after=micro_steps))
    steps = tqdm(
        range(done + 1, settings.num_steps + 1),
        desc="Training",
        unit="step",
        initial=done,
        total=settings.num_steps,
        disable=None if session.is_main else True,  # none: only where somebody may watch
    )
    for step in steps:
        window.start_step()
        lr = learning_rate(step, settings, num_processes=accelerator.num_processes)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for _ in range(settings.gradient_accumulation):
            with window.waiting_for_data():
                loaded = batches.next()
            batch = loaded().to(accelerator.device)
            with accelerator.accumulate(model):
                terms = terms_of(batch)
                # Every process sees the losses of all, so that all of them stop, or none.
                seen = gathered(terms, accelerator)
                _require_finite(seen.loss.mean().item(), name="loss", step=step)
                accelerator.backward(terms.loss.mean())
            window.add_forward(seen)
        grad_norm = clip_gradients(accelerator, model, max_norm=settings.max_grad_norm)
        # With fp16 the scaler meets infinite gradients itself: it skips the step and scales less.
        if accelerator.scaler is None:
            _require_finite(grad_norm, name="gradient's norm", step=step)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update(step)
        window.add_step(grad_norm=grad_norm)
        metrics = reporter.after_step(step, lr=lr)
        if "loss" in metrics:
            steps.set_postfix(loss=metrics["loss"])
        is_last = step == settings.num_steps
        is_stopping = any_of(stop.is_set, accelerator)
        # After the last step the pair is written instead.
        if (step % config.run.save_every == 0 or is_stopping) and not is_last:
            state.save(run, step=step, keep_last=config.run.keep_last)
            if session.is_main:
                session.tell(step=step)
                logger.info("Step %d: checkpoint saved.", step)
            accelerator.wait_for_everyone()
        if is_stopping and not is_last:
            raise TrainingInterruptedError(
                f"Stopped as asked, after step {step} of {settings.num_steps}, and saved. "
                "Start the same command again to go on."
            )
        reporter.paint(step)

    if average is not None:
        average.copy_to_parameters()
    pair = trained_pair(pair_model, config=config, dataset=dataset, family=family)
    if session.is_main:
        save_pair(pair, run.pair)
    accelerator.wait_for_everyone()


def load_base(name: str) -> DiffusionPipeline:
    """Load the model to train, in 32 bits, on the device of this process.

    Raises:
        UserError: There is no such model, or it can't be trained.
    """
    folder = resolve_model(name)
    check_weight_files(folder)
    loaded = load_model(folder, device=PartialState().device, dtype=torch.float32)
    if loaded.own_pair is not None:
        raise UserError(f"{name} is a trained pair. Set model.base to the model it was made from.")
    require_trainable(family_of(loaded.pipeline))
    return loaded.pipeline


def _without_text_encoders(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Drop what has done its work: text encoders may be larger than the denoiser."""
    for name in pipeline.components:
        if name.startswith("text_encoder"):
            setattr(pipeline, name, None)
    return pipeline


def _require_finite(value: float, *, name: str, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingStoppedError(
            f"The {name} is {value} at step {step}: stopped before that step's update. "
            "Lower optimizer.learning_rate, or set run.mixed_precision to no."
        )
