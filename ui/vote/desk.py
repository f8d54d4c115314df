"""Which match a tab shows, and how the next one is made; votes themselves are on the disk."""

import io
import random
import threading
from collections.abc import Iterator
from dataclasses import replace

from PIL import Image

from chats.config import GenerationConfig
from chats.denoising.methods import needs_pair
from chats.errors import UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.generation.png import config_of_row, png_info
from training.votes import Collection, Contestant, Match
from training.votes.pairing import (
    REPEAT_RATE,
    Ballot,
    Pairing,
    next_pairing,
    next_repeat,
    repeated_fields,
)
from ui.services import Services


class VoteDesk:
    """Hands matches to tabs; what a tab shows is known here alone, everything else to the disk."""

    def __init__(
        self,
        services: Services,
        *,
        rng: random.Random | None = None,
        repeat_rate: float = REPEAT_RATE,
    ) -> None:
        """Take where pictures are made.

        Args:
            services: the rest of the program.
            rng: draws sides, seeds and repetitions; none: the system's own randomness.
            repeat_rate: share of the matches that show pictures again.
        """
        self._services = services
        self._rng = rng or random.SystemRandom()
        self._repeat_rate = repeat_rate
        self._lock = threading.Lock()
        self._shown: dict[str, str] = {}

    def take(
        self, collection: Collection, ballot: Ballot, *, session: str, wanted: str = ""
    ) -> Match | None:
        """Return the match that a tab shows, or one that is ready for it; none if none is.

        Args:
            collection: where the votes go.
            ballot: the question.
            session: the tab.
            wanted: the match that the tab showed before it was loaded again, or wants back.
        """
        with self._lock:
            tally = collection.tally()
            open_ones = {match.id: match for match in tally.open_matches(ballot.key)}
            shown = wanted if wanted in open_ones else self._shown.get(session, "")
            if shown not in open_ones:
                repeat = next_repeat(tally, ballot, self._rng, rate=self._repeat_rate)
                if repeat:
                    again = collection.add_match(**repeated_fields(repeat, self._rng))
                    open_ones, shown = {again.id: again}, again.id
                else:
                    taken = set(self._shown.values())
                    shown = next((each for each in open_ones if each not in taken), "")
            if not shown:
                self._shown.pop(session, None)
                return None
            self._shown[session] = shown
            return open_ones[shown]

    def is_ahead(self, collection: Collection, ballot: Ballot) -> bool:
        """Whether a match is ready that no tab shows."""
        with self._lock:
            taken = set(self._shown.values())
            ready = collection.tally().open_matches(ballot.key)
            return any(match.id not in taken for match in ready)

    def leave(self, session: str) -> None:
        """Forget a tab that is closed; what it showed is ready for others."""
        with self._lock:
            self._shown.pop(session, None)

    def make(
        self, collection: Collection, ballot: Ballot, ticket: threading.Event
    ) -> Iterator[StepEvent]:
        """Make the pictures of the next match and keep it; only whole matches are ever kept.

        Both pictures come from one call of the pipeline where they share base and settings, else
        one after the other; neither is shown before both are there.

        Args:
            collection: where it is kept.
            ballot: the question.
            ticket: ends the work within one step when it is set; then nothing is kept.

        Raises:
            UserError: the pictures can't be made, or are the same.
        """
        pairing = next_pairing(collection.tally(), ballot, self._rng)
        images: list[tuple[Image.Image, GenerationConfig]] = []
        for config in _requests(pairing):
            for event in self._services.generate(config, ticket):
                if isinstance(event, ImagesEvent):
                    images += [
                        (image, config_of_row(event.config, row))
                        for row, image in enumerate(event.images)
                    ]
                else:
                    yield replace(event, previews=())
        if len(images) < 2:
            return  # stopped
        if images[0][0].tobytes() == images[1][0].tobytes():
            raise UserError(
                f"{pairing.left.title} and {pairing.right.title} make the same picture of "
                f"{pairing.prompt!r:.80}: there is nothing to choose. Change one of them."
            )
        sides = (pairing.left, pairing.right)
        files = [_file(*made, of=side) for made, side in zip(images, sides, strict=True)]
        left, right = collection.add_pictures(files)
        collection.add_match(
            ballot=ballot.key,
            prompt=pairing.prompt,
            seed=pairing.seed,
            left=pairing.left,
            right=pairing.right,
            left_picture=left,
            right_picture=right,
        )


def _requests(pairing: Pairing) -> list[GenerationConfig]:
    """Return the calls that make a match, left picture first: one if both can share it."""
    sides = (pairing.left, pairing.right)
    configs = [side.config(pairing.prompt, pairing.seed) for side in sides]
    pairs = {side.settings.pair for side in sides if needs_pair(side.row.method)}
    bare = [config.model_copy(update={"rows": (), "pair": None}) for config in configs]
    if len(pairs) > 1 or bare[0] != bare[1]:
        return configs
    rows = tuple(config.rows[0] for config in configs)
    return [configs[0].model_copy(update={"rows": rows, "pair": next(iter(pairs), None)})]


def _file(image: Image.Image, config: GenerationConfig, *, of: Contestant) -> bytes:
    """Return a picture's file, inside it the settings that make it alone."""
    stream = io.BytesIO()
    own = config.model_copy(update={"pair": of.settings.pair})
    image.save(stream, format="PNG", pnginfo=png_info(own))
    return stream.getvalue()
