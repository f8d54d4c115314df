"""Aspect-ratio buckets: pictures keep about their shape, a batch holds one shape; no torch.

A bucket's pairs are a stream of shuffled epochs of their own, cut into full batches; a batch is
drawn by `training.data.draws.draw_batch` from the bucket's pairs, at the positions and with the
seed that are told here. Which bucket the n-th batch of a training comes from, and where in that
bucket's stream it lies, is a pure function of n, the seed and the buckets' sizes: nothing is
counted on the way, so a training that was killed and resumed, or split over processes, sees the
same batches. What does not fill a batch at the end of an epoch waits for the next one: no pair is
left out or doubled, and a bucket smaller than a batch comes up in some epochs only.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SIDE_STEP_PX = 64
_SMALL_MODEL_PX = 512
_MAX_ASPECT = 4.0
_ORDER, _BUCKET = 2, 3
"""First numbers of this module's counters, beside those of `training.data.draws`."""


@dataclass(frozen=True)
class BucketBatch:
    """Where a batch comes from.

    Attributes:
        bucket: Number of the bucket.
        positions: Places in that bucket's endless stream of shuffled epochs.
    """

    bucket: int
    positions: range


def bucket_sizes(resolution: int, *, factor: int) -> tuple[tuple[int, int], ...]:
    """Return the widths and heights of all buckets, in pixels, from tall to wide.

    Sides are multiples of 64, for models below 512 px of the model's own factor; no side is more
    than four times the other; areas are at most resolution² and fall short of it by less than one
    step of the longer side.

    Args:
        resolution: Side of the square bucket.
        factor: By which the model's latents are smaller than its pictures.
    """
    step = math.lcm(SIDE_STEP_PX, factor) if resolution >= _SMALL_MODEL_PX else factor
    tall = []
    for width in range(step, resolution + 1, step):
        height = resolution**2 // width // step * step
        if height <= _MAX_ASPECT * width:
            tall.append((width, height))
    wide = [(height, width) for width, height in reversed(tall) if width != height]
    return (*tall, *wide)


def nearest_bucket(size: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the bucket whose aspect is nearest to a picture's; of equals the first.

    Args:
        size: Width and height of the picture.
        buckets: What `bucket_sizes` returned.
    """
    aspect = math.log(size[0] / size[1])
    return min(buckets, key=lambda bucket: abs(math.log(bucket[0] / bucket[1]) - aspect))


@lru_cache(maxsize=2)
def bucketed_order(
    epoch: int, *, sizes: tuple[int, ...], batch_size: int, seed: int
) -> tuple[BucketBatch, ...]:
    """Return the batches of an epoch, those of all buckets shuffled together.

    After e epochs a bucket of n pairs has given ⌊e·n / batch_size⌋ batches. The last orders are
    kept, because every batch of an epoch asks for it.

    Args:
        epoch: Counts from 0.
        sizes: Number of pairs in each bucket.
        batch_size: Pairs in a batch.
        seed: The run's seed.
    """
    batches = [
        BucketBatch(bucket, range(number * batch_size, (number + 1) * batch_size))
        for bucket, size in enumerate(sizes)
        for number in range(epoch * size // batch_size, (epoch + 1) * size // batch_size)
    ]
    order = _generator(seed, _ORDER, epoch).permutation(len(batches))
    return tuple(batches[place] for place in order)


def bucketed_batch(
    batch: int, *, sizes: tuple[int, ...], batch_size: int, seed: int
) -> BucketBatch:
    """Return the n-th batch of the endless stream of epochs; n counts from 0."""

    def num_before(epoch: int) -> int:
        return sum(epoch * size // batch_size for size in sizes)

    # Each epoch but for the rounding has sum(sizes) / batch_size batches.
    last = ((batch + 1 + len(sizes)) * batch_size) // sum(sizes) + 1
    epoch = bisect_right(range(last + 1), batch, key=num_before) - 1
    order = bucketed_order(epoch, sizes=sizes, batch_size=batch_size, seed=seed)
    return order[batch - num_before(epoch)]


def bucket_seed(seed: int, size: tuple[int, int]) -> int:
    """Return the seed of a bucket's draws, so that buckets do not share their noise."""
    return int(np.random.SeedSequence((seed, _BUCKET, *size)).generate_state(1)[0])


def _generator(*counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(counter)))
