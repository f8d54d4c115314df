"""How far some long work is, told as it goes on."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far an import, a check or an upload is."""

    doing: str
    """What is being counted, such as `rows checked`."""

    done: int
    """How many."""

    total: int | None = None
    """Of how many; none if that is not known."""


OnProgress = Callable[[Progress], None]
"""Is told every so often; what it raises ends the work, and nothing of it is left."""


def told_to_nobody(progress: Progress) -> None:
    """Stand in where nobody wants to know."""
