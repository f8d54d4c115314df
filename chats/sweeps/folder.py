"""A sweep on disk: what it is, what is done of it, its pictures. Killed at any moment it is whole.

    sweep.json      the settings, and their hash
    scores.jsonl    a line for each call: which pictures it made, their scores, what it took
    pictures/       a PNG for each picture, with its settings inside

A call's pictures are on the disk before its line is. What stands after the last whole line is
nothing that was promised, and is made again. No torch here.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image
from pydantic import Field, ValidationError

from chats.config import FrozenSettings, GenerationConfig
from chats.disk import disk_errors_explained, sync, write_atomically
from chats.errors import UserError, explain_validation
from chats.generation.png import png_info
from chats.pairs.weight_files import read_json
from chats.sweeps.config import SweepConfig
from chats.sweeps.plan import cells, pictures

SETTINGS_FILE = "sweep.json"
SCORES_FILE = "scores.jsonl"
FORMAT_VERSION = 1

_REMEDY = "then start the sweep again: it goes on where it was; or give it another folder."


class Call(FrozenSettings):
    """One line of scores.jsonl: a call that is done."""

    first: int = Field(ge=0)
    """Index of its first picture."""

    count: int = Field(ge=1)
    """Number of its pictures."""

    scores: tuple[float, ...] | None
    """A score for each picture; none without a scorer."""

    rows_per_call: int = Field(ge=1)
    """The most pictures that fit into a call; the next calls are no larger."""

    seconds: float = Field(ge=0)
    """What it took, without waiting for the scorer."""

    num_predictions: int = Field(ge=0)
    """Predictions that it made; see `ImagesEvent`."""

    notices: tuple[str, ...] = ()
    """What the person is to be told."""


class SweepFolder:
    """One sweep; reading needs no lock, so a page may look while another program works."""

    def __init__(self, path: Path, config: SweepConfig) -> None:
        self.path = path
        self.config = config
        self._cells, self._pictures = cells(config), pictures(config)

    @classmethod
    def create(cls, path: Path, config: SweepConfig) -> "SweepFolder":
        """Begin a sweep, or open the one in this folder if it has the same settings.

        Raises:
            UserError: another sweep or something else is there, or the disk refuses.
        """
        if (path / SETTINGS_FILE).is_file():
            there = cls.open(path)
            if there.config != config and there.num_done():
                raise UserError(
                    f"{path.name} holds a sweep with other settings ({_differences(there, config)})"
                    ". Give this one a folder of its own, or the same settings to go on with that."
                )
            if there.config == config:
                return there
        elif path.exists() and _has_files(path):
            raise UserError(f"{path.name} is not empty and holds no sweep. Name a new folder.")
        with disk_errors_explained(path, remedy=_REMEDY):
            (path / "pictures").mkdir(parents=True, exist_ok=True)
        document = {
            "version": FORMAT_VERSION,
            "hash": settings_hash(config),
            "config": config.model_dump(mode="json"),
        }
        write_atomically(
            path / SETTINGS_FILE, json.dumps(document, indent=1) + "\n", remedy=_REMEDY
        )
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """Open a sweep.

        Raises:
            UserError: there is none, or its settings were changed or are another version's.
        """
        document = read_json(path / SETTINGS_FILE)
        if document.get("version") != FORMAT_VERSION:
            raise UserError(
                f"The sweep in {path.name} has format version {document.get('version')!r}; this "
                f"program reads version {FORMAT_VERSION}."
            )
        try:
            config = SweepConfig.model_validate(document.get("config"))
        except ValidationError as error:
            raise UserError(
                f"{SETTINGS_FILE} in {path.name}: {explain_validation(error)}"
            ) from None
        if document.get("hash") != settings_hash(config):
            raise UserError(
                f"{SETTINGS_FILE} in {path.name} was changed after the sweep began: its pictures "
                "are those of other settings. Start a new sweep."
            )
        return cls(path, config)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep other programs from working on this sweep; what was not promised is cut off.

        Raises:
            UserError: another program works on it.
        """
        lock = FileLock(self.path / "sweep.lock")
        with disk_errors_explained(self.path, remedy=_REMEDY):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"Another program is making the sweep {self.path.name}. Wait until it has "
                    "ended."
                ) from None
        try:
            self._cut_off_the_rest()
            yield
        finally:
            lock.release()

    def calls(self) -> list[Call]:
        """Return the calls that are done, in order; together they are the first pictures."""
        return self._read()[0]

    def num_done(self) -> int:
        """Return how many pictures there are; they are the first ones of the plan."""
        return sum(call.count for call in self.calls())

    def picture(self, index: int) -> Path:
        """Return where a picture is, or will be."""
        made = self._pictures[index]
        cell = self._cells[made.cell]
        name = f"{index:05d}_s{cell.scale:g}_alpha{cell.alpha:g}_seed{self.config.seeds[made.seed]}"
        return self.path / "pictures" / f"{name}.png"

    def append(
        self, call: Call, images: Sequence[Image.Image], configs: Sequence[GenerationConfig]
    ) -> None:
        """Write a call's pictures, then its line, each to the disk before going on.

        Raises:
            UserError: the disk refuses.
        """
        with disk_errors_explained(self.path, remedy=_REMEDY):
            for index, image, config in zip(
                range(call.first, call.first + call.count), images, configs, strict=True
            ):
                _write_durably(self.picture(index), _png(image, config))
            sync(self.path / "pictures")
            with (self.path / SCORES_FILE).open("ab") as file:
                file.write(call.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            sync(self.path)

    def _cut_off_the_rest(self) -> None:
        path = self.path / SCORES_FILE
        _, num_bytes = self._read()
        with disk_errors_explained(self.path, remedy=_REMEDY):
            if path.is_file() and path.stat().st_size > num_bytes:
                os.truncate(path, num_bytes)

    def _read(self) -> tuple[list[Call], int]:
        """Return the calls that count, and how many bytes their lines have."""
        path = self.path / SCORES_FILE
        calls: list[Call] = []
        first = num_bytes = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            call = _parse(line)
            if call is None or call.first != first or not self._is_there(call):
                break
            calls.append(call)
            first += call.count
            num_bytes += len(line)
        return calls, num_bytes

    def _is_there(self, call: Call) -> bool:
        indices = range(call.first, call.first + call.count)
        return indices.stop <= len(self._pictures) and all(
            self.picture(index).is_file() for index in indices
        )


def settings_hash(config: SweepConfig) -> str:
    """Return what tells settings apart, the same in every process."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_sweep_name(name: str) -> bool:
    """Say whether a text of unknown origin can be the name of a sweep's folder."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", name) is not None


def _has_files(path: Path) -> bool:
    if not path.is_dir():
        raise UserError(f"{path.name} is a file. Name a folder.")
    return any(path.iterdir())


def _differences(there: SweepFolder, config: SweepConfig) -> str:
    names = [
        name
        for name in SweepConfig.model_fields
        if getattr(there.config, name) != getattr(config, name)
    ]
    return ", ".join(names)


def _parse(line: bytes) -> Call | None:
    if not line.endswith(b"\n"):
        return None
    try:
        call = Call.model_validate_json(line)
    except ValidationError:
        return None
    return call if call.scores is None or len(call.scores) == call.count else None


def _png(image: Image.Image, config: GenerationConfig) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=png_info(config))
    return stream.getvalue()


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
