"""Counter-based randomness: every draw is a pure function of (seed, epoch, sample).

No global generator is read or moved, so a training that was killed and resumed, split over
processes, or cut into smaller batches draws exactly what an undisturbed one would have drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from chats.objective import Condition, Half, Prediction
from training.data.encoded_pairs import EncodedPairs

_ORDER, _SAMPLE, _BLOCK = 0, 1, 4
"""First numbers of the counters, beside those of `training.data.buckets`."""


@dataclass(frozen=True)
class PairBatch:
    """What one forward trains on; B pairs.

    Attributes:
        latents: x₀ of each half, scaled as the denoiser expects, `(B, C, h, w)`.
        noise: ε, the same for both halves, `(B, C, h, w)`.
        levels: Rows of the noise schedule, the same for both halves, int `(B,)`.
        conditions: For `prompt` (c) and `dropped` (c′) the denoiser's arguments, each `(B, ...)`.
        reference_errors: e of the reference's predictions, `(B,)`; none if they are still to be
            computed.
    """

    latents: Mapping[Half, Tensor]
    noise: Tensor
    levels: Tensor
    conditions: Mapping[Condition, Mapping[str, Tensor]]
    reference_errors: Mapping[Prediction, Tensor] | None = None

    def to(self, device: torch.device) -> "PairBatch":
        """Return the batch on a device."""
        return PairBatch(
            latents={half: latents.to(device) for half, latents in self.latents.items()},
            noise=self.noise.to(device),
            levels=self.levels.to(device),
            conditions={
                condition: {name: value.to(device) for name, value in arguments.items()}
                for condition, arguments in self.conditions.items()
            },
            reference_errors=self.reference_errors
            and {each: errors.to(device) for each, errors in self.reference_errors.items()},
        )


@dataclass(frozen=True)
class SampleDraw:
    """Everything random about one pair in one epoch."""

    level_uniform: float
    noise: np.ndarray
    posterior_noise: Mapping[Half, np.ndarray]
    prompt_uniform: float
    dropped_uniform: float


def samples_at(
    positions: Sequence[int], *, num_samples: int, seed: int
) -> tuple[tuple[int, int], ...]:
    """Return (epoch, sample) of positions in the endless stream of shuffled epochs."""
    places = [divmod(position, num_samples) for position in positions]
    return tuple((epoch, int(_order(seed, epoch, num_samples)[place])) for epoch, place in places)


def block_order(*, seed: int, process_index: int, epoch: int, block: int, size: int) -> np.ndarray:
    """Return the order in which a block of a process's stream is trained on, `(size,)`."""
    return _generator(seed, _BLOCK, process_index, epoch, block).permutation(size)


def draw_sample(*, seed: int, epoch: int, sample: int, latent_shape: tuple[int, ...]) -> SampleDraw:
    """Draw noise, posterior noise, and uniform numbers for level and dropped prompts of a pair."""
    generator = _generator(seed, _SAMPLE, epoch, sample)
    level_uniform, prompt_uniform, dropped_uniform = generator.random(3)
    noise, preferred, dispreferred = generator.standard_normal((3, *latent_shape), dtype=np.float32)
    return SampleDraw(
        level_uniform=level_uniform,
        noise=noise,
        posterior_noise={"preferred": preferred, "dispreferred": dispreferred},
        prompt_uniform=prompt_uniform,
        dropped_uniform=dropped_uniform,
    )


def draw_batch(
    dataset: EncodedPairs,
    positions: Sequence[int],
    *,
    seed: int,
    level_at: Callable[[float], int],
    prompt_drop: float,
    dispreferred_prompt_drop: float,
) -> PairBatch:
    """Draw the batch at these positions of the stream.

    Args:
        dataset: The pairs, `EncodedPairs` or `OnlinePairs`.
        positions: Places in the endless stream of shuffled epochs.
        seed: The run's seed.
        level_at: Gives the row of the noise schedule for a uniform number in [0, 1).
        prompt_drop: Share of samples whose c is ∅.
        dispreferred_prompt_drop: Share of samples whose c′ is ∅.
    """
    counters = samples_at(positions, num_samples=len(dataset), seed=seed)
    return batch_of(
        dataset.load([sample for _, sample in counters]).encode(),
        draw_samples(counters, seed=seed, latent_shape=dataset.latent_shape),
        level_at=level_at,
        prompt_drop=prompt_drop,
        dispreferred_prompt_drop=dispreferred_prompt_drop,
    )


def draw_samples(
    counters: Sequence[tuple[int, int]], *, seed: int, latent_shape: tuple[int, ...]
) -> list[SampleDraw]:
    """Draw what is random about these (epoch, sample)."""
    return [
        draw_sample(seed=seed, epoch=epoch, sample=sample, latent_shape=latent_shape)
        for epoch, sample in counters
    ]


def batch_of(
    rows: EncodedPairs,
    draws: Sequence[SampleDraw],
    *,
    level_at: Callable[[float], int],
    prompt_drop: float,
    dispreferred_prompt_drop: float,
) -> PairBatch:
    """Make a batch of pairs, each with its own draw; see `draw_batch`."""
    keep_prompt = torch.tensor([draw.prompt_uniform >= prompt_drop for draw in draws])
    keep_dropped = torch.tensor(
        [draw.dropped_uniform >= dispreferred_prompt_drop for draw in draws]
    )
    return PairBatch(
        latents={
            half: _sample_latents(moments, [draw.posterior_noise[half] for draw in draws], rows)
            for half, moments in (
                ("preferred", rows.preferred),
                ("dispreferred", rows.dispreferred),
            )
        },
        noise=torch.from_numpy(np.stack([draw.noise for draw in draws])),
        levels=torch.tensor([level_at(draw.level_uniform) for draw in draws]),
        conditions={
            "prompt": _select(rows.conditions, rows.prompt_rows * keep_prompt),
            "dropped": _select(rows.conditions, rows.prompt_rows * keep_dropped),
        },
    )


def _sample_latents(moments: Tensor, noise: Sequence[np.ndarray], rows: EncodedPairs) -> Tensor:
    mean, log_variance = moments.chunk(2, dim=1)
    sample = mean + (0.5 * log_variance).exp() * torch.from_numpy(np.stack(noise))
    return (sample - rows.shift_factor) * rows.scaling_factor


def _select(conditions: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: condition[rows] for name, condition in conditions.items()}


@lru_cache(maxsize=16)
def _order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """Return an epoch's order; it is kept because every batch of the epoch asks for it."""
    return _generator(seed, _ORDER, epoch).permutation(num_samples)


def _generator(*counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(counter)))
