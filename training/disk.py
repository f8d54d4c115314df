"""What a run writes: whole files, and what the disk refuses, said so that people can mend it."""

import functools

from chats import disk
from chats.disk import PARTIAL, read_if_there, sync

RUN_REMEDY = "then resume the run; or set its output to another folder."
"""What to do when the disk refuses to write a run."""

write_atomically = functools.partial(disk.write_atomically, remedy=RUN_REMEDY)
disk_errors_explained = functools.partial(disk.disk_errors_explained, remedy=RUN_REMEDY)

__all__ = [
    "PARTIAL",
    "RUN_REMEDY",
    "disk_errors_explained",
    "read_if_there",
    "sync",
    "write_atomically",
]
