"""Voters in forked children that are killed while they touch the disk.

    python -m tests.kill_votes WORKSPACE FOLDER FIRST SECOND

The workspace has the matches FIRST and SECOND. Child N works in a copy, FOLDER/N: it votes on both,
takes the first vote back, and leaves in N.said each word that a person was told. It is killed at
file operation 7·N − 6 (an audit hook counts about a hundred); the last child comes to the end.
"""

import os
import shutil
import sys
from pathlib import Path

from tests.kill_submit import die_after
from tests.tiny_votes import open_store


def main() -> None:
    """Leave a folder for each child."""
    workspace, folder, first, second = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    number, is_done = 0, False
    while not is_done:
        number += 1
        own = folder / str(number)
        shutil.copytree(workspace, own)
        child = os.fork()
        if child == 0:
            collection = open_store(own).find(first)
            said = os.open(folder / f"{number}.said", os.O_CREAT | os.O_WRONLY)
            die_after(7 * number - 6, folder=str(own))
            collection.vote(first, "left")
            os.write(said, b"first\n")
            collection.vote(second, "right")
            os.write(said, b"second\n")
            collection.undo(first)
            os.write(said, b"undone\n")
            os._exit(0)
        is_done = os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main()
