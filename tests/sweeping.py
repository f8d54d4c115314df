"""What tests of sweeps share: a scorer that needs no model, a stand-in for one that has one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chats.sweeps.config import SweepConfig, parse_sweep_config
from chats.sweeps.folder import SweepFolder
from chats.sweeps.run import SweepEvent, run_sweep


class Brightness:
    """Judges pictures by how bright they are."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        """Mean of all bytes, in [0, 1]."""
        return np.array([np.asarray(image).mean() / 255 for image in images])


def small_sweep(**changes: Any) -> SweepConfig:
    """Two prompts, two seeds, three α, one s: twelve pictures in calls of four."""
    settings = {
        "prompts": ["red star", "blue circle"],
        "alphas": [-0.5, 0.0, 0.5],
        "scales": [2.0],
        "seeds": [3, 4],
        "scorer": "shapes",
        "rows_per_call": 4,
        **changes,
    }
    return parse_sweep_config(settings)


def finish(folder: SweepFolder, generate: Any, **options: Any) -> list[SweepEvent]:
    """Work on a sweep to its end."""
    return list(run_sweep(folder, generate=generate, **{"judge": Brightness(), **options}))


def contents(folder: SweepFolder) -> dict[str, bytes]:
    """All pictures, byte for byte."""
    return {path.name: path.read_bytes() for path in (folder.path / "pictures").iterdir()}


def calls_without_times(folder: SweepFolder) -> list[dict[str, Any]]:
    """The lines of scores.jsonl but for what each call took."""
    return [call.model_dump(exclude={"seconds"}) for call in folder.calls()]


def make(path: Path, config: SweepConfig, generate: Any) -> SweepFolder:
    """Make a whole sweep."""
    folder = SweepFolder.create(path, config)
    finish(folder, generate)
    return folder
