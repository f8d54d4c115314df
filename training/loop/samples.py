"""Pictures on the way: what the pair can do so far, with the training's own weights.

A stock pipeline stands around the denoisers that are being trained: nothing of them is copied. The
autoencoder comes to the device only meanwhile. Noise has generators of its own, so a training with
pictures is bit for bit one without.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from chats.config import DEFAULT_ALPHA, GenerationConfig, MethodName, Row
from chats.denoising.methods import needs_pair, uses_alpha
from chats.denoising.sizes import default_size_px, size_factor_px
from chats.generation.noise import starting_noise
from chats.generation.painter import plain_options
from chats.generation.pipeline import guidance
from chats.generation.png import save_png
from chats.models.memory import free_memory
from chats.pairs.pair import Pair, PairMetadata
from training.config import TrainingConfig
from training.loop.engine import autocast, called_one_by_one
from training.loop.pair_model import PairModel
from training.loop.sample_pipeline import SamplePrompts, pipeline_around
from training.loop.sharding import is_shared_out
from training.run import RunDirectory, Sample

logger = logging.getLogger(__name__)


class Sampler:
    """Makes the pictures; every process makes the same ones, the main one writes them."""

    def __init__(
        self,
        prompts: SamplePrompts,
        *,
        config: TrainingConfig,
        pair_model: PairModel,
        metadata: PairMetadata,
        pipeline: DiffusionPipeline,
        accelerator: Accelerator,
        run: RunDirectory,
    ) -> None:
        """Prepare it; nothing is moved or made yet.

        Args:
            prompts: What the pictures show.
            config: The settings.
            pair_model: Holds what is being trained.
            metadata: What the trained pair's metadata will be.
            pipeline: Where scheduler and autoencoder are from.
            accelerator: Knows device and number format.
            run: Where pictures are written to.
        """
        self._prompts, self._config, self._run = prompts, config, run
        self._pair_model, self._metadata, self._stock = pair_model, metadata, pipeline
        self._accelerator = accelerator
        factor = size_factor_px(pipeline)
        wanted = config.data.resolution or default_size_px(pipeline)
        self._size_px = max(wanted // factor, 1) * factor

    def can_paint_base(self, step: int) -> bool:
        """Whether the base model is here: as the reference, or as what has not learned yet."""
        return step == 0 or "reference" in self._pair_model.denoisers

    def paint(self, step: int, *, with_base: bool) -> None:
        """Make and write the pictures of a step.

        Too little memory for them is logged and no more: the training goes on without them, unless
        processes share the models out.

        Args:
            step: Optimizer steps done.
            with_base: Whether the base model's pictures are made too, with CFG.
        """
        rows = self._base_rows() if with_base else []
        try:
            with torch.no_grad(), self._autocast(), self._models_here():
                samples = [
                    *self._painted(rows, step=step, pair=None),
                    *self._painted(self._trained_rows(), step=step, pair=self._pair()),
                ]
        except torch.OutOfMemoryError as error:
            if is_shared_out(self._pair_model):
                raise  # the other processes wait for this one's part of the weights
            logger.warning(
                "Step %d: no sample pictures, there is too little memory for them. Lower "
                "optimizer.batch_size, which is how many are made at once, or set samples.every "
                "to 0. %s",
                step,
                str(error).partition("\n")[0],
            )
        else:
            if self._accelerator.is_main_process:
                self._run.add_samples(samples)
                logger.info("Step %d: %d sample pictures.", step, len(samples))
        finally:
            free_memory()

    def _base_rows(self) -> list[tuple[str, Row]]:
        return self._rows("cfg", alphas=(DEFAULT_ALPHA,))

    def _trained_rows(self) -> list[tuple[str, Row]]:
        trained = set(self._pair_model.trained)
        if trained == {"preferred", "dispreferred"}:
            return self._rows("chats", alphas=self._config.samples.alphas)
        method = "preferred-cfg" if trained == {"preferred"} else "npo"
        return self._rows(method, alphas=(DEFAULT_ALPHA,))

    def _rows(self, method: MethodName, *, alphas: Sequence[float]) -> list[tuple[str, Row]]:
        """Return each prompt with its pictures' settings; a prompt has the same seed always."""
        settings = self._config.samples
        return [
            (prompt, Row(method=method, scale=settings.scale, alpha=alpha, seed=seed))
            for seed, prompt in enumerate(self._prompts.prompts, start=settings.seed)
            for alpha in alphas
        ]

    def _pair(self) -> Pair | None:
        """Return what is trained as a pair; adapters are found on the denoiser itself."""
        if self._pair_model.is_lora:
            return None
        denoisers = self._pair_model.denoisers
        return Pair(self._metadata, **{role: denoisers[role] for role in self._pair_model.trained})

    def _painted(
        self, rows: Sequence[tuple[str, Row]], *, step: int, pair: Pair | None
    ) -> Iterator[Sample]:
        at_once = self._config.optimizer.batch_size
        for start in range(0, len(rows), at_once):
            chunk = rows[start : start + at_once]
            images = self._images(chunk, pair=pair)
            if self._accelerator.is_main_process:
                for (prompt, row), image in zip(chunk, images, strict=True):
                    yield self._written(image, prompt, row, step=step)

    def _images(
        self, rows: Sequence[tuple[str, Row]], *, pair: Pair | None
    ) -> Sequence[Image.Image]:
        """Call a stock pipeline once for all rows."""
        self._pair_model.end_step()
        pipeline = pipeline_around(
            self._denoiser(), stock=self._stock, prompts=self._prompts, device=self._device
        )
        size = {"width": self._size_px, "height": self._size_px}
        generators = [torch.Generator("cpu").manual_seed(row.seed) for _, row in rows]
        with guidance(
            pipeline,
            pair,
            method=[row.method for _, row in rows],
            scale=self._config.samples.scale,
            alpha=[row.alpha for _, row in rows],
            null_prompt=self._metadata.null_prompt,
        ):
            return pipeline(
                [prompt for prompt, _ in rows],
                num_inference_steps=self._config.samples.num_steps,
                generator=generators,
                latents=starting_noise(pipeline, generators, **size).to(self._device),
                **size,
                **plain_options(pipeline),
            ).images

    def _denoiser(self) -> nn.Module:
        """Return the base, or where it is not needed any model: roles say who predicts."""
        denoisers = self._pair_model.denoisers
        if "reference" in denoisers:
            return denoisers["reference"]
        return next(iter(denoisers.values()))

    def _written(self, image: Image.Image, prompt: str, row: Row, *, step: int) -> Sample:
        number = row.seed - self._config.samples.seed
        alpha = row.alpha if uses_alpha(row.method) else None
        name = f"{number:02}-{row.method}" + ("" if alpha is None else f"-a{alpha:g}")
        sample = Sample(
            step=step,
            prompt=prompt,
            method=row.method,
            scale=row.scale,
            alpha=alpha,
            seed=row.seed,
            file=f"step-{step:06}/{name}.png",
        )
        trained = f"{self._run.path.resolve().name} at step {step}"
        config = GenerationConfig(
            prompt=prompt,
            rows=(row,),
            num_steps=self._config.samples.num_steps,
            width=self._size_px,
            height=self._size_px,
            model=self._config.model.base,
            pair=trained if needs_pair(row.method) else None,
        )
        save_png(image, self._run.samples / sample.file, config=config)
        return sample

    @contextlib.contextmanager
    def _models_here(self) -> Iterator[None]:
        with called_one_by_one(self._pair_model), self._decoder_here():
            yield

    def _autocast(self) -> contextlib.AbstractContextManager:
        return autocast(self._accelerator, self._config.run.mixed_precision)

    @property
    def _device(self) -> torch.device:
        """The weights' own: a move from cpu to cpu:0 would part FSDP from what it shared out."""
        return next(self._pair_model.parameters()).device

    @contextlib.contextmanager
    def _decoder_here(self) -> Iterator[None]:
        """Have the autoencoder on the device meanwhile; it decodes in its own number format."""
        vae = self._stock.vae
        home, decode = vae.device, vae.decode

        def decode_precisely(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
            with torch.autocast(self._device.type, enabled=False):
                return decode(latents.to(vae.dtype), *args, **kwargs)

        vae.to(self._device)
        vae.decode = decode_precisely
        try:
            yield
        finally:
            del vae.decode
            vae.to(home)
