"""Stage 4: the denoiser, with the text encoder learning along."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from chats.shapes.clip import TEXT_WIDTH
from chats.shapes.pretrain.autoencoder import LATENT_CHANNELS, SCALING_FACTOR
from chats.shapes.pretrain.config import PretrainConfig
from chats.shapes.pretrain.latents import EncodedScenes, tokenize
from chats.shapes.pretrain.loop import Loop

_TEXT_RATE = 0.3


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, trained on v (Salimans & Ho 2022), sampled trailing."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def new_denoiser() -> UNet2DConditionModel:
    """The untrained UNet, 5.6M parameters."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def _noise_weights(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Weight of the v error at each timestep, `(T,)`.

    The squared error of v is that of x₀ over σ². Of x₀'s, relative to its variance, each timestep
    counts min(SNR, 1) + 0.03 (the min-SNR of Hang et al. 2023 with a floor): a half-trained model
    then has about the same loss everywhere. Weights that follow the variance of v let the very
    noisy steps, whose error is mostly irreducible, drown those that form the shapes.
    """
    snr = SCALING_FACTOR**2 * alphas_cumprod / (1 - alphas_cumprod)
    return 4 * (1 - alphas_cumprod) * (snr.clamp(max=1) + 0.03) / SCALING_FACTOR**2


def train_denoiser(
    text_encoder: CLIPTextModel, scenes: EncodedScenes, config: PretrainConfig
) -> UNet2DConditionModel:
    """Train the UNet and, slowly, the text encoder; both end with their moving averages."""
    torch.manual_seed(config.seed)
    unet = new_denoiser()
    unet.train()
    text_encoder.train()
    loop = Loop(
        name="denoiser",
        workdir=config.workdir,
        modules={"unet": unet, "text_encoder": text_encoder},
        rates={
            "unet": config.denoiser_learning_rate,
            "text_encoder": config.denoiser_learning_rate * _TEXT_RATE,
        },
        num_steps=config.denoiser_steps,
        seed=config.seed,
        save_every=config.save_every,
        ema_decay=0.999,
    )
    alphas = new_scheduler().alphas_cumprod
    weights = _noise_weights(alphas)
    null_ids = tokenize(scenes.tokenizer, [""])[0]

    def step(_: int, generator: torch.Generator) -> torch.Tensor:
        size = config.denoiser_batch
        rows = torch.randint(len(scenes.latents), (size,), generator=generator)
        wording = torch.randint(2, (size,), generator=generator)
        ids = scenes.token_ids[rows, wording]
        ids[torch.rand(size, generator=generator) < config.prompt_drop] = null_ids
        latents = scenes.latents[rows].float()
        timesteps = torch.randint(len(alphas), (size,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        signal = alphas[timesteps].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
        noisy = (signal * latents + sigma * noise).contiguous(memory_format=torch.channels_last)
        target = signal * noise - sigma * latents
        with torch.autocast("cpu", torch.bfloat16):
            states = text_encoder(ids)[0]
            prediction = unet(noisy, timesteps, encoder_hidden_states=states).sample
        error = (prediction.float() - target).square().mean((1, 2, 3))
        return (error * weights[timesteps]).mean()

    loop.run(step)
    return unet.eval()
