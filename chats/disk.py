"""Files that are whole at any moment, and what a disk refuses, said so that people can mend it."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from chats.errors import UserError

PARTIAL = ".partial"
"""What the name of a file ends in while it is being written."""

_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_atomically(path: Path, text: str, *, remedy: str, is_durable: bool = True) -> None:
    """Write a file so that it is always the old one or the new one, even if the power goes.

    Args:
        path: The file; its folder is made.
        text: Its content.
        remedy: See `disk_errors_explained`.
        is_durable: Whether to wait for the disk; without, power that goes may take the content.

    Raises:
        UserError: It can't be written; the old one stays.
    """
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}{PARTIAL}")
    with disk_errors_explained(path, remedy=remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("x", encoding="utf-8") as file:
                file.write(text)
                if is_durable:
                    file.flush()
                    os.fsync(file.fileno())
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if is_durable:
            sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors_explained(path: Path, *, remedy: str) -> Iterator[None]:
    """Turn what the disk refuses within into a UserError that says what to do.

    Args:
        path: How the message calls what is written.
        remedy: What to do after the disk was put in order, or instead.
    """
    try:
        yield
    except OSError as error:
        advice = (
            "Free some space on that disk"
            if error.errno in _DISK_IS_FULL
            else "Make that folder one that can be written to"
        )
        raise UserError(
            f"Can't write {path}: {error.strerror or error}. {advice}, {remedy}"
        ) from error


def read_if_there(path: Path) -> bytes | None:
    """Return a file's content; none if there is no such file.

    Raises:
        UserError: It is there and can't be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
