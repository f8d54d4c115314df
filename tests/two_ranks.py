"""One of several processes of a training, started by `accelerate launch`.

    accelerate launch --multi_gpu --num_processes 2 -m tests.two_ranks CONFIG.json FOLDER

Writes the hash of the trained weights that this process ends with to FOLDER/rank-N.
"""

import hashlib
import sys
from pathlib import Path
from typing import ClassVar

import torch
from accelerate import PartialState

from tests.tiny import tiny_pipeline
from training.config import TrainingConfig
from training.data.encoded_pairs import encode_pairs
from training.loop import trainer
from training.loop.pair_model import PairModel
from training.preferences import read_pairs


class _KeptPairModel(PairModel):
    """A pair model that can be looked at after the training."""

    made: ClassVar[list[PairModel]] = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.made.append(self)


def main() -> None:
    """Train, then leave the hash."""
    torch.set_num_threads(1)
    config = TrainingConfig.model_validate_json(Path(sys.argv[1]).read_text())
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    dataset = encode_pairs(read_pairs(config.data.path), pipeline)
    trainer.PairModel = _KeptPairModel
    trainer.train_on(config, dataset, pipeline, held_out=dataset)
    digest = hashlib.sha256()
    for parameter in _KeptPairModel.made[0].trained_parameters():
        digest.update(parameter.detach().numpy().tobytes())
    (Path(sys.argv[2]) / f"rank-{PartialState().process_index}").write_text(digest.hexdigest())


if __name__ == "__main__":
    main()
