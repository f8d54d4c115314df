"""What a preference pair is, and how a part of the pairs is held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chats.errors import UserError
from training.preferences.bad_rows import RowFault

MAX_PICTURE_BYTES = 512 * 2**20
"""The largest file that is read as a picture."""


class Picture(Protocol):
    """A picture that can be read; it is not held in memory."""

    @property
    def name(self) -> str:
        """How messages call it."""

    def read(self) -> bytes:
        """Return the content of its file.

        Raises:
            RowFault: There is no such file, or it can't be read.
        """


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def read(self) -> bytes:
        """Return the content of the file, see `Picture`."""
        try:
            size = self.path.stat().st_size
            if size > MAX_PICTURE_BYTES:
                raise RowFault(
                    "picture too large", f"{self.name} has {size / 2**20:,.0f} MiB, not a picture's"
                )
            return self.path.read_bytes()
        except FileNotFoundError:
            raise RowFault("missing picture", f"there is no image {self.name!r}") from None
        except OSError as error:
            raise RowFault(
                "unreadable picture", f"{self.name} can't be read: {error.strerror}"
            ) from None


@dataclass(frozen=True, slots=True)
class PictureBytes:
    """A picture that came in a stream and lies in main memory."""

    name: str
    content: bytes

    def read(self) -> bytes:
        """Return the content of the picture's file, see `Picture`."""
        return self.content


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt and two pictures for it; `row` counts the rows of its source from 1."""

    row: int
    prompt: str
    preferred: Picture
    dispreferred: Picture


def split_pairs(
    pairs: Sequence[PreferencePair], held_out: int | float, *, seed: int
) -> tuple[tuple[PreferencePair, ...], tuple[PreferencePair, ...]]:
    """Part the pairs into those to train on and those held out, prompt by prompt.

    The side of a prompt is a pure function of the seed and of its words, whatever their case and
    spacing, so equal prompts are never on both sides. With a share it does not depend on the
    other pairs either: a set that grows keeps its held-out prompts.

    Args:
        pairs: All pairs.
        held_out: How many pairs (int; as many as whole prompts allow, never more), or what share
            of the prompts (float from 0 to 1).
        seed: Another seed holds out other prompts.

    Returns:
        The pairs to train on and the held-out pairs, each in their order.

    Raises:
        UserError: `held_out` is out of range, or leaves one of the sides without pairs.
    """
    prompts = [_fingerprint(pair.prompt, seed=seed) for pair in pairs]
    if isinstance(held_out, int):
        chosen = _first_prompts(prompts, num_pairs=held_out)
    else:
        chosen = {prompt for prompt in prompts if prompt < held_out * 2**64}
    sides: tuple[list[PreferencePair], list[PreferencePair]] = ([], [])
    for pair, prompt in zip(pairs, prompts, strict=True):
        sides[prompt in chosen].append(pair)
    if held_out and not all(sides):
        raise UserError(
            f"Can't hold out {held_out} of {len(pairs)} pairs with {len(set(prompts))} different "
            f"prompts: {len(sides[0])} would be left to train on and {len(sides[1])} held out. "
            "Give a number of pairs, or a share between 0 and 1."
        )
    return tuple(sides[0]), tuple(sides[1])


def _fingerprint(prompt: str, *, seed: int) -> int:
    words = " ".join(prompt.casefold().split())
    digest = hashlib.sha256(f"{seed}\n{words}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _first_prompts(prompts: Sequence[int], *, num_pairs: int) -> set[int]:
    """Take prompts in the order of their fingerprints while all of their pairs still fit."""
    counts: dict[int, int] = {}
    for prompt in prompts:
        counts[prompt] = counts.get(prompt, 0) + 1
    chosen, left = set(), num_pairs
    for prompt in sorted(counts):
        if counts[prompt] <= left:
            chosen.add(prompt)
            left -= counts[prompt]
    return chosen
