"""Votes on pictures of one colour, made in milliseconds."""

import io
import random
from pathlib import Path

from PIL import Image

from chats.config import GenerationConfig, Row
from training.datasets import DatasetStore
from training.votes import Collection, Contestant, Match, VoteStore
from training.votes.pairing import Ballot, next_pairing


def make_contestant(method: str = "chats", *, pair_title: str = "Embedded", **row) -> Contestant:
    config = GenerationConfig(rows=(Row(method=method, **{"scale": 2.0, **row}),), num_steps=3)
    return Contestant.of(config, pair_title=pair_title)


CFG, CHATS = make_contestant("cfg"), make_contestant("chats")
BALLOT = Ballot(contestants=(CFG, CHATS), prompts=("a red circle", "two blue stars"))


def open_store(workspace: Path) -> VoteStore:
    return VoteStore(workspace / "votes", DatasetStore(workspace / "datasets"))


def add_match(
    collection: Collection, *, ballot: Ballot = BALLOT, rng: random.Random | None = None
) -> Match:
    """Make the next match of a ballot; its pictures have a colour of their own each."""
    rng = rng or random.Random(0)
    tally = collection.tally()
    pairing = next_pairing(tally, ballot, rng)
    number = 2 * len(tally.matches)
    names = collection.add_pictures([make_png(number), make_png(number + 1)])
    return collection.add_match(
        ballot=ballot.key,
        prompt=pairing.prompt,
        seed=pairing.seed,
        left=pairing.left,
        right=pairing.right,
        left_picture=names[0],
        right_picture=names[1],
    )


def make_png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 7)).save(stream, format="PNG")
    return stream.getvalue()
