"""Batches from a stream that is read once an epoch and never kept.

The rows of a process come in blocks of `data.shuffle_buffer`; each block is shuffled by itself, in
an order that is a pure function of (seed, process, epoch, block). So the n-th pair of a process
is a pure function of n and of the stream, and no row is left out or doubled, also not by a resume.

To go on from pair n without reading everything before it, a file of the run notes where each block
began. The notes only save time: without them the stream is read from its start to the same pair.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from chats.errors import UserError
from training.data.batches import DrawSettings, Unfinished
from training.data.draws import block_order
from training.data.encoding import Size
from training.data.online_pairs import OnlineEncoder
from training.disk import disk_errors_explained
from training.preferences import PreferencePair
from training.preferences.stream import PairStream, Place


@dataclass(frozen=True)
class BlockStart:
    """Where a block begins.

    Attributes:
        num_processes: Of the training; with another number every process has other rows.
        num_before: Pairs of this process before it, in all epochs.
        epoch: Counts from 0.
        block: Counts from 0 in its epoch.
        place: Of the stream; none is the start of the epoch.
    """

    num_processes: int
    num_before: int = 0
    epoch: int = 0
    block: int = 0
    place: Place | None = None


class StreamedPairs:
    """A stream as a training reads it, see `BatchSource`."""

    def __init__(
        self,
        stream: PairStream,
        encoder: OnlineEncoder,
        *,
        size: Size,
        block_size: int,
        notes: Path,
    ):
        """Take the stream; nothing is read yet.

        Args:
            stream: This process's part of the rows.
            encoder: Encodes them.
            size: Width and height that pictures get.
            block_size: Pairs that are shuffled together; twice as many lie in memory.
            notes: Folder for the notes of where blocks began.
        """
        self.name = encoder.name
        self.null_prompt = encoder.null_prompt
        self.num_pairs = self.num_prompts = None
        self.latent_shape = encoder.latent_shape(size)
        self._stream = stream
        self._encoder = encoder
        self._size = size
        self._block_size = block_size
        self._path = notes / f"process-{stream.process_index}.jsonl"

    def batches(self, settings: DrawSettings, *, after: int) -> Iterator[Unfinished]:
        """Return this process's batches without end, from the one after so many micro-steps on.

        Raises:
            UserError: The stream breaks off or holds no pair, or the run was started with another
                number of processes.
        """
        pairs = self._pairs(settings.seed, after * settings.batch_size)
        while True:
            chosen = list(islice(pairs, settings.batch_size))
            rows = self._encoder.decode(
                [(each.block, each.row) for each in chosen], size=self._size
            )
            counters = [(each.epoch, self._sample(each.block[each.row])) for each in chosen]
            yield settings.unfinished(rows, counters, seed=settings.seed)

    def _pairs(self, seed: int, num_before: int) -> Iterator["_BlockRow"]:
        """Return the pairs without end, from the one after so many on."""
        notes = _Notes(self._path, num_processes=self._stream.num_processes)
        if num_before == 0:
            notes.clear()
        with ThreadPoolExecutor(1, thread_name_prefix="read stream") as reader:
            blocks = self._blocks(notes.newest(num_before))
            following = reader.submit(next, blocks)
            while True:
                start, block = following.result()
                following = reader.submit(next, blocks)
                if start.num_before + len(block) <= num_before:
                    continue
                notes.add(start)
                order = block_order(
                    seed=seed,
                    process_index=self._stream.process_index,
                    epoch=start.epoch,
                    block=start.block,
                    size=len(block),
                )
                shuffled = tuple(block[row] for row in order)
                for row in range(max(0, num_before - start.num_before), len(block)):
                    yield _BlockRow(start.epoch, shuffled, row)

    def _blocks(self, start: BlockStart) -> Iterator[tuple[BlockStart, tuple[PreferencePair, ...]]]:
        """Return the blocks without end, from one of them on; the last of an epoch is shorter."""
        while True:
            rows = self._stream.pairs(start.place)
            while found := list(islice(rows, self._block_size)):
                pairs, places = zip(*found, strict=True)
                yield start, pairs
                start = replace(
                    start,
                    num_before=start.num_before + len(pairs),
                    block=start.block + 1,
                    place=places[-1],
                )
            if start.block == 0:
                raise UserError(
                    f"The stream of {self.name} holds no pair that can be used for process "
                    f"{self._stream.process_index} of {self._stream.num_processes}."
                )
            start = replace(start, epoch=start.epoch + 1, block=0, place=None)

    def _sample(self, pair: PreferencePair) -> int:
        """Return a number that no other row has, in no process."""
        return pair.row * self._stream.num_processes + self._stream.process_index


@dataclass(frozen=True, slots=True)
class _BlockRow:
    """A pair, as a row of a block that was shuffled."""

    epoch: int
    block: tuple[PreferencePair, ...]
    row: int


class _Notes:
    """A file of where blocks began, a line each; what is torn or damaged is passed over."""

    def __init__(self, path: Path, *, num_processes: int):
        self._path = path
        self._num_processes = num_processes
        self._known: set[int] = set()

    def clear(self) -> None:
        """Forget the notes of an earlier start that came to nothing."""
        self._path.unlink(missing_ok=True)

    def newest(self, num_before: int) -> BlockStart:
        """Return the last block that begins at or before the pair after so many.

        Raises:
            UserError: The notes are of another number of processes.
        """
        starts = [start for start in self._read() if start.num_before <= num_before]
        self._known = {start.num_before for start in starts}
        return max(
            starts,
            key=lambda start: start.num_before,
            default=BlockStart(num_processes=self._num_processes),
        )

    def add(self, start: BlockStart) -> None:
        """Note a block; raises UserError if the disk refuses it."""
        if start.num_before in self._known:
            return
        with disk_errors_explained(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(start)) + "\n")
        self._known.add(start.num_before)

    def _read(self) -> Iterator[BlockStart]:
        if not self._path.exists():
            return
        for line in self._path.read_text("utf-8").splitlines():
            try:
                start = BlockStart(**json.loads(line))
            except (ValueError, TypeError):
                continue
            if start.num_processes != self._num_processes:
                raise UserError(
                    f"This run reads a stream with {start.num_processes} processes; go on with as "
                    f"many, not with {self._num_processes}, or set run.output to a new folder."
                )
            yield start
