"""Settings of the Shapes pretraining, hours on two CPU cores."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chats.config import FrozenSettings


class PretrainConfig(FrozenSettings):
    """Every number that decides how the Shapes model comes out."""

    workdir: Path = Path("build/shapes")
    """Folder for training states and intermediate weights; a second start resumes from it."""
    output: Path = Path("build/shapes/weights")
    """Folder that receives the finished weights (float16 safetensors)."""
    seed: int = 7
    """Seed of scenes, initial weights and every random draw of the training."""
    num_threads: int = Field(2, ge=1)
    """CPU threads of torch and processes of the renderer."""
    num_scenes: int = Field(60_000, ge=200)
    """Captioned scenes that CLIP and the denoiser are trained on."""
    caption_noise: float = Field(0.12, ge=0, le=1)
    """Fraction of scenes whose caption gets one attribute wrong: what preferences can mend."""
    blur_rate: float = Field(0.12, ge=0, le=1)
    """Fraction of scenes that are blurred: the other thing preferences can mend."""
    autoencoder_steps: int = Field(1_200, ge=1)
    """Optimizer steps of the autoencoder."""
    autoencoder_batch: int = Field(24, ge=1)
    """Pictures per step of the autoencoder."""
    autoencoder_learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of the autoencoder."""
    clip_steps: int = Field(800, ge=1)
    """Optimizer steps of the contrastive text–picture training."""
    clip_batch: int = Field(128, ge=2)
    """Pictures per contrastive step; each brings one caption and one near miss."""
    clip_learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the contrastive training."""
    denoiser_steps: int = Field(8_000, ge=1)
    """Optimizer steps of denoiser and text encoder together."""
    denoiser_batch: int = Field(48, ge=1)
    """Latents per step of the denoiser."""
    denoiser_learning_rate: float = Field(1.2e-3, gt=0)
    """Peak learning rate of the denoiser; the text encoder learns at 0.3 of it."""
    prompt_drop: float = Field(0.1, ge=0, lt=1)
    """Fraction of captions replaced by the empty prompt, which teaches the null condition."""
    save_every: int = Field(250, ge=1)
    """Optimizer steps between two saved training states."""
