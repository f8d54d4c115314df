"""Finding text in a log of any length: its newest lines that hold it."""

import mmap
from dataclasses import dataclass
from pathlib import Path

from chats.errors import UserError

MAX_TEXT = 200
_MAX_BYTES = 200_000_000
"""Of a longer log only the end is searched."""
_MAX_LINE_BYTES = 2_000


@dataclass(frozen=True)
class LogMatches:
    """Lines of a log that hold a text.

    Attributes:
        lines: The newest of them, in the order of the file; very long ones are cut.
        is_cut: Whether there are older ones.
    """

    lines: tuple[str, ...]
    is_cut: bool


def search_log(path: Path, text: str, *, max_lines: int = 200) -> LogMatches:
    """Return the newest lines that hold a text, in small or large letters of ASCII.

    It goes backwards from the end and stops once it has enough, so a frequent text is found at
    once. No file is an empty log.

    Raises:
        UserError: The text is too long, or the file can't be read.
    """
    wanted = text.strip().encode().lower()
    if len(wanted) > MAX_TEXT:
        raise UserError(f"Search for at most {MAX_TEXT} letters, not {len(wanted)}.")
    if not wanted:
        return LogMatches((), is_cut=False)
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return LogMatches((), is_cut=False)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _newest(content, wanted, max_lines=max_lines)
    except FileNotFoundError:
        return LogMatches((), is_cut=False)
    except OSError as error:
        raise UserError(f"Can't read {path.name}: {error.strerror}.") from error


def _newest(content: mmap.mmap, wanted: bytes, *, max_lines: int) -> LogMatches:
    """Search block by block from the end; a block begins where a line does."""
    block = 1_000_000
    found: list[str] = []
    end, first = len(content), max(len(content) - _MAX_BYTES, 0)
    while end > first:
        start = max(end - block, first)
        start = start if start == 0 else content.rfind(b"\n", 0, start) + 1
        lowered = content[start:end].lower()
        place = len(lowered)
        while (place := lowered.rfind(wanted, 0, place)) >= 0:
            if len(found) == max_lines:
                return LogMatches(tuple(reversed(found)), is_cut=True)
            begin = lowered.rfind(b"\n", 0, place) + 1
            stop = lowered.find(b"\n", place)
            line = content[start + begin : end if stop < 0 else start + stop]
            found.append(line[:_MAX_LINE_BYTES].decode("utf-8", "replace").strip("\r"))
            place = begin
        end = start
    return LogMatches(tuple(reversed(found)), is_cut=first > 0)
