"""Pairs that are encoded batch by batch, while the training runs; nothing of them is kept.

Files are read and pictures decoded in threads, ahead of the loop; the encoders run in the loop's
own thread, on its device, between two forwards of the denoiser.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chats.denoising.families import family_of
from chats.errors import UserError
from training.config import DataSettings
from training.data.buckets import nearest_bucket
from training.data.encoded_pairs import EncodedPairs
from training.data.encoding import (
    Size,
    decoded,
    encode_moments,
    encode_prompts,
    picture_sizes,
    size_ids,
)
from training.data.pictures import size_px
from training.preferences import Picture, PreferencePair, source_name
from training.preferences.bad_rows import BadRows, RowFault

_MOST_THREADS = 8

logger = logging.getLogger(__name__)


class OnlineEncoder:
    """The model's own encoders, and the threads that decode pictures for them."""

    def __init__(self, pipeline: Any, settings: DataSettings, *, batch_size: int = 8):
        """Encode ∅, which every batch needs.

        Args:
            pipeline: A diffusers pipeline; its VAE and text encoders stay where they are.
            settings: How to encode.
            batch_size: Pictures, or prompts, encoded at once.
        """
        self.name = source_name(settings.path)
        self.null_prompt = settings.null_prompt
        self._pipeline = pipeline
        self._batch_size = batch_size
        self._on_bad_rows = settings.on_bad_rows
        self._null = encode_prompts([""], pipeline)
        if settings.null_prompt == "zeros":
            zeros = family_of(pipeline).conditions
            self._null |= {name: torch.zeros_like(self._null[name]) for name in zeros}
        self._threads = ThreadPoolExecutor(
            min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="decode"
        )
        self._reading = Lock()  # tables and archives are read by one thread at a time

    def latent_shape(self, size: Size) -> tuple[int, int, int]:
        """Return the shape `(C, h, w)` of the latents of a picture of a size."""
        factor = self._pipeline.vae_scale_factor
        width, height = size
        return self._pipeline.vae.config.latent_channels, height // factor, width // factor

    def decode(
        self, chosen: Sequence[tuple[Sequence[PreferencePair], int]], *, size: Size
    ) -> "DecodedPairs":
        """Read and decode the pictures of pairs.

        A pair whose pictures can't be read ends the training, or, where bad rows are skipped, the
        next of its list that can be read takes its place: what a batch holds so follows from the
        data.

        Args:
            chosen: Each a list of pairs, and which of it.
            size: Width and height that pictures get.

        Raises:
            UserError: A picture can't be read and bad rows are not skipped, or none can.
        """
        found = list(self._threads.map(lambda each: self._readable(*each, size), chosen))
        return DecodedPairs(
            encoder=self,
            size=size,
            prompts=tuple(pair.prompt for pair, _, _ in found),
            preferred=tuple(preferred for _, preferred, _ in found),
            dispreferred=tuple(dispreferred for _, _, dispreferred in found),
        )

    def encode(self, rows: "DecodedPairs") -> EncodedPairs:
        """Encode a batch; equal prompts in it are encoded once.

        Raises:
            UserError: The autoencoder gives numbers that are not finite.
        """
        moments = self._moments([*rows.preferred, *rows.dispreferred])
        prompts = list(dict.fromkeys(rows.prompts))
        text = encode_prompts(prompts, self._pipeline, batch_size=self._batch_size)
        config = self._pipeline.vae.config
        return EncodedPairs(
            preferred=moments[: len(rows.preferred)],
            dispreferred=moments[len(rows.preferred) :],
            prompt_rows=torch.tensor([1 + prompts.index(each) for each in rows.prompts]),
            conditions=self._with_null(text)
            | size_ids(rows.size, self._pipeline, num_rows=len(prompts) + 1),
            scaling_factor=config.scaling_factor,
            shift_factor=config.shift_factor or 0.0,
            null_prompt=self.null_prompt,
            name=self.name,
            size=rows.size,
        )

    def _moments(self, pictures: Sequence[np.ndarray]) -> Tensor:
        starts = range(0, len(pictures), self._batch_size)
        chunks = (pictures[start : start + self._batch_size] for start in starts)
        return torch.cat([encode_moments(chunk, self._pipeline.vae) for chunk in chunks])

    def _with_null(self, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([self._null[name], value]) for name, value in text.items()}

    def _readable(
        self, pairs: Sequence[PreferencePair], sample: int, size: Size
    ) -> tuple[PreferencePair, np.ndarray, np.ndarray]:
        bad_rows = BadRows()
        for step in range(len(pairs)):
            pair = pairs[(sample + step) % len(pairs)]
            try:
                return (
                    pair,
                    self._pixels(pair.preferred, size),
                    self._pixels(pair.dispreferred, size),
                )
            except RowFault as fault:
                bad_rows.add(pair.row, fault)
                bad_rows.settle(self._on_bad_rows, source=self.name)
                logger.warning("The next pair takes the place of row %d.", pair.row)
        raise UserError(f"{self.name} has no pair left whose pictures can be read.")

    def _pixels(self, picture: Picture, size: Size) -> np.ndarray:
        with self._reading:
            content = picture.read()
        return decoded(content, name=picture.name, size=size)


