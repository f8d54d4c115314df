"""What a training holds in memory, found without any weights.

The models are built on torch's meta device, where a tensor has a shape and no content, and one
forward is followed there: what autograd keeps of it for the backward is counted, not guessed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from chats.denoising.families import FAMILIES, require_trainable
from chats.denoising.family import Family
from chats.denoising.sizes import default_side, latent_channels
from chats.errors import UserError
from chats.objective import OBJECTIVES
from chats.pairs.weight_files import read_json
from training.config import TrainingConfig
from training.loop.engine import num_gathered
from training.loop.pair_model import PairModel
from training.planning.activations import counting
from training.planning.estimate import Shape


@dataclass(frozen=True)
class Footprint:
    """What a training's models hold.

    Attributes:
        trained: Shapes of the parameters that are trained.
        num_frozen: Parameters that are not.
        activation_bytes: What one forward of a whole batch keeps for its backward, in one process.
        num_gathered: Weights and gradients that are whole at a time where FSDP shares them out.
    """

    trained: tuple[Shape, ...]
    num_frozen: int
    activation_bytes: int
    num_gathered: int

    @property
    def num_trained(self) -> int:
        """How many numbers are trained."""
        return sum(math.prod(shape) for shape in self.trained)


def footprint(config: TrainingConfig, folder: Path) -> Footprint:
    """Follow one forward of a training on the meta device.

    Args:
        config: The training's settings.
        folder: The base model's; only its small files are read.

    Raises:
        UserError: The model's family can't be trained, or its configuration is damaged.
    """
    family = _family(folder)
    require_trainable(family)
    denoiser = meta_denoiser(folder, family)
    model = PairModel(
        denoiser,
        objective=OBJECTIVES[config.objective.name],
        settings=config.model,
        family=family,
        seed=config.run.seed,
    ).to("meta")  # adapters are made with content
    side = _latent_side(config, folder, default=default_side(denoiser.config, family))
    num_rows = config.optimizer.batch_size
    with torch.device("meta"):
        channels = latent_channels(denoiser.config, family)
        latents = torch.empty(num_rows, channels, side, side)
        timesteps = torch.empty(num_rows)
        conditions = {
            name: torch.empty(num_rows, *shape)
            for name, shape in condition_shapes(denoiser.config, family).items()
        }
    with counting(model, config) as kept:
        model(
            {"preferred": latents, "dispreferred": latents},
            timesteps,
            {"prompt": conditions, "dropped": conditions},
        )
    model.end_step()
    return Footprint(
        trained=tuple(tuple(each.shape) for each in model.trained_parameters()),
        num_frozen=sum(each.numel() for each in model.parameters() if not each.requires_grad),
        activation_bytes=kept.num_bytes,
        num_gathered=num_gathered(model),
    )


def meta_denoiser(folder: Path, family: Family) -> nn.Module:
    """Build a model's denoiser from its configuration, without weights."""
    config = read_json(folder / family.denoiser / "config.json")
    kind = getattr(diffusers, family.denoiser_class)
    try:
        with torch.device("meta"):
            return kind.from_config(config).to("meta")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"The {family.denoiser} of {folder.name} can't be built from its config.json: {error}"
        ) from error


def condition_shapes(config: Any, family: Family) -> Mapping[str, Shape]:
    """Return the shapes of the denoiser's text arguments for one prompt.

    Args:
        config: The denoiser's.
        family: Names the arguments.
    """
    return _CONDITION_SHAPES[family.name](config)


# As many tokens as the pipelines of these families make by default.
_CONDITION_SHAPES: Mapping[str, Callable[[Any], Mapping[str, Shape]]] = {
    "sd15": lambda config: {"encoder_hidden_states": (77, config.cross_attention_dim)},
    "sdxl": lambda config: {
        "encoder_hidden_states": (77, config.cross_attention_dim),
        "added_cond_kwargs.text_embeds": (
            config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim,
        ),
        "added_cond_kwargs.time_ids": (6,),
    },
    "sd3": lambda config: {
        "encoder_hidden_states": (77 + 256, config.joint_attention_dim),
        "pooled_projections": (config.pooled_projection_dim,),
    },
    "flux": lambda config: {
        "encoder_hidden_states": (512, config.joint_attention_dim),
        "pooled_projections": (config.pooled_projection_dim,),
    },
    "pixart": lambda config: {
        "encoder_hidden_states": (300, config.caption_channels),
        "encoder_attention_mask": (300,),
    },
}


def _family(folder: Path) -> Family:
    name = read_json(folder / "model_index.json").get("_class_name")
    for family in FAMILIES:
        if name in family.pipelines:
            return family
    raise UserError(f"{folder.name} is a {name}, which is of no family that can be trained.")


def _latent_side(config: TrainingConfig, folder: Path, *, default: int) -> int:
    if config.data.resolution is None:
        return default
    num_blocks = len(read_json(folder / "vae" / "config.json")["block_out_channels"])
    return config.data.resolution // 2 ** (num_blocks - 1)
