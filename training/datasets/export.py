"""A data set as others take it: the rows as they are now and their pictures, in the same layout."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from training.datasets.dataset import METADATA, Dataset
from training.datasets.records import DISK_REMEDY, StoredRow
from training.disk import disk_errors_explained
from training.progress import OnProgress, Progress, told_to_nobody

CARD = "README.md"


def write_zip(dataset: Dataset, path: Path, *, on_progress: OnProgress = told_to_nobody) -> Path:
    """Write the table, the pictures that it names, and a card; what was edited out stays here.

    Raises:
        UserError: The disk refuses it.
    """
    rows = dataset.rows()
    names = _picture_names(rows)
    with (
        disk_errors_explained(path, remedy=DISK_REMEDY),
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(METADATA, _table(rows))
        archive.writestr(CARD, dataset_card(dataset, num_pairs=len(rows)))
        for k, name in enumerate(names):
            archive.write(dataset.picture(name), name, zipfile.ZIP_STORED)
            on_progress(Progress("pictures packed", k + 1, len(names)))
    return path


def write_folder(dataset: Dataset, folder: Path) -> Path:
    """Write the same into a new folder; pictures are linked where the disk can do that.

    Raises:
        UserError: The disk refuses it.
    """
    rows = dataset.rows()
    with disk_errors_explained(folder, remedy=DISK_REMEDY):
        folder.mkdir(parents=True)
        (folder / METADATA).write_text(_table(rows), encoding="utf-8")
        card = dataset_card(dataset, num_pairs=len(rows))
        (folder / CARD).write_text(card, encoding="utf-8")
        for name in _picture_names(rows):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(dataset.picture(name), folder / name)
            except OSError:
                shutil.copyfile(dataset.picture(name), folder / name)
    return folder


def dataset_card(dataset: Dataset, *, num_pairs: int) -> str:
    """Return the README.md with its YAML header."""
    record = dataset.record()
    header = {
        "pretty_name": record.name,
        "task_categories": ["text-to-image"],
        "tags": ["preferences", "chats"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "**"}]}],
    }
    title = " ".join(record.name.split()).replace("<", "&lt;")
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        f"{num_pairs:,} preference pairs: a prompt, a picture that is preferred (`chosen`) and one "
        "that is not (`rejected`), in the ImageFolder layout.\n"
    )


def _table(rows: Sequence[StoredRow]) -> str:
    """Every line has the same columns; provenance only where some row has it."""
    left_out = set() if any(row.provenance for row in rows) else {"provenance"}
    return "".join(_lines(rows, left_out))


def _lines(rows: Sequence[StoredRow], left_out: set[str]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row.model_dump(exclude=left_out), ensure_ascii=False) + "\n"


def _picture_names(rows: Sequence[StoredRow]) -> list[str]:
    return sorted({name for row in rows for name in (row.chosen_file_name, row.rejected_file_name)})
