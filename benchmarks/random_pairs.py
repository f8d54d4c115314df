"""Pairs of the right shapes with random weights: speed does not depend on what they learned."""

from __future__ import annotations

import copy

import torch
from diffusers import DiffusionPipeline

from chats.denoising.adapter_rows import add_pair_adapters, lora_layers
from chats.denoising.families import denoiser_of, family_of
from chats.pairs.pair import Pair, PairMetadata, pair_from_adapters

_RANK = 16


def random_lora_pair(pipeline: DiffusionPipeline) -> Pair:
    """Two LoRA adapters of rank 16 on the family's target layers, both away from zero."""
    family = family_of(pipeline)
    denoiser = copy.deepcopy(denoiser_of(pipeline))
    targets = family.lora_targets
    add_pair_adapters(denoiser, rank=_RANK, alpha=_RANK, targets=targets)
    for layer in lora_layers(denoiser):
        for module in layer.lora_B.values():
            torch.nn.init.normal_(module.weight, std=0.01)
    metadata = PairMetadata(
        kind="lora",
        base="random",
        family=family.name,
        rank=_RANK,
        lora_alpha=_RANK,
        target_modules=targets,
    )
    return pair_from_adapters(denoiser, metadata)


def random_full_pair(pipeline: DiffusionPipeline) -> Pair:
    """Two copies of the pipeline's denoiser: for speed any weights will do."""
    metadata = PairMetadata(kind="full", base="random", family=family_of(pipeline).name)
    preferred, dispreferred = (copy.deepcopy(denoiser_of(pipeline)) for _ in range(2))
    return Pair(metadata, preferred, dispreferred)
