"""What an encoded picture or prompt is kept under: hashes of everything that decides it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.data.shards import ShardDtype, ShardStore, StoredRows

PREPARATION = 1
"""Version of how pictures are decoded, scaled and cut (`training.data.pictures`)."""


class Store(Protocol):
    """Encoded things by key, in memory or on the disk."""

    def __contains__(self, key: str) -> bool: ...

    def add(self, key: str, tensor: Tensor) -> None:
        """Add a tensor, within `filling`."""

    def filling(self) -> Any:
        """Return a context in which things are added."""

    def rows(self, keys: Sequence[str | None]) -> Tensor | StoredRows:
        """Return things as the rows of one tensor; none stands for a row of zeros."""


class MemoryStore:
    """A store that goes with the process."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def add(self, key: str, tensor: Tensor) -> None:
        """Add a tensor; floating-point numbers are kept as float32."""
        tensor = tensor.detach().cpu()
        self._tensors[key] = (tensor.float() if tensor.is_floating_point() else tensor).clone()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Return a context that does nothing: nobody shares this store."""
        yield

    def rows(self, keys: Sequence[str | None]) -> Tensor:
        """Return things as the rows of one tensor; none stands for a row of zeros."""
        zeros = torch.zeros_like(self._tensors[keys[-1]])
        return torch.stack([zeros if key is None else self._tensors[key] for key in keys])


def open_store(cache: Path | None, *, kind: str, encoder: str, dtype: ShardDtype) -> Store:
    """Return where the results of an encoder are kept.

    Args:
        cache: Root of all caches; none keeps them in memory.
        kind: What is kept, such as `latents`; part of the folder's name.
        encoder: The encoder's hash.
        dtype: Number format on the disk.
    """
    if cache is None:
        return MemoryStore()
    return ShardStore(cache / f"{kind}-{encoder[:16]}-{dtype}", dtype=dtype)


def picture_key(content: bytes, *, encoder: str, size: tuple[int, int]) -> str:
    """Return the key of a picture's latents.

    Args:
        content: The file's content.
        encoder: Hash of the VAE.
        size: Width and height to which the picture is scaled and cut, in pixels.
    """
    return _sha256(content, encoder, size, PREPARATION)


def prompt_key(prompt: str, *, encoder: str, name: str) -> str:
    """Return the key of one of a prompt's embeddings.

    Args:
        prompt: The prompt.
        encoder: Hash of the text encoders.
        name: The denoiser's argument that it is for.
    """
    return _sha256(prompt.encode("utf-8", "surrogatepass"), encoder, name)


def module_hash(module: nn.Module) -> str:
    """Hash what a model computes: its class, its configuration, its weights and their dtype."""
    digest = hashlib.sha256(f"{type(module).__name__}\n{_config(module)}\n".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def text_hash(pipeline: Any) -> str:
    """Hash what turns prompts into embeddings: a pipeline's text encoders and tokenizers."""
    parts = [type(pipeline).__name__]
    for name, part in sorted(pipeline.components.items()):
        if part is None:
            continue
        if name.startswith("text_encoder"):
            parts += [name, module_hash(part)]
        elif name.startswith("tokenizer"):
            vocabulary = sorted(part.get_vocab().items())
            parts += [name, type(part).__name__, part.model_max_length, _sha256(vocabulary)]
    return _sha256(*parts)


def _config(module: nn.Module) -> str:
    """Return a model's configuration without what says only where it came from."""
    config = module.config if isinstance(module.config, dict) else module.config.to_dict()
    kept = {name: value for name, value in config.items() if not name.startswith("_")}
    kept.pop("transformers_version", None)
    return json.dumps(kept, sort_keys=True, default=str)


def _sha256(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
