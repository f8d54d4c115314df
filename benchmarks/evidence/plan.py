"""What is compared: trainings at matched compute, contestants, and the numbers of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from chats.config import FrozenSettings
from chats.shapes import SHAPES_MODEL
from training.config import TrainingConfig


class EvidenceConfig(FrozenSettings):
    """The protocol of the evidence."""

    workdir: Path = Path("build/evidence")
    """Folder of pairs, trained models and results; a second start goes on from it."""
    report: Path = Path("docs/evidence.md")
    """The report that is written at the end."""
    training_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings; every trained method is trained once with each."""
    image_seeds: tuple[int, ...] = (0, 1)
    """Seeds of the sampling noise on the test prompts."""
    num_steps: int = Field(20, ge=1)
    """Sampling steps."""
    num_workers: int = Field(2, ge=1)
    """Processes, each with one CPU thread."""
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """Guidance scales s tried on the tuning prompts, for each contestant."""
    alphas: tuple[float, ...] = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0)
    """Values of the α sweep, at the scale of α = 0.5, with the first training and image seed."""


@dataclass(frozen=True)
class Training:
    """One way to train, as changes to the shared settings."""

    objective: str
    kind: str
    learning_rate: float
    num_steps: int
    temperature: float = 1000.0
    beta: float = 2000.0
    prompt_drop: float = 0.0


@dataclass(frozen=True)
class Contestant:
    """A way to sample, with the training behind it (none: the base model)."""

    label: str
    method: str
    alpha: float = 0.0
    training: str | None = None
    first_training_only: bool = False
    """Whether only the first training seed is sampled, a variant beside the question."""


# Compute in forwards per pair, a backward counted as two: SFT 3, Diffusion-DPO 8 (two trained and
# two reference predictions), CHATS 8. Steps are chosen so that steps × forwards agree.
TRAININGS: Mapping[str, Training] = {
    "sft": Training("sft-preferred", "full", 5e-5, 560, prompt_drop=0.1),
    "dpo": Training("diffusion-dpo", "full", 2e-5, 210, beta=2000.0),
    "chats": Training("chats", "full", 5e-5, 210, temperature=1000.0),
    "chats-lora": Training("chats", "lora", 3e-4, 210, temperature=1000.0),
}

CONTESTANTS: Mapping[str, Contestant] = {
    "standard": Contestant("Standard", "standard"),
    "cfg": Contestant("CFG", "cfg"),
    "sft": Contestant("SFT on preferred + CFG", "preferred-cfg", training="sft"),
    "dpo": Contestant("Diffusion-DPO + CFG", "preferred-cfg", training="dpo"),
    "chats--0.5": Contestant("CHATS α = −0.5", "chats", -0.5, "chats"),
    "chats-0": Contestant("CHATS α = 0", "chats", 0.0, "chats"),
    "chats-0.5": Contestant("CHATS α = 0.5", "chats", 0.5, "chats"),
    "chats-exact-0.5": Contestant(
        "CHATS exact (eq. 16) α = 0.5", "chats-exact", 0.5, "chats", first_training_only=True
    ),
    "chats-lora--0.5": Contestant("CHATS LoRA pair α = −0.5", "chats", -0.5, "chats-lora"),
    "chats-lora-0": Contestant("CHATS LoRA pair α = 0", "chats", 0.0, "chats-lora"),
    "chats-lora-0.5": Contestant(
        "CHATS LoRA pair α = 0.5", "chats", 0.5, "chats-lora", first_training_only=True
    ),
}


def training_config(name: str, *, seed: int, pairs: Path, output: Path) -> TrainingConfig:
    """The full settings of one training of the table."""
    training = TRAININGS[name]
    return TrainingConfig.model_validate(
        {
            "model": {"base": SHAPES_MODEL, "kind": training.kind, "rank": 32, "lora_alpha": 32},
            "data": {"path": pairs},
            "objective": {
                "name": training.objective,
                "temperature": training.temperature,
                "beta": training.beta,
                "prompt_drop": training.prompt_drop,
            },
            "optimizer": {
                "learning_rate": training.learning_rate,
                "num_steps": training.num_steps,
                "warmup_steps": training.num_steps // 10,
                "schedule": "linear",
                "batch_size": 32,
            },
            "run": {"output": output, "seed": seed, "mixed_precision": "bf16"},
            "samples": {"every": 0},
        }
    )
