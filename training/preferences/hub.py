"""Data sets of the Hub, read through the library datasets, which is imported only here."""

import contextlib
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chats.errors import UserError
from training.config import DataSettings
from training.preferences.bad_rows import BadRows
from training.preferences.pairs import PreferencePair
from training.preferences.rows import cell, choose_columns, pairs_of_rows
from training.preferences.tables import picture_bytes, read_table


def read_hub(repo_id: str, settings: DataSettings, bad_rows: BadRows) -> Iterator[PreferencePair]:
    """Read a data set of the Hub, or the copy of it that was fetched before.

    Streaming fetches only as many rows as are asked for. Their pictures are kept in a temporary
    file without a name, so nothing is left on the disk.

    Raises:
        UserError: There is no such data set or split, it can't be reached, or a column is missing.
    """
    dataset = _without_decoding(_load(repo_id, settings))
    if not settings.streaming:
        return read_table(HubTable(dataset, name=repo_id), settings, bad_rows)
    with _errors_explained(repo_id, settings):
        names = dataset.column_names or list(next(iter(dataset), {}))
    columns = choose_columns(names, settings, source=repo_id)
    spool = Spool(folder=settings.cache)
    return pairs_of_rows(
        enumerate(_streamed(dataset, repo_id, settings), start=1),
        columns=columns,
        picture=lambda _, row, column: spool.add(
            picture_bytes(cell(row, column), name=column), name=column
        ),
        bad_rows=bad_rows,
        max_pairs=settings.max_pairs,
    )


@dataclass(frozen=True)
class HubPreview:
    """The first rows of a data set on the Hub; nothing else of it was fetched."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    num_rows: int | None
    """Rows of the split; none if the Hub does not say."""


def preview_hub(repo_id: str, *, split: str, num_rows: int = 4) -> HubPreview:
    """Read only the first rows.

    Raises:
        UserError: There is no such data set or split, or it can't be reached.
    """
    settings = DataSettings(
        path=Path(repo_id), split=split, streaming=True, max_pairs=max(2, num_rows)
    )
    dataset = _without_decoding(_load(repo_id, settings))
    with _errors_explained(repo_id, settings):
        rows = tuple(dataset.take(num_rows))
        columns = tuple(dataset.column_names or next(iter(rows), {}))
    splits = getattr(dataset.info, "splits", None) or {}
    known = getattr(splits.get(split), "num_examples", None)
    return HubPreview(columns, rows, known or None)


class HubTable:
    """A data set of the library datasets as a `Table`; its rows are mapped from the disk."""

    def __init__(self, dataset: Any, *, name: str):
        """Take a data set whose pictures are not decoded."""
        self.name = name
        self.column_names = dataset.column_names
        self._dataset = dataset
        self._columns: dict[str, Any] = {}

    def rows(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Return all rows, with these columns only."""
        return iter(self._dataset.select_columns(list(columns)))

    def picture(self, row: int, column: str) -> bytes:
        """Return the content of a picture's file; raises RowFault if there is none."""
        if column not in self._columns:
            self._columns[column] = self._dataset.select_columns([column])
        return picture_bytes(self._columns[column][row][column], name=column)


class Spool:
    """Pictures in one temporary file that has no name and goes with the process."""

    def __init__(self, *, folder: Path | None):
        """Make the file in a folder; none means the machine's own for temporary files."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, content: bytes, *, name: str) -> "SpooledPicture":
        """Append a picture.

        Raises:
            UserError: The disk refuses it.
        """
        try:
            start = self._file.seek(0, 2)
            self._file.write(content)
        except OSError as error:
            raise UserError(
                f"The pictures can't be kept: {error.strerror}. Lower data.max_pairs, or set "
                "data.cache to a folder with more room."
            ) from error
        return SpooledPicture(self, name, start, len(content))

    def slice(self, start: int, num_bytes: int) -> bytes:
        """Return a part of the file."""
        self._file.seek(start)
        return self._file.read(num_bytes)


@dataclass(frozen=True, slots=True)
class SpooledPicture:
    """A picture that came in a stream."""

    spool: Spool
    name: str
    start: int
    num_bytes: int

    def read(self) -> bytes:
        """Return the content of the picture's file, see `Picture`."""
        return self.spool.slice(self.start, self.num_bytes)


def _load(repo_id: str, settings: DataSettings) -> Any:
    import datasets

    with _errors_explained(repo_id, settings):
        return datasets.load_dataset(repo_id, split=settings.split, streaming=settings.streaming)


def _streamed(dataset: Any, repo_id: str, settings: DataSettings) -> Iterator[Mapping[str, Any]]:
    with _errors_explained(repo_id, settings):
        yield from dataset


@contextlib.contextmanager
def _errors_explained(repo_id: str, settings: DataSettings) -> Iterator[None]:
    import datasets
    from huggingface_hub import errors

    try:
        yield
    except (ConnectionError, errors.OfflineModeIsEnabled):
        raise UserError(
            f"{repo_id} is not on this machine and the Hub cannot be reached. What works without a "
            "network: a folder, a zip, a parquet file, or a data set that was fetched before."
        ) from None
    except (datasets.exceptions.DatasetNotFoundError, errors.RepositoryNotFoundError) as error:
        raise UserError(
            f"There is no folder {repo_id!r} here, and not on the Hub either for who is logged in "
            f"({_first_line(error)}). Check the spelling; if it is private or asks for a consent, "
            "accept that on its page and log in with `hf auth login`."
        ) from None
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        # A wrong split is a ValueError that lists the right ones.
        raise UserError(
            f"The split {settings.split!r} of {repo_id} can't be read: "
            f"{_first_line(error.__cause__ or error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without_decoding(dataset: Any) -> Any:
    """Have pictures as the bytes of their files."""
    from datasets import Image

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset
