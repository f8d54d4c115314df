"""Where preference pairs are read from: each kind of source has its own module."""

import logging
from collections.abc import Iterator
from pathlib import Path

from chats.errors import UserError
from chats.pairs.hub import is_hub_id
from training.config import DataSettings
from training.preferences.archive import unpack
from training.preferences.bad_rows import BadRows
from training.preferences.folder import METADATA_FILES, find_table, has_metadata, read_folder
from training.preferences.hub import read_hub
from training.preferences.pairs import PreferencePair
from training.preferences.tables import read_table

logger = logging.getLogger(__name__)


def read_preferences(settings: DataSettings) -> tuple[PreferencePair, ...]:
    """Read the pairs that the settings ask for, and check every row but not the pictures' content.

    Pictures are checked when they are decoded: reading all of them twice would take hours.

    Raises:
        UserError: The source is missing or can't be read as a whole, rows of it are wrong and
            `on_bad_rows` is `stop`, or there are fewer than two pairs.
    """
    bad_rows = BadRows()
    pairs = tuple(open_preferences(settings, bad_rows))
    name = source_name(settings.path)
    bad_rows.settle(settings.on_bad_rows, source=name)
    if len(pairs) < 2:
        raise UserError(f"{name} holds {len(pairs)} preference pairs; a training needs at least 2.")
    return pairs


def read_pairs(path: Path, *, max_pairs: int | None = None) -> tuple[PreferencePair, ...]:
    """Read pairs with the default settings, see `read_preferences`."""
    return read_preferences(DataSettings(path=path, max_pairs=max_pairs))


def source_name(path: Path) -> str:
    """Return how messages and records call a source: by its own name, or by its Hub id."""
    return path.resolve().name if path.exists() else path.as_posix()


def open_preferences(settings: DataSettings, bad_rows: BadRows) -> Iterator[PreferencePair]:
    """Return the pairs one by one; what can't be used is added to `bad_rows`.

    Raises:
        UserError: The source is missing or can't be read as a whole, at once or on the way.
    """
    path = settings.path
    if path.is_dir():
        return _read_directory(path, settings, bad_rows)
    if path.is_file():
        return _read_file(path, settings, bad_rows)
    if is_hub_id(path.as_posix()):
        return read_hub(path.as_posix(), settings, bad_rows)
    raise UserError(f"The data folder {path} does not exist. Set data.path.")


def _read_file(path: Path, settings: DataSettings, bad_rows: BadRows) -> Iterator[PreferencePair]:
    if path.suffix == ".zip":
        root = path.parent if settings.cache is None else settings.cache / "unpacked"
        return _read_directory(unpack(path, root), settings, bad_rows)
    if path.suffix == ".parquet":
        return _read_parquet([path], path.name, settings, bad_rows)
    raise UserError(f"{path.name} is no .zip and no .parquet file. Set data.path to one of them.")


def _read_directory(
    folder: Path, settings: DataSettings, bad_rows: BadRows
) -> Iterator[PreferencePair]:
    files = sorted(
        path for path in folder.rglob("*.parquet") if not _is_hidden(path.relative_to(folder))
    )
    if has_metadata(folder) or not files:
        table = find_table(folder)
        if table is None:
            raise UserError(
                f"{folder} holds neither {' nor '.join(METADATA_FILES)} nor parquet files. "
                "Set data.path to a folder that does."
            )
        return read_folder(folder, table, settings, bad_rows)
    of_split = [path for path in files if _is_of_split(path, settings.split)]
    if of_split and len(of_split) < len(files):
        logger.info("Of %d parquet files %d are of another split.", len(files), len(of_split))
    return _read_parquet(of_split or files, folder.name, settings, bad_rows)


def _read_parquet(
    files: list[Path], name: str, settings: DataSettings, bad_rows: BadRows
) -> Iterator[PreferencePair]:
    from training.preferences.parquet import ParquetTable

    return read_table(ParquetTable(files, name=name), settings, bad_rows)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_of_split(path: Path, split: str) -> bool:
    """Whether a file is named as the Hub names those of a split: train-00000-of-00005.parquet."""
    return path.stem.partition("-")[0] == split or path.parent.name == split
