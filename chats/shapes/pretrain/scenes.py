"""The scenes the Shapes model learns from: richer and noisier than the test prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pool

import numpy as np

from chats.shapes.world import (
    COLORS,
    Spec,
    caption,
    place,
    render,
    sample_spec,
    violate,
)

CHUNK_SIZE = 200
_CATEGORY_WEIGHTS = {
    "single_object": 1.0,
    "two_object": 1.5,
    "counting": 2.0,
    "colors": 1.0,
    "position": 2.5,
    "color_attribution": 2.0,
}
_COLORED_RATE = 0.6
_BACKGROUND_RATE = 0.6
_BLUR = (1.0, 2.2)


@dataclass(frozen=True)
class SceneChunk:
    """`CHUNK_SIZE` scenes: uint8 pictures `(N, 64, 64, 3)`, and three captions of each.

    Two captions are wordings of what the scene is said to show, the third a near miss.
    """

    pictures: np.ndarray
    captions: list[tuple[str, str, str]]


def training_spec(rng: random.Random) -> Spec:
    """A promise that names colours and background more often than the test prompts do."""
    categories, weights = zip(*_CATEGORY_WEIGHTS.items(), strict=True)
    category = rng.choices(categories, weights)[0]
    spec = sample_spec(rng, category, background_rate=_BACKGROUND_RATE)
    if rng.random() >= _COLORED_RATE:
        return spec
    if category == "counting":
        colors = [rng.choice(tuple(COLORS))] * len(spec.objects)
    else:
        colors = rng.sample(tuple(COLORS), len(spec.objects))
    objects = tuple(
        replace(item, color=item.color or color)
        for item, color in zip(spec.objects, colors, strict=True)
    )
    return replace(spec, objects=objects)


def scene_chunk(index: int, *, seed: int, caption_noise: float, blur_rate: float) -> SceneChunk:
    """Render chunk number `index`; the same arguments always give the same chunk."""
    rng = random.Random(f"shapes-{seed}-{index}")
    pictures, captions = [], []
    for _ in range(CHUNK_SIZE):
        spec = training_spec(rng)
        blur = rng.uniform(*_BLUR) if rng.random() < blur_rate else 0.0
        pictures.append(render(place(spec, rng, blur=blur)))
        said = violate(spec, rng) if rng.random() < caption_noise else spec
        near_miss = violate(said, rng)
        captions.append((caption(said, rng), caption(said, rng), caption(near_miss, rng)))
    return SceneChunk(np.stack(pictures), captions)


def scene_chunks(
    num_scenes: int, *, seed: int, caption_noise: float, blur_rate: float, num_processes: int
) -> Iterator[SceneChunk]:
    """Render `num_scenes` (rounded up to whole chunks) in parallel, in order."""
    make = partial(scene_chunk, seed=seed, caption_noise=caption_noise, blur_rate=blur_rate)
    with Pool(num_processes) as pool:
        yield from pool.imap(make, range(-(-num_scenes // CHUNK_SIZE)))
