"""Stage 1: the autoencoder, 64 × 64 × 3 pixels to 16 × 16 × 4 latents and back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from chats.shapes.pretrain.config import PretrainConfig
from chats.shapes.pretrain.loop import Loop
from chats.shapes.pretrain.scenes import scene_chunks
from chats.shapes.world import IMAGE_SIZE_PX

LATENT_CHANNELS = 4
SCALING_FACTOR = 0.34
"""Unit-variance latents are scaled to this deviation: so small and flat a picture keeps its layout
and colours visible at very little signal, and SD's noise schedule must still reach that."""

_NUM_SCENES = 12_000
_KL_WEIGHT = 2e-5
_EDGE_WEIGHT = 5.0
_FIRST_LOG_VARIANCE = -6.0


def train_autoencoder(config: PretrainConfig) -> AutoencoderKL:
    """Train (or load the finished) autoencoder; latent channels have mean 0 and deviation 1."""
    folder = config.workdir / "vae"
    if (folder / "config.json").exists():
        return AutoencoderKL.from_pretrained(folder).eval()
    torch.manual_seed(config.seed)
    pixels = _pictures(config)
    vae = new_autoencoder()
    loop = Loop(
        name="autoencoder",
        workdir=config.workdir,
        modules={"vae": vae},
        rates={"vae": config.autoencoder_learning_rate},
        num_steps=config.autoencoder_steps,
        seed=config.seed,
        save_every=config.save_every,
        ema_decay=0.99,
    )

    def step(_: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(pixels), (config.autoencoder_batch,), generator=generator)
        target = to_tensor(pixels[rows.numpy()])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return _reconstruction_loss(decoded.float(), target) + _KL_WEIGHT * kl

    loop.run(step)
    vae.eval()
    fold_normalization(vae, to_tensor(pixels[:600]))
    vae.save_pretrained(folder)
    return vae


def new_autoencoder() -> AutoencoderKL:
    """The untrained autoencoder; its posterior starts narrow, or noise would drown the signal."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE_PX,
        scaling_factor=SCALING_FACTOR,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], _FIRST_LOG_VARIANCE)
    return vae.to(memory_format=torch.channels_last)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 `(N, H, W, 3)` to float `(N, 3, H, W)` in [−1, 1], channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def fold_normalization(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Give every latent channel mean 0 and deviation 1 without changing a decoded pixel.

    z' = (z − μ)/σ is linear per channel, so it folds exactly into `quant_conv`, and its inverse
    into `post_quant_conv`.
    """
    means = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(50)])
    mu, sigma = means.mean((0, 2, 3)), means.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mu)
    quant.weight[:channels] /= sigma.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mu) / sigma
    quant.bias[channels:] -= 2 * sigma.log()
    post.bias += post.weight[:, :, 0, 0] @ mu
    post.weight *= sigma.view(1, -1, 1, 1)


def _pictures(config: PretrainConfig) -> np.ndarray:
    chunks = scene_chunks(
        _NUM_SCENES,
        seed=config.seed + 1,
        caption_noise=0.0,
        blur_rate=config.blur_rate,
        num_processes=config.num_threads,
    )
    return np.concatenate([chunk.pictures for chunk in chunks])


def _reconstruction_loss(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error, weighted up around edges: they are what the eye checks."""
    across = (target[..., 1:] - target[..., :-1]).abs()
    down = (target[..., 1:, :] - target[..., :-1, :]).abs()
    edges = F.pad(across, (0, 1)) + F.pad(down, (0, 0, 0, 1))
    near_edge = F.max_pool2d(edges.sum(1, keepdim=True).clamp(max=1), 5, 1, 2)
    weight = 1 + _EDGE_WEIGHT * near_edge
    error = decoded - target
    return ((error.abs() + 0.5 * error**2) * weight).mean() / weight.mean()
