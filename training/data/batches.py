"""Which pairs make which batch, in one process or many, of one shape or in buckets.

All processes together number the batches of a training: micro-step m (from 0) of process p of P
trains on batch m·P + p. What a batch holds is a pure function of its number, so nothing is counted
on the way.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, Protocol

from training.data.buckets import bucket_seed, bucketed_batch
from training.data.draws import PairBatch, batch_of, draw_samples, samples_at
from training.data.encoded_pairs import EncodedPairs

Unfinished = Callable[[], PairBatch]
"""A batch that was loaded; the call encodes what is not encoded yet, in the loop's own thread."""


@dataclass(frozen=True)
class DrawSettings:
    """What decides a process's batches beside the pairs.

    Attributes:
        seed: The run's seed.
        batch_size: Pairs in a batch.
        level_at: Gives the row of the noise schedule for a uniform number in [0, 1).
        prompt_drop: Share of samples whose c is ∅.
        dispreferred_prompt_drop: Share of samples whose c′ is ∅.
        num_processes: P.
        process_index: p.
    """

    seed: int
    batch_size: int
    level_at: Callable[[float], int]
    prompt_drop: float
    dispreferred_prompt_drop: float
    num_processes: int = 1
    process_index: int = 0

    def number(self, micro_step: int) -> int:
        """Return the number of this process's batch of a micro-step; both count from 0."""
        return micro_step * self.num_processes + self.process_index

    def unfinished(
        self, rows: "LoadedPairs", counters: Sequence[tuple[int, int]], *, seed: int
    ) -> Unfinished:
        """Draw for pairs that were loaded, (epoch, sample) each; their encoding is left to do."""
        draws = draw_samples(counters, seed=seed, latent_shape=rows.latent_shape)
        return lambda: batch_of(
            rows.encode(),
            draws,
            level_at=self.level_at,
            prompt_drop=self.prompt_drop,
            dispreferred_prompt_drop=self.dispreferred_prompt_drop,
        )


class LoadedPairs(Protocol):
    """The pairs of one batch in main memory: `EncodedPairs`, or pictures that were decoded."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape `(C, h, w)` of one picture's latents."""

    def encode(self) -> EncodedPairs:
        """Encode what is not encoded yet."""


class PairSource(Protocol):
    """Pairs of one size that can be asked for in any order: `EncodedPairs` or `OnlinePairs`."""

    name: str
    null_prompt: Literal["empty", "zeros"]
    size: tuple[int, int]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape `(C, h, w)` of one picture's latents."""

    def __len__(self) -> int: ...

    def prompts(self) -> Collection[Hashable]:
        """Return the different prompts, or numbers in their place."""

    def load(self, samples: Sequence[int]) -> LoadedPairs:
        """Return these pairs, in this order; called from a thread of its own."""


class BatchSource(Protocol):
    """What a training reads its batches from: `ShuffledPairs` or `StreamedPairs`.

    Attributes:
        name: The dataset's name, for the records of what was trained on it.
        null_prompt: What ∅ is.
        num_pairs: How many pairs there are; none where only the end of a stream would tell.
        num_prompts: How many different prompts these have; none likewise.
        latent_shape: Shape `(C, h, w)` of one picture's latents; buckets have about as many.
    """

    name: str
    null_prompt: Literal["empty", "zeros"]
    num_pairs: int | None
    num_prompts: int | None
    latent_shape: tuple[int, ...]

    def batches(self, settings: DrawSettings, *, after: int) -> Iterator[Unfinished]:
        """Return a process's batches without end, from the one after so many micro-steps on."""


class ShuffledPairs:
    """Pairs in the endless stream of shuffled epochs; in buckets if they have several sizes.

    Of one size, N processes with batch B draw what one with N·B would. In buckets a batch is of
    one bucket, so N processes draw what one with N times the accumulation would.
    """

    def __init__(self, sources: Sequence[PairSource]):
        """Take the pairs, one source for each size; there is at least one."""
        self.sources = tuple(sources)
        self.name = self.sources[0].name
        self.null_prompt = self.sources[0].null_prompt
        self.latent_shape = self.sources[0].latent_shape
        self.num_pairs = sum(len(source) for source in self.sources)
        self.num_prompts = len({each for source in self.sources for each in source.prompts()})

    def batches(self, settings: DrawSettings, *, after: int) -> Iterator[Unfinished]:
        """Return a process's batches without end, see `BatchSource`."""
        return (self.load(settings.number(micro_step), settings) for micro_step in count(after))

    def load(self, number: int, settings: DrawSettings) -> Unfinished:
        """Load a batch by its number among those of all processes."""
        source, seed, positions = self._place(number, settings)
        counters = samples_at(positions, num_samples=len(source), seed=seed)
        rows = source.load([sample for _, sample in counters])
        return settings.unfinished(rows, counters, seed=seed)

    def _place(self, number: int, settings: DrawSettings) -> tuple[PairSource, int, range]:
        size, seed = settings.batch_size, settings.seed
        if len(self.sources) == 1:
            return self.sources[0], seed, range(number * size, (number + 1) * size)
        sizes = tuple(len(source) for source in self.sources)
        batch = bucketed_batch(number, sizes=sizes, batch_size=size, seed=seed)
        source = self.sources[batch.bucket]
        return source, bucket_seed(seed, source.size), batch.positions
