"""Pairs that are held out: what the objective says of them, always with the same draws."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from chats.errors import UserError
from chats.objective import LossTerms
from training.config import TrainingConfig
from training.data.draws import PairBatch
from training.data.encoded_pairs import EncodedPairs
from training.loop.losses import gathered
from training.loop.metrics import terms_together
from training.preferences import PreferencePair, read_preferences, split_pairs

DRAWS_SEED = 0
"""Seed of split and draws, whatever the run's: trainings on the same data can be compared."""

VALIDATION_METRICS = {
    "loss": "validation/loss",
    "margin": "validation/margin",
    "accuracy": "validation/accuracy",
    "preferred_reward": "validation/preferred",
    "dispreferred_reward": "validation/dispreferred",
}
"""Their names in metrics.jsonl."""

Pairs = tuple[PreferencePair, ...]


def read_sides(config: TrainingConfig) -> tuple[Pairs, Pairs]:
    """Read the preferences; returns the pairs to train on and those that are held out.

    Raises:
        UserError: The data can't be used, or one of the sides has fewer than two pairs.
    """
    held_out = config.validation.held_out
    pairs = read_preferences(config.data)
    sides = split_pairs(pairs, held_out, seed=DRAWS_SEED)
    if held_out and min(map(len, sides)) < 2:
        raise UserError(
            f"validation.held_out {held_out:g} parts {len(pairs)} pairs into {len(sides[0])} to "
            f"train on and {len(sides[1])} held out; both need at least 2. Set another number."
        )
    return sides


@dataclass(frozen=True, eq=False)
class Validation:
    """Measures held-out pairs; touches nothing that the training reads.

    Attributes:
        pairs: The held-out pairs, encoded.
        max_pairs: How many of them are measured at most.
        batch_size: Pairs in one forward of each process.
        draw: Draws the batch at positions in the stream of `pairs`, with the seed `DRAWS_SEED`.
        terms_of: What the objective says of a batch.
        accelerator: Knows the other processes; each measures its share.
    """

    pairs: EncodedPairs
    max_pairs: int
    batch_size: int
    draw: Callable[[Sequence[int]], PairBatch]
    terms_of: Callable[[PairBatch], LossTerms]
    accelerator: Accelerator

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the means over the pairs, by the names that metrics.jsonl has."""
        parts = []
        for positions, num_real in self._batches():
            terms = gathered(self.terms_of(self.draw(positions)), self.accelerator)
            found = {name: value for name, value in vars(terms).items() if value is not None}
            parts.append(LossTerms(**{name: each[:num_real] for name, each in found.items()}))
        return {
            VALIDATION_METRICS[name]: values.mean().item()
            for name, values in terms_together(parts).items()
        }

    def _batches(self) -> Iterator[tuple[list[int], int]]:
        """Yield this process's positions, and how many rows of all processes' are no padding.

        Every process makes as many forwards, of as many rows, as the others.
        """
        total = min(self.max_pairs, len(self.pairs))
        together = self.batch_size * self.accelerator.num_processes
        first = self.batch_size * self.accelerator.process_index
        for start in range(0, total, together):
            mine = range(start + first, start + first + self.batch_size)
            yield [min(each, total - 1) for each in mine], min(together, total - start)
