"""What a training made, as a pair that says how it was made."""

import accelerate
import diffusers
import peft
import torch
import transformers

from chats.denoising.family import Family
from chats.pairs.pair import Pair, PairMetadata
from training.config import TrainingConfig
from training.data.encoded_pairs import EncodedPairs
from training.loop.pair_model import PairModel


def trained_pair(
    pair_model: PairModel, *, config: TrainingConfig, dataset: EncodedPairs, family: Family
) -> Pair:
    """Return the trained halves with their provenance; untrained roles are absent."""
    metadata = pair_metadata(config, dataset=dataset, family=family)
    return Pair(metadata, **{role: pair_model.trained_half(role) for role in pair_model.trained})


def pair_metadata(config: TrainingConfig, *, dataset: EncodedPairs, family: Family) -> PairMetadata:
    """Return what is known of the pair that a training makes."""
    is_lora = config.model.kind == "lora"
    return PairMetadata(
        kind=config.model.kind,
        base=config.model.base,
        family=family.name,
        null_prompt=dataset.null_prompt,
        rank=config.model.rank if is_lora else None,
        lora_alpha=config.model.lora_alpha if is_lora else None,
        target_modules=(config.model.targets or family.lora_targets) if is_lora else None,
        objective=config.objective.name,
        provenance={
            "data": dataset.name,
            "num_pairs": len(dataset),
            "objective": config.objective.model_dump(mode="json"),
            "optimizer": config.optimizer.model_dump(mode="json"),
            "seed": config.run.seed,
            "mixed_precision": config.run.mixed_precision,
            "versions": {
                module.__name__: module.__version__
                for module in (torch, diffusers, transformers, peft, accelerate)
            },
        },
    )
