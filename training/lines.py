"""Files of JSON lines that only grow: a line is on the disk when it is written, or not there."""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from chats.errors import UserError
from training.disk import sync

Line = TypeVar("Line", bound=BaseModel)


def read_lines(path: Path, model: type[Line]) -> list[Line]:
    """Return all whole lines; none if there is no such file.

    Raises:
        UserError: A line is damaged.
    """
    try:
        with path.open("rb") as file:
            return [model.model_validate_json(line) for line in file if line.endswith(b"\n")]
    except FileNotFoundError:
        return []
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise UserError(f"{path.name} of {path.parent.name} is damaged: {what}.") from None


def last_line(path: Path, model: type[Line]) -> Line | None:
    """Read only the end of a file, however long it is."""
    try:
        with path.open("rb") as file:
            end, num_bytes = file.seek(0, 2), 2**12
            while True:
                start = max(0, end - num_bytes)
                file.seek(start)
                lines = file.read().splitlines()
                if start == 0 or len(lines) > 1:
                    return model.model_validate_json(lines[-1]) if lines else None
                num_bytes *= 8
    except FileNotFoundError:
        return None


def append_line(path: Path, model: BaseModel) -> None:
    """Write a line and wait for the disk; only who holds the file's lock may."""
    is_new = not path.exists()
    with path.open("ab", buffering=0) as file:
        file.write(model.model_dump_json().encode() + b"\n")
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)


def mend_tail(path: Path) -> None:
    """Cut off a line that a power cut left unfinished."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        os.fsync(file.fileno())
