"""Pictures and prompts through the model's own encoders, each once, into a store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from chats.denoising.calls import plain_encoding
from chats.denoising.families import family_of
from chats.errors import UserError
from training.config import DataSettings
from training.data.buckets import nearest_bucket
from training.data.cache import Store, module_hash, open_store, picture_key, prompt_key, text_hash
from training.data.pictures import decode, fit, size_px
from training.data.shards import StoredRows
from training.preferences import Picture, PreferencePair, source_name
from training.preferences.bad_rows import BadRows, RowFault

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class PlacedPair:
    """A pair, its size, and the keys of its latents."""

    pair: PreferencePair
    size: Size
    preferred: str
    dispreferred: str


def encode_pictures(
    pairs: Sequence[PreferencePair],
    vae: Any,
    settings: DataSettings,
    *,
    sizes: Sequence[Size],
    batch_size: int,
) -> tuple[list[PlacedPair], Store]:
    """Return the pairs whose pictures can be read, and where their latents are."""
    encoder = module_hash(vae) if settings.cache else ""
    store = open_store(settings.cache, kind="latents", encoder=encoder, dtype=settings.cache_dtype)
    bad_rows, placed = BadRows(), []
    waiting: dict[Size, dict[str, np.ndarray]] = {size: {} for size in sizes}
    with store.filling():
        for pair in tqdm(pairs, desc="Encoding pictures", unit="pair", leave=False):
            try:
                place, contents = _place(pair, sizes=sizes, encoder=encoder)
                queue = waiting[place.size]
                missing = {
                    key: _pixels(content, picture, place.size)
                    for key, (content, picture) in contents.items()
                    if key not in store and key not in queue
                }
            except RowFault as fault:
                bad_rows.add(pair.row, fault)
                continue
            placed.append(place)
            if bad_rows and settings.on_bad_rows == "stop":
                continue  # only the report goes on
            queue |= missing
            while len(queue) >= batch_size:
                _encode_waiting(queue, vae, store, num_pictures=batch_size)
        for queue in waiting.values():
            _encode_waiting(queue, vae, store, num_pictures=len(queue))
    name = source_name(settings.path)
    bad_rows.settle(settings.on_bad_rows, source=name)
    if len(placed) < 2:
        raise UserError(f"{name} has {len(placed)} pairs left; a training needs at least 2.")
    return placed, store


def encode_conditions(
    prompts: Sequence[str], pipeline: Any, settings: DataSettings, *, batch_size: int
) -> dict[str, Tensor | StoredRows]:
    """Return ∅ and the prompts as the denoiser's arguments, each `(1 + len(prompts), ...)`."""
    family = family_of(pipeline)
    names = [*family.conditions, *family.masks]
    encoder = text_hash(pipeline) if settings.cache else ""
    store = open_store(settings.cache, kind="prompts", encoder=encoder, dtype=settings.cache_dtype)
    keys = {
        prompt: {name: prompt_key(prompt, encoder=encoder, name=name) for name in names}
        for prompt in ("", *prompts)
    }
    with store.filling():
        missing = [
            prompt for prompt in keys if any(key not in store for key in keys[prompt].values())
        ]
        for chunk in tqdm(list(_chunks(missing, batch_size)), desc="Encoding prompts", leave=False):
            encoded = encode_prompts(chunk, pipeline, batch_size=batch_size)
            for row, prompt in enumerate(chunk):
                for name in names:
                    store.add(keys[prompt][name], encoded[name][row])
    zeros = family.conditions if settings.null_prompt == "zeros" else ()
    return {
        name: store.rows(
            [
                None if name in zeros else keys[""][name],
                *(keys[prompt][name] for prompt in prompts),
            ]
        )
        for name in names
    }


def size_ids(size: Size, pipeline: Any, *, num_rows: int) -> dict[str, Tensor]:
    """Return the argument that tells the denoiser a picture's size, if its family has one.

    (height, width, top, left, height, width), as of an original of that size without a crop.
    """
    name = family_of(pipeline).size_ids
    if name is None:
        return {}
    width, height = size
    ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
    return {name: ids.expand(num_rows, -1)}


@torch.no_grad()
def encode_prompts(
    prompts: Sequence[str], pipeline: Any, *, batch_size: int = 8
) -> dict[str, Tensor]:
    """Encode prompts into the denoiser's arguments, each `(len(prompts), ...)`, in main memory."""
    family = family_of(pipeline)
    places = {**family.conditions, **family.masks}
    chunks = [
        pipeline.encode_prompt(
            prompt=list(chunk),
            device=pipeline.text_encoder.device,
            **plain_encoding(pipeline.encode_prompt),
            **family.encode_arguments,
        )
        for chunk in _chunks(prompts, batch_size)
    ]
    return {
        name: torch.cat([encoded[place].cpu() for encoded in chunks])
        for name, place in places.items()
    }


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Return uint8 pixels `(H, W, 3)` as the VAE reads them, `(3, H, W)` in [−1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1


def _place(
    pair: PreferencePair, *, sizes: Sequence[Size], encoder: str
) -> tuple[PlacedPair, dict[str, tuple[bytes, Picture]]]:
    """Choose a pair's size, the one nearest to the preferred picture's shape; read its files."""
    preferred, dispreferred = pair.preferred.read(), pair.dispreferred.read()
    size = sizes[0]
    if len(sizes) > 1:
        size = nearest_bucket(size_px(preferred, name=pair.preferred.name), sizes)
    keys = [
        picture_key(content, encoder=encoder, size=size) for content in (preferred, dispreferred)
    ]
    contents = {keys[0]: (preferred, pair.preferred), keys[1]: (dispreferred, pair.dispreferred)}
    return PlacedPair(pair, size, *keys), contents


def _pixels(content: bytes, picture: Picture, size: Size) -> np.ndarray:
    width, height = size
    return fit(decode(content, name=picture.name), width=width, height=height)


@torch.no_grad()
def _encode_waiting(
    queue: dict[str, np.ndarray], vae: Any, store: Store, *, num_pictures: int
) -> None:
    """Encode the first pictures of a queue, and take them out of it."""
    keys = list(queue)[:num_pictures]
    if not keys:
        return
    pixels = torch.stack([as_tensor(queue.pop(key)) for key in keys])
    posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    moments = torch.cat([posterior.mean, posterior.logvar], dim=1).float().cpu()
    if not moments.isfinite().all():
        raise UserError(
            f"The model's autoencoder gives numbers that are not finite in {vae.dtype}. Run it "
            "in float32, or take a model whose autoencoder is mended for 16 bits."
        )
    for key, moment in zip(keys, moments, strict=True):
        store.add(key, moment)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
