"""A pair for the embedded model: its own, or a random one as long as it has none."""

from pathlib import Path

from diffusers import StableDiffusionPipeline

from chats.pairs.pair import Pair, save_pair
from chats.shapes import BASE, PAIR
from tests.tiny import tiny_pair

SOFTNESS = 0.2
"""A random pair at full strength leaves nothing of the picture."""


def pair_arguments(folder: Path) -> tuple[str, ...]:
    """Return what `app.py` needs to have a pair, making one in `folder` where none is embedded."""
    if (PAIR / "pair.json").is_file():
        return ()
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, local_files_only=True)
    loud = tiny_pair(pipeline, "lora")
    halves = {
        role: {name: SOFTNESS * weight for name, weight in half.items()}
        for role, half in loud.halves().items()
    }
    save_pair(Pair(loud.metadata, **halves), folder)
    return ("--pair", str(folder))
