"""The end of a log, or the lines that a search found, as HTML."""

import re
from collections.abc import Sequence
from html import escape

from training.jobs.reading import LogChunk
from training.jobs.searching import LogMatches

TAIL_BYTES = 40_000
_ALARMING = re.compile(r"\b(ERROR|CRITICAL|Traceback)\b|^\w*(Error|Exception)\b")
_WARNING = re.compile(r"\bWARNING\b|Warning:")


def render_tail(chunk: LogChunk) -> str:
    """Draw the end of a log."""
    if not chunk.size:
        return '<p class="nothing">Nothing has been said yet.</p>'
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in chunk.text.split("\n")]
    before = f"The last lines of {_size(chunk.size)}." if chunk.start else ""
    return _lines([line for line in lines if line.strip()], note=before)


def render_matches(found: LogMatches, text: str) -> str:
    """Draw the lines that a search found, what was sought marked in them."""
    if not found.lines:
        return f'<p class="nothing">No line holds “{escape(text)}”.</p>'
    number = len(found.lines)
    note = f"The newest {number} lines" if found.is_cut else f"{number} line{'s' * (number > 1)}"
    return _lines(found.lines, note=f"{note} with “{text}”.", marked=text.strip())


def _lines(lines: Sequence[str], *, note: str, marked: str = "") -> str:
    drawn = "".join(
        f'<span class="{_kind(line)}">{_marked(line, marked)}\n</span>' for line in lines
    )
    return (
        f'<p class="log-note">{escape(note)}</p><div class="log-lines" tabindex="0"'
        f"{' data-found' if marked else ''}><pre>{drawn}</pre></div>"
    )


def _marked(line: str, text: str) -> str:
    if not text:
        return escape(line)
    parts = re.split(f"({re.escape(text)})", line, flags=re.IGNORECASE)
    return "".join(
        f"<mark>{escape(part)}</mark>" if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def _kind(line: str) -> str:
    if _ALARMING.search(line):
        return "bad"
    return "odd" if _WARNING.search(line) else ""


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"
