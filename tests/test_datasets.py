"""The store of preference data sets: what is refused, what is kept, and what every edit leaves."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from chats.errors import UserError
from tests.tiny_preferences import PROMPTS, read_metadata, write_metadata, write_preferences
from training.config import DataSettings
from training.datasets import DatasetStore
from training.datasets.edits import find_repeats
from training.datasets.export import write_zip
from training.datasets.importing import import_file, validate
from training.preferences import read_pairs
from training.progress import Progress

ROOT = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path):
    return DatasetStore(tmp_path / "datasets")


@pytest.fixture
def folder(tmp_path):
    return write_preferences(tmp_path / "pairs")


@pytest.fixture
def dataset(store, folder):
    return take_in(store, folder)


def take_in(store, path, **options):
    return import_file(store, DataSettings(path=path, on_bad_rows="skip"), **options)


def nothing_was_left(store) -> bool:
    return not store.folder.exists() or {path.name for path in store.folder.iterdir()} <= {".lock"}


def picture(number: int, half: str, folder: Path) -> bytes:
    return (folder / f"{number}_{half}.png").read_bytes()


# Importing


def test_a_folder_without_a_usable_row_is_refused_with_the_reasons_and_leaves_nothing(
    store, folder
):
    write_metadata(folder, [row | {"prompt": ""} for row in read_metadata(folder)])
    with pytest.raises(UserError, match=r"No row of pairs can be used: 4 rows \(4 × empty prompt"):
        take_in(store, folder)
    assert nothing_was_left(store)


def test_an_empty_table_is_refused(store, folder):
    write_metadata(folder, [])
    with pytest.raises(UserError, match="pairs holds no rows"):
        take_in(store, folder)


def test_every_row_that_cannot_be_used_is_in_the_report_with_its_number(store, folder):
    rows = read_metadata(folder)
    whole = (folder / rows[0]["chosen_file_name"]).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    same = rows[0] | {"rejected_file_name": rows[0]["chosen_file_name"]}
    bad = [
        rows[0] | {"chosen_file_name": "gone.png"},
        rows[0] | {"chosen_file_name": "cut.png"},
        rows[0] | {"rejected_file_name": "text.png"},
        same,
    ]
    write_metadata(folder, [*rows, *bad])
    report = take_in(store, folder).report()
    assert (report.num_read, report.num_kept) == (8, 4)
    assert [(bad.row, bad.kind) for bad in report.faults] == [
        (5, "missing picture"),
        (6, "damaged picture"),
        (7, "no picture"),
        (8, "the same picture twice"),
    ]
    assert "cut.png can't be read" in report.faults[1].reason
    assert report.sizes == {"20 × 16": 8}


def test_an_imported_set_reads_as_the_source_does(dataset, folder):
    expected, pairs = read_pairs(folder), read_pairs(dataset.folder)
    assert [pair.prompt for pair in pairs] == [pair.prompt for pair in expected]
    assert [pair.preferred.read() for pair in pairs] == [pair.preferred.read() for pair in expected]
    assert {row.chosen_file_name.partition("/")[0] for row in dataset.rows()} == {"pictures"}


def test_pictures_are_named_by_what_they_are_not_as_they_were_called(store, folder):
    rows = read_metadata(folder)
    (folder / "0_chosen.png").rename(folder / "spaß 🙂 — ①.JPG")
    write_metadata(folder, [rows[0] | {"chosen_file_name": "spaß 🙂 — ①.JPG"}, *rows[1:]])
    row = take_in(store, folder).rows()[0]
    assert row.chosen_file_name.endswith(".png")
    assert row.chosen_file_name.isascii()


def test_progress_may_end_an_import_and_nothing_is_left(store, folder):
    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_in(store, folder, on_progress=stop)
    assert nothing_was_left(store)


def test_what_a_killed_import_left_is_swept_and_a_living_one_is_not(store, folder):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from training.datasets import DatasetStore\n"
        "with DatasetStore(Path(sys.argv[1])).staging() as staged:\n"
        "    (staged / 'half').write_text('x')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.folder)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        take_in(store, folder)
        assert len(list(store.folder.glob(".staged-*/half"))) == 1
        process.send_signal(signal.SIGKILL)
    assert len(store.summaries()) == 1
    take_in(store, folder)
    assert list(store.folder.glob(".staged-*")) == []


# Naming one


@pytest.mark.parametrize(
    "name", ["", "x", "..", "../pairs", "/etc", ".lock", "20260101-00000000", None, 7, "a\0b"]
)
def test_what_is_no_id_of_a_data_set_is_refused_with_one_line(store, dataset, name):
    for act in (store.open, store.summary, store.delete):
        with pytest.raises(UserError, match=r"^There is no data set .* here\. Choose one"):
            act(name)


def test_a_deleted_set_is_gone_and_takes_no_more_votes(store, dataset, folder):
    store.delete(dataset.id)
    assert nothing_was_left(store)
    with pytest.raises(UserError, match="There is no data set"):
        dataset.append(
            prompt="x",
            chosen=picture(0, "chosen", folder),
            rejected=picture(0, "rejected", folder),
        )
    assert nothing_was_left(store)


# Editing


def test_edits_of_rows_that_are_not_there_change_nothing(dataset):
    before = dataset.rows()
    for action in ("drop", "swap", "prompt"):
        with pytest.raises(UserError, match="There is no row 99 here"):
            dataset.edit(action, rows=[1, 99], prompt="x")
        with pytest.raises(UserError, match="No row is given"):
            dataset.edit(action, prompt="x")
    with pytest.raises(UserError, match="The prompt is empty"):
        dataset.edit("prompt", rows=[1], prompt=" \n")
    with pytest.raises(UserError, match="would leave nothing"):
        dataset.edit("drop", rows=[1, 2, 3, 4])
    with pytest.raises(UserError, match="no edit to undo"):
        dataset.edit("undo")
    assert (dataset.rows(), dataset.version()) == (before, 1)


def test_each_edit_makes_a_version_and_undo_takes_them_back_one_by_one(dataset):
    versions = [dataset.rows()]
    for action, rows in (("drop", [2]), ("swap", [1, 3]), ("prompt", [4])):
        dataset.edit(action, rows=rows, prompt="a better prompt")
        versions.append(dataset.rows())
    assert [row.row for row in versions[1]] == [1, 3, 4]
    assert versions[2][0].chosen_file_name == versions[0][0].rejected_file_name
    assert versions[3][2].prompt == "a better prompt"
    for expected in (versions[2], versions[1], versions[0]):
        dataset.edit("undo")
        assert dataset.rows() == expected
    assert dataset.version() == 7


def test_undo_leaves_what_was_added_since_and_numbers_are_never_given_twice(dataset, folder):
    dataset.edit("drop", rows=[4])
    halves = {half: picture(0, half, folder) for half in ("chosen", "rejected")}
    assert dataset.append(prompt="new", **halves).row == 5
    dataset.edit("drop", rows=[5])
    assert dataset.append(prompt="newer", **halves).row == 6
    dataset.edit("undo")
    dataset.edit("undo")
    assert [row.row for row in dataset.rows()] == [1, 2, 3, 4, 5, 6]


def test_repeats_and_contradictions_are_found_whatever_the_prompts_case(store, folder):
    rows = read_metadata(folder)
    swapped = {
        "prompt": rows[1]["prompt"],
        "chosen_file_name": rows[1]["rejected_file_name"],
        "rejected_file_name": rows[1]["chosen_file_name"],
    }
    write_metadata(folder, [*rows, rows[0] | {"prompt": "A  red CIRCLE"}, swapped])
    found = find_repeats(take_in(store, folder).rows())
    assert (found.repeats, found.contradictions) == ([5], [6])


# Adding


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "x" * 20_000}, "20,000 characters"),
        ({"chosen": b""}, "chosen is empty"),
        ({"chosen": b"GIF89a"}, "chosen is no PNG, JPEG or WebP"),
    ],
)
def test_a_preference_that_cannot_be_used_is_refused(dataset, folder, changed, message):
    given = {half: picture(0, half, folder) for half in ("chosen", "rejected")}
    with pytest.raises(UserError, match=message):
        dataset.append(**({"prompt": "x"} | given | changed))
    with pytest.raises(UserError, match="Both pictures are the same"):
        dataset.append(prompt="x", chosen=given["chosen"], rejected=given["chosen"])
    assert len(dataset.rows()) == len(PROMPTS)


def test_a_set_made_empty_takes_preferences_with_their_provenance(store, folder):
    votes = store.create(name="Votes", origin="Votes")
    halves = {half: picture(1, half, folder) for half in ("chosen", "rejected")}
    votes.append(prompt="two blue stars", **halves, provenance={"seed": 7, "method": "chats"})
    votes.append(prompt="two blue stars", **halves)
    assert [row.row for row in votes.rows()] == [1, 2]
    assert json.loads(votes.rows()[0].provenance) == {"seed": 7, "method": "chats"}
    assert [pair.prompt for pair in read_pairs(votes.folder)] == ["two blue stars"] * 2
    assert store.summary(votes.id).num_pairs == 2


def _vote(folder: Path, votes_folder: Path, who: int) -> None:
    votes = DatasetStore(votes_folder.parent).open(votes_folder.name)
    for number in range(8):
        votes.append(
            prompt=f"{who} {number}",
            chosen=picture(number % 4, "chosen", folder),
            rejected=picture(number % 4, "rejected", folder),
        )


def test_two_processes_add_to_one_set_and_nothing_is_lost(store, folder):
    votes = store.create(name="Votes", origin="Votes")
    context = multiprocessing.get_context("spawn")
    voters = [context.Process(target=_vote, args=(folder, votes.folder, who)) for who in (1, 2)]
    for voter in voters:
        voter.start()
    for voter in voters:
        voter.join(60)
    assert [voter.exitcode for voter in voters] == [0, 0]
    rows = votes.rows()
    assert [row.row for row in rows] == list(range(1, 17))
    assert {row.prompt for row in rows} == {f"{who} {n}" for who in (1, 2) for n in range(8)}


def test_a_line_that_a_power_cut_left_unfinished_is_cut_off(dataset, folder):
    with (dataset.folder / "metadata.jsonl").open("a") as file:
        file.write('{"prompt": "half')
    assert len(dataset.rows()) == 4
    halves = {half: picture(0, half, folder) for half in ("chosen", "rejected")}
    assert dataset.append(prompt="whole", **halves).row == 5
    assert [row.prompt for row in dataset.rows()] == [*PROMPTS, "whole"]


# Checking and exporting


def test_a_picture_that_was_damaged_on_the_disk_is_found(dataset):
    dataset.picture(dataset.rows()[2].rejected_file_name).write_bytes(b"\x89PNG")
    dataset.picture(dataset.rows()[3].chosen_file_name).unlink()
    report = validate(dataset)
    assert (report.num_read, report.num_kept) == (4, 2)
    assert [bad.row for bad in report.faults] == [3, 4]


def test_an_export_holds_what_is_left_and_imports_again(store, dataset, tmp_path):
    dataset.edit("drop", rows=[1])
    dropped = dataset.edits()[0].before[0].chosen_file_name
    path = write_zip(dataset, tmp_path / "out.zip")
    with zipfile.ZipFile(path) as archive:
        assert dropped not in archive.namelist()
        assert len(archive.namelist()) == 2 + 6
    again = take_in(store, path)
    assert [row.prompt for row in again.rows()] == list(PROMPTS[1:])
    assert {row.chosen_file_name for row in again.rows()} == {
        row.chosen_file_name for row in dataset.rows()
    }


def test_rows_of_a_large_set_are_read_and_edited_in_seconds(store, dataset):
    row = dataset.rows()[0]
    lines = [row.model_copy(update={"row": k}).model_dump_json() for k in range(1, 20_001)]
    (dataset.folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    start = time.process_time()
    dataset.edit("swap", rows=[7])
    assert time.process_time() - start < 5
    assert store.summary(dataset.id).num_pairs == 20_000
