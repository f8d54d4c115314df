"""Import: every row and every picture is looked at, and the data set appears whole or not at all.

Sources are uploads (a zip, a parquet file), folders, and data sets of the Hub. What was read is
staged beside the data sets and renamed at the end; nothing else is kept of it.
"""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from chats.errors import UserError
from chats.pairs.hub import is_hub_id
from training.config import DataSettings
from training.data.pictures import check
from training.datasets.dataset import PICTURES, Dataset, add_picture, write_rows
from training.datasets.records import Report, StoredRow
from training.datasets.store import DatasetStore
from training.preferences.archive import ArchiveLimits, unpack
from training.preferences.bad_rows import BadRows, RowFault
from training.preferences.hub import read_hub
from training.preferences.pairs import Picture, PictureFile, PreferencePair
from training.preferences.read import open_preferences, source_name
from training.progress import OnProgress, Progress, told_to_nobody

MAX_ROWS = 1_000_000
MAX_FAULTS = 200
MAX_SIZES = 12
LIMITS = ArchiveLimits(num_files=2 * MAX_ROWS + 1000, num_bytes=64 * 2**30)


def import_file(
    store: DatasetStore,
    settings: DataSettings,
    *,
    name: str = "",
    on_progress: OnProgress = told_to_nobody,
) -> Dataset:
    """Import a zip, a parquet file or a folder of this machine.

    Raises:
        UserError: It can't be read as a whole, or no row of it can be used.
    """
    path = settings.path
    if not path.exists():
        raise UserError(f"There is no {path.name!r} any more. Send or name it again.")
    with store.staging() as staged:
        if path.suffix.lower() == ".zip":
            inner = _unpack(path, staged, on_progress)
            settings = settings.model_copy(update={"path": inner})
        bad_rows = BadRows(max_listed=MAX_FAULTS)
        return _import(
            store,
            staged / "dataset",
            pairs=open_preferences(settings, bad_rows),
            bad_rows=bad_rows,
            name=name or path.stem,
            origin=_origin(path),
            on_progress=on_progress,
        )


def import_hub(
    store: DatasetStore,
    settings: DataSettings,
    *,
    name: str = "",
    on_progress: OnProgress = told_to_nobody,
) -> Dataset:
    """Import the first `max_pairs` of a data set on the Hub.

    Raises:
        UserError: It can't be reached or read, or no row of it can be used.
    """
    repo_id = checked_hub_id(settings.path.as_posix())
    with store.staging() as staged:
        bad_rows = BadRows(max_listed=MAX_FAULTS)
        settings = settings.model_copy(update={"streaming": True, "cache": staged})
        return _import(
            store,
            staged / "dataset",
            pairs=read_hub(repo_id, settings, bad_rows),
            bad_rows=bad_rows,
            name=name or repo_id.rpartition("/")[2],
            origin=f"Hub: {repo_id}, split {settings.split}",
            on_progress=on_progress,
            total=settings.max_pairs,
        )


def checked_hub_id(repo_id: str) -> str:
    """Return an id of the Hub; refuses what the library datasets would take for a folder.

    Raises:
        UserError: It is none, or a folder has this name.
    """
    if not is_hub_id(repo_id):
        raise UserError(f"{repo_id!r:.200} is no id of the Hub. Write it like owner/name.")
    if Path(repo_id).exists():
        raise UserError(f"{repo_id} is also a folder of the server, so it can't be fetched here.")
    return repo_id


def validate(dataset: Dataset, *, on_progress: OnProgress = told_to_nobody) -> Report:
    """Look again at every row and picture that is stored, as an import does."""
    rows = dataset.rows()
    bad_rows, sizes = BadRows(max_listed=MAX_FAULTS), Counter[str]()
    for k, row in enumerate(rows):
        try:
            for name in (row.chosen_file_name, row.rejected_file_name):
                sizes[_size(PictureFile(dataset.picture(name)))] += 1
        except RowFault as fault:
            bad_rows.add(row.row, fault)
        on_progress(Progress("rows checked", k + 1, len(rows)))
    return _report(bad_rows, sizes, num_kept=len(rows) - len(bad_rows))


def _import(
    store: DatasetStore,
    folder: Path,
    *,
    pairs: Iterator[PreferencePair],
    bad_rows: BadRows,
    name: str,
    origin: str,
    on_progress: OnProgress,
    total: int | None = None,
) -> Dataset:
    (folder / PICTURES).mkdir(parents=True)
    rows, sizes = [], Counter[str]()
    for pair in pairs:
        try:
            rows.append(_stored(pair, folder, sizes))
        except RowFault as fault:
            bad_rows.add(pair.row, fault)
        num_read = len(rows) + len(bad_rows) + bad_rows.num_ties
        if num_read > MAX_ROWS:
            raise UserError(f"{name} has more than {MAX_ROWS:,} rows. Split it into several.")
        on_progress(Progress("rows checked", num_read, total))
    if not rows:
        raise UserError(_nothing_left(name, bad_rows))
    write_rows(folder, rows)
    os.sync()  # one call for all pictures; a folder that was renamed must not hold empty files
    report = _report(bad_rows, sizes, num_kept=len(rows))
    return store.adopt(folder, name=name, origin=origin, report=report)


def _stored(pair: PreferencePair, folder: Path, sizes: Counter[str]) -> StoredRow:
    names, facts = [], []
    for half, picture in (("chosen", pair.preferred), ("rejected", pair.dispreferred)):
        content = picture.read()
        label = picture.name if isinstance(picture, PictureFile) else half
        stored, size = add_picture(folder, content, name=label, is_synced=False)
        names.append(stored)
        facts.append(size)
    if names[0] == names[1]:
        raise RowFault("the same picture twice", "both pictures are the same file")
    sizes.update(f"{width} × {height}" for width, height in facts)
    return StoredRow(
        prompt=pair.prompt, chosen_file_name=names[0], rejected_file_name=names[1], row=pair.row
    )


def _size(picture: Picture) -> str:
    facts = check(picture.read(), name=picture.name)
    return f"{facts.width} × {facts.height}"


def _report(bad_rows: BadRows, sizes: Counter[str], *, num_kept: int) -> Report:
    return Report(
        when=datetime.now(UTC),
        num_read=num_kept + len(bad_rows) + bad_rows.num_ties,
        num_kept=num_kept,
        num_ties=bad_rows.num_ties,
        ties=tuple(bad_rows.ties),
        dropped=dict(bad_rows.counts.most_common()),
        faults=tuple(bad_rows.listed),
        sizes=dict(sizes.most_common(MAX_SIZES)),
    )


def _nothing_left(name: str, bad_rows: BadRows) -> str:
    if bad_rows:
        return bad_rows.text(f"No row of {name} can be used:")
    if bad_rows.num_ties:
        return f"All {bad_rows.num_ties:,} rows of {name} are ties: nothing is preferred in them."
    return f"{name} holds no rows."


def _unpack(path: Path, staged: Path, on_progress: OnProgress) -> Path:
    num_bytes = 0

    def count(more: int) -> None:
        nonlocal num_bytes
        num_bytes += more
        on_progress(Progress("MB unpacked", num_bytes // 10**6))

    return unpack(path, staged / "unpacked", limits=LIMITS, on_bytes=count)


def _origin(path: Path) -> str:
    kind = "Folder" if path.is_dir() else f"File ({path.suffix.lstrip('.').lower()})"
    return f"{kind}: {source_name(path)}"
