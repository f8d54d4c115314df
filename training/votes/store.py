"""All collections of votes of a workspace."""

import re
import secrets
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from chats.disk import disk_errors_explained, sync, write_atomically
from chats.errors import UserError
from chats.generation.prompts import clean_prompt
from training.datasets import DatasetStore
from training.datasets.records import DISK_REMEDY
from training.votes.collection import RECORD, Collection
from training.votes.records import CollectionRecord

DEFAULT_NAME = "Votes"

_ID = re.compile(r"\d{8}-[0-9a-f]{8}")
_MATCH = re.compile(r"[0-9a-f]{32}")
_MAX_NAME_CHARS = 120


class VoteStore:
    """The folder of the collections; processes may share it."""

    def __init__(self, folder: Path, datasets: DatasetStore) -> None:
        """Take the folder, which need not exist yet, and the data sets that votes go to."""
        self.folder = folder
        self._datasets = datasets
        self._lock = threading.Lock()
        self._opened: dict[str, Collection] = {}

    def collections(self) -> list[Collection]:
        """Return all collections, the newest first."""
        found = [
            path.name
            for path in self.folder.glob("*")
            if _ID.fullmatch(path.name) and (path / RECORD).is_file()
        ]
        with self._lock:
            for gone in self._opened.keys() - set(found):
                del self._opened[gone]
            for name in set(found) - self._opened.keys():
                self._opened[name] = Collection(self.folder / name, self._datasets)
            opened = [self._opened[name] for name in found]
        return sorted(opened, key=lambda each: each.record().created, reverse=True)

    def named(self, name: str) -> Collection:
        """Return the collection of this name; it is made if there is none.

        Raises:
            UserError: The disk refuses it.
        """
        name = _cleaned(name) or DEFAULT_NAME
        with disk_errors_explained(self.folder, remedy=DISK_REMEDY):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                for each in self.collections():
                    if each.record().name.casefold() == name.casefold():
                        return each
                made = self._create(name)
        return next(each for each in self.collections() if each.id == made)

    def find(self, match_id: str) -> Collection:
        """Return the collection of a match, whose id may come from anybody.

        Raises:
            UserError: There is no such match.
        """
        if isinstance(match_id, str) and _MATCH.fullmatch(match_id):
            for each in self.collections():
                if match_id in each.tally().matches:
                    return each
        shown = repr(match_id)
        raise UserError(f"There is no match {shown if len(shown) <= 40 else shown[:39] + '…'}.")

    def mend(self) -> None:
        """Do what a kill left undone, in all collections.

        Raises:
            UserError: a file is damaged, or the disk refuses.
        """
        for each in self.collections():
            each.mend()

    def _create(self, name: str) -> str:
        now = datetime.now(UTC)
        target = self.folder / f"{now:%Y%m%d}-{secrets.token_hex(4)}"
        staged = self.folder / f".new-{target.name}"
        for left in self.folder.glob(".new-*"):  # by who was killed: the lock is ours
            shutil.rmtree(left)
        staged.mkdir()
        record = CollectionRecord(name=name, created=now)
        write_atomically(staged / RECORD, record.model_dump_json() + "\n", remedy=DISK_REMEDY)
        staged.rename(target)
        sync(self.folder)
        return target.name


def _cleaned(name: object) -> str:
    text = clean_prompt(name if isinstance(name, str) else "", limits=()).text
    return " ".join(text.split())[:_MAX_NAME_CHARS].strip()