@dataclass(frozen=True, eq=False)
class DecodedPairs:
    """The pairs of one batch, with their pictures as pixels, uint8 `(H, W, 3)`."""

    encoder: OnlineEncoder
    size: Size
    prompts: tuple[str, ...]
    preferred: tuple[np.ndarray, ...]
    dispreferred: tuple[np.ndarray, ...]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape `(C, h, w)` of one picture's latents."""
        return self.encoder.latent_shape(self.size)

    def encode(self) -> EncodedPairs:
        """Encode the batch."""
        return self.encoder.encode(self)


@dataclass(frozen=True, eq=False)
class OnlinePairs:
    """Pairs of one size whose pictures and prompts are encoded when a batch asks for them."""

    pairs: Sequence[PreferencePair]
    encoder: OnlineEncoder
    size: Size

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.encoder.name

    @property
    def null_prompt(self) -> str:
        """What ∅ is."""
        return self.encoder.null_prompt

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape `(C, h, w)` of one picture's latents."""
        return self.encoder.latent_shape(self.size)

    def __len__(self) -> int:
        return len(self.pairs)

    def prompts(self) -> set[str]:
        """Return the different prompts."""
        return {pair.prompt for pair in self.pairs}

    def load(self, samples: Sequence[int]) -> DecodedPairs:
        """Read and decode the pictures of these pairs, see `OnlineEncoder.decode`."""
        return self.encoder.decode([(self.pairs, each) for each in samples], size=self.size)


def open_online(
    pairs: Sequence[PreferencePair], pipeline: Any, settings: DataSettings
) -> tuple[OnlinePairs, ...]:
    """Return pairs that are encoded in the loop: one set, or one for each bucket that comes up.

    For buckets the heads of the preferred pictures are read now; other faults of pictures show
    only when they are decoded.

    Raises:
        UserError: A size that the model can't have, or, for buckets, pictures that can't be read.
    """
    sizes = picture_sizes(settings, pipeline)
    in_size: dict[Size, list[PreferencePair]] = {size: [] for size in sizes}
    bad_rows = BadRows()
    for pair in pairs:
        try:
            in_size[_size_of(pair, sizes)].append(pair)
        except RowFault as fault:
            bad_rows.add(pair.row, fault)
    name = source_name(settings.path)
    bad_rows.settle(settings.on_bad_rows, source=name)
    num_left = sum(map(len, in_size.values()))
    if num_left < 2:
        raise UserError(f"{name} has {num_left} pairs left; a training needs at least 2.")
    encoder = OnlineEncoder(pipeline, settings)
    return tuple(
        OnlinePairs(tuple(in_bucket), encoder, size)
        for size, in_bucket in in_size.items()
        if in_bucket
    )


def _size_of(pair: PreferencePair, sizes: Sequence[Size]) -> Size:
    if len(sizes) == 1:
        return sizes[0]
    return nearest_bucket(size_px(pair.preferred.read(), name=pair.preferred.name), sizes)
