"""Reading long files a little at a time: a log by byte offset, a training's curve thinned out.

A poll costs the same whether the file has a hundred lines or a million.
"""

import codecs
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chats.errors import UserError
from training.run import Metrics, parse_metrics

MAX_LOG_BYTES = 1_000_000
MAX_POINTS = 10_000
_READ_WHOLE_BYTES = 500_000
"""Less than this is read at once and then thinned out by its lines."""
_TAIL_BYTES = 64_000


@dataclass(frozen=True)
class LogChunk:
    """A piece of a log.

    Attributes:
        text: The piece; bytes that are no UTF-8 are replaced.
        start: Where it begins, in bytes.
        end: Where it ends: the offset of the next piece.
        size: Bytes that the file has.
    """

    text: str
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class Curve:
    """Lines of metrics.

    Attributes:
        rows: Whole lines in the order of their steps, evenly thinned out; the last is always there.
        is_thinned: Whether lines were left out.
    """

    rows: tuple[Metrics, ...]
    is_thinned: bool


def read_log(path: Path, *, offset: int | None, max_bytes: int) -> LogChunk:
    """Read a piece of a log; no file is an empty log.

    Args:
        path: The file.
        offset: Where to begin, in bytes; none means the last lines. Behind the end of a file that
            has become shorter, it begins again.
        max_bytes: Read at most so many.

    Raises:
        UserError: A number is out of bounds, or the file can't be read.
    """
    _check("max_bytes", max_bytes, low=4, high=MAX_LOG_BYTES)
    if offset is not None:
        _check("offset", offset, low=0, high=2**63 - 1)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(size - max_bytes, 0) if offset is None else offset
            start = 0 if start > size else start
            file.seek(start)
            data = file.read(max_bytes)
    except FileNotFoundError:
        return LogChunk("", 0, 0, 0)
    except OSError as error:
        raise UserError(f"Can't read {path.name}: {error.strerror}.") from error
    if offset is None and start > 0:
        torn = data.find(b"\n") + 1
        data, start = data[torn:], start + torn
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    unread = len(decoder.getstate()[0])  # a character that is not all there yet
    return LogChunk(text, start, start + len(data) - unread, max(size, start + len(data)))


def last_line(path: Path) -> str:
    """Return the last line of a log that says something; empty if there is none."""
    lines = read_log(path, offset=None, max_bytes=_TAIL_BYTES).text.replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def read_curve(path: Path, *, since_step: int | None, max_points: int) -> Curve:
    """Read lines of metrics.jsonl, at most so many; no file is an empty curve.

    Steps rise in the file, so it is searched by halves, and of a long one only the lines that are
    returned are read.

    Args:
        path: The file.
        since_step: Only what comes after this step; none means all.
        max_points: At most so many lines.

    Raises:
        UserError: A number is out of bounds, or the file can't be read.
    """
    _check("max_points", max_points, low=2, high=MAX_POINTS)
    try:
        with path.open("rb") as file:
            end = _end_of_lines(file)
            begin = 0 if since_step is None else _first_after(file, since_step, end)
            if end - begin <= _READ_WHOLE_BYTES:
                return _thinned(_rows(file, begin, end), max_points)
            return Curve(_sampled(file, begin, end, max_points), is_thinned=True)
    except FileNotFoundError:
        return Curve((), is_thinned=False)
    except OSError as error:
        raise UserError(f"Can't read {path.name}: {error.strerror}.") from error


def last_row(path: Path) -> Metrics | None:
    """Return the newest line of metrics.jsonl; none if there is none."""
    rows = _last_rows(path)
    return rows[-1] if rows else None


def newest_values(path: Path) -> Metrics:
    """Return the newest value of each metric in the last lines; not every line has all of them."""
    return {
        name: value for row in _last_rows(path) for name, value in row.items() if value is not None
    }


def _last_rows(path: Path) -> list[Metrics]:
    try:
        with path.open("rb") as file:
            end = _end_of_lines(file)
            return _rows(file, max(end - _TAIL_BYTES, 0), end)
    except OSError:
        return []


def _thinned(rows: list[Metrics], max_points: int) -> Curve:
    if len(rows) <= max_points:
        return Curve(tuple(rows), is_thinned=False)
    last = len(rows) - 1
    places = (round(number * last / (max_points - 1)) for number in range(max_points))
    return Curve(tuple(rows[place] for place in places), is_thinned=True)


def _sampled(file: BinaryIO, begin: int, end: int, max_points: int) -> tuple[Metrics, ...]:
    """Read one line at each of evenly spread places, and the last one."""
    rows: list[Metrics] = []
    for number in range(max_points - 1):
        row, _, _ = _line_at(file, begin + number * (end - begin) // (max_points - 1), end)
        if row is not None and (not rows or row["step"] > rows[-1]["step"]):
            rows.append(row)
    tail = _rows(file, max(end - _TAIL_BYTES, begin), end)
    if tail and (not rows or tail[-1]["step"] > rows[-1]["step"]):
        rows.append(tail[-1])
    return tuple(rows)


def _first_after(file: BinaryIO, step: int, end: int) -> int:
    """Return where the first line with a later step begins."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        row, start, stop = _line_at(file, middle, end)
        if row is None or row["step"] > step:
            # Nothing between the middle and this line begins a line.
            high = middle if row is None or start > middle else start
        else:
            low = stop
    _, start, _ = _line_at(file, low, end)
    return start


def _line_at(file: BinaryIO, place: int, end: int) -> tuple[Metrics | None, int, int]:
    """Return the first whole line at a place or after it, with where it begins and ends."""
    file.seek(max(place - 1, 0))
    if place > 0:
        file.readline()
    while (start := file.tell()) < end:
        line = file.readline()
        if (row := parse_metrics(line)) is not None:
            return row, start, start + len(line)
    return None, end, end


def _rows(file: BinaryIO, begin: int, end: int) -> list[Metrics]:
    file.seek(begin)
    found = (parse_metrics(line) for line in file.read(end - begin).split(b"\n"))
    return [row for row in found if row is not None]


def _end_of_lines(file: BinaryIO) -> int:
    """Return where the last whole line ends: a kill in mid-write tears the last one."""
    size = os.fstat(file.fileno()).st_size
    begin = max(size - _TAIL_BYTES, 0)
    file.seek(begin)
    return begin + file.read(size - begin).rfind(b"\n") + 1


def _check(name: str, value: int, *, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high}, not {value!r}.")
