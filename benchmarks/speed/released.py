"""A straight re-creation of how the released script makes a training step, as the baseline.

Re-created from its published settings and from what it is known to do, without its code:

- the autoencoder and the text encoders run for every batch, in the number format of the forwards;
- they and the reference lie in main memory, and accelerate's `cpu_offload` moves their weights to
  the device layer by layer, whenever one is called;
- one forward of the preferred denoiser, one of the dispreferred, and one of the reference with the
  rows of both halves; gradient checkpointing of the trained ones;
- one pair in a forward, 16 forwards in a step, Adafactor, which clips the updates by itself;
- the same noise and timestep for both halves, one draw for a whole batch of whether the
  dispreferred prompt is dropped, to zeros; the loss is read after each forward.

Not re-created: its processes and DeepSpeed stage 0, whose second copies of weights and gradients
would take more memory and no less time, and xformers, in whose place torch's own attention runs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import cpu_offload
from torch import Tensor, nn

from benchmarks.speed.device import place
from benchmarks.speed.trained import OBJECTIVE, StepSettings, Trained
from benchmarks.speed.training_steps import StepBench
from benchmarks.speed.turns import Contestant, Turn
from chats.denoising.calls import call_denoiser, plain_encoding
from chats.denoising.families import denoiser_of, family_of
from chats.models.loading import load_model, resolve_model
from chats.objective import Prediction
from training.data.batches import Unfinished
from training.data.draws import PairBatch
from training.data.encoding import as_tensor, size_ids
from training.data.online_pairs import DecodedPairs

NAME = "released settings"
_BATCH_SIZE = 1


class Released:
    """The script's step, on the pairs and the device of a bench."""

    def __init__(self, bench: StepBench, settings: StepSettings, *, trained: Trained) -> None:
        """Load the frozen models once more, in their own number format, and offload them.

        Args:
            bench: Gives pairs, schedule and loss.
            settings: What is measured.
            trained: A full pair; its own reference is not used.
        """
        self.bench = bench
        self.trained = trained
        dtype = torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32
        folder = resolve_model(settings.base)
        pipeline = load_model(folder, device=torch.device("cpu"), dtype=dtype).pipeline
        pipeline.vae.disable_slicing()
        self.pipeline, self.dtype = pipeline, dtype
        self.family = family_of(pipeline)
        self.reference = denoiser_of(pipeline)
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
                setattr(pipeline, name, cpu_offload(part, execution_device=bench.device))

    def contestant(self, *, others: Sequence[nn.Module], clear: Callable) -> Contestant:
        """Return it; see `StepBench.contestant`."""
        trained, bench = self.trained, self.bench
        needed = [trained.model.denoisers[role] for role in OBJECTIVE.trained]

        def ready() -> None:
            clear()
            place(needed, others, bench.device)
            trained.move_optimizer(bench.device)
            trained.checkpoint(True)

        def prepare() -> dict[str, float]:
            ready()
            batch = next(self._batches())
            work = partial(self._backward, batch)
            return {"forwards": bench.forwards(work)}

        def take() -> Turn:
            ready()
            turn = trained.turn(
                self._batches(), self._loss, batch_size=_BATCH_SIZE, is_clipped=False
            )
            trained.let_go()
            return turn

        return Contestant(NAME, prepare, take, trained.let_go)

    def _backward(self, batch: Unfinished) -> None:
        self._loss(batch()).backward()
        self.trained.let_go()

    def _loss(self, batch: PairBatch) -> Tensor:
        loss = self.bench.terms(batch, self._predict).loss.mean()
        loss.item()
        return loss

    def _predict(
        self, latents: Any, timesteps: Tensor, conditions: Any, *, with_reference: bool
    ) -> dict[Prediction, Tensor]:
        call = partial(call_denoiser, family=self.family)
        learning = [each.prediction for each in OBJECTIVE.errors]
        fixed = [each for each in OBJECTIVE.predictions if each.model == "reference"]
        arguments = [conditions[each.condition] for each in fixed]
        with self.trained.autocast():
            outputs = {
                each: call(
                    self.trained.model.denoisers[each.model],
                    latents[each.half],
                    timesteps,
                    conditions[each.condition],
                )
                for each in learning
            }
            both = call(
                self.reference,
                torch.cat([latents[each.half] for each in fixed]),
                timesteps.repeat(len(fixed)),
                {name: torch.cat([each[name] for each in arguments]) for name in arguments[0]},
            )
        outputs |= dict(zip(fixed, both.detach().chunk(len(fixed)), strict=True))
        return {prediction: each.float() for prediction, each in outputs.items()}

    def _batches(self) -> Iterator[Unfinished]:
        """Read and decode pairs in the loader's threads; what they return encodes them."""
        for number in itertools.count():
            places = range(number * _BATCH_SIZE, (number + 1) * _BATCH_SIZE)
            online = self.bench.online
            yield partial(self._encode, online.load([place % len(online) for place in places]))

    @torch.no_grad()
    def _encode(self, pairs: DecodedPairs) -> PairBatch:
        device, config = self.bench.device, self.pipeline.vae.config
        pictures = torch.stack(
            [as_tensor(each) for each in (*pairs.preferred, *pairs.dispreferred)]
        )
        posterior = self.pipeline.vae.encode(pictures.to(device, self.dtype)).latent_dist
        latents = (posterior.sample() - (config.shift_factor or 0.0)) * config.scaling_factor
        preferred, dispreferred = latents.float().chunk(2)
        num_pairs = len(pairs.prompts)
        conditions = self._conditions(pairs)
        dropped = dict(conditions)
        if random.random() < 0.5:
            dropped |= {name: torch.zeros_like(conditions[name]) for name in self.family.conditions}
        return PairBatch(
            latents={"preferred": preferred, "dispreferred": dispreferred},
            noise=torch.randn_like(preferred),
            levels=torch.randint(len(self.bench.schedule), (num_pairs,), device=device),
            conditions={"prompt": conditions, "dropped": dropped},
        )

    def _conditions(self, pairs: DecodedPairs) -> dict[str, Tensor]:
        encode, device = self.pipeline.encode_prompt, self.bench.device
        encoded = encode(
            prompt=list(pairs.prompts),
            device=device,
            **plain_encoding(encode),
            **self.family.encode_arguments,
        )
        places = {**self.family.conditions, **self.family.masks}
        ids = size_ids(pairs.size, self.pipeline, num_rows=len(pairs.prompts))
        return {name: encoded[place] for name, place in places.items()} | {
            name: value.to(device) for name, value in ids.items()
        }
