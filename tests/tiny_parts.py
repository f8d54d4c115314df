"""What tiny pipelines are put together from: encoders, tokenizers, and weights that hide nothing.

No weight is near zero: a zero-initialised modulation or LoRA matrix would hide errors behind it.
"""

import string

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

SIZE_PX = 16
CLIP_LENGTH, T5_LENGTH = 12, 10


def big(model: nn.Module, *, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if weight.ndim > 1:
                fan_in = weight[0].numel()
                weight.copy_(noise * (0.25 if fan_in < 64 else 2.0 / fan_in**0.5))
            elif "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.05 * noise)
            else:
                weight.copy_(0.05 * noise)
    return model.eval()


def vae(seed: int, *, num_blocks: int = 2, channels: int = 4) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(4,) * num_blocks,
        down_block_types=("DownEncoderBlock2D",) * num_blocks,
        up_block_types=("UpDecoderBlock2D",) * num_blocks,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=SIZE_PX,
        shift_factor=0.1,
    )
    return big(vae, seed=seed)


def clip(seed: int, kind: type, *, width: int) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=len(clip_vocabulary()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return big(kind(config), seed=seed)


def t5(seed: int, *, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(t5_vocabulary()),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=1,
        num_heads=2,
    )
    return big(T5EncoderModel(config), seed=seed)


def gemma(seed: int) -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=len(t5_vocabulary()),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    return big(Gemma2Model(config), seed=seed)


def clip_vocabulary() -> dict[str, int]:
    pieces = ["<|startoftext|>", "<|endoftext|>"]
    for letter in string.ascii_lowercase + string.digits:
        pieces += [letter, f"{letter}</w>"]
    return {piece: index for index, piece in enumerate(pieces)}


def t5_vocabulary() -> list[tuple[str, float]]:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return [*special, *((letter, -3.0) for letter in string.ascii_lowercase)]


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=clip_vocabulary(), merges=[], model_max_length=CLIP_LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    return T5Tokenizer(vocab=t5_vocabulary(), extra_ids=0, model_max_length=T5_LENGTH)
