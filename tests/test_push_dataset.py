"""A preference data set to the Hub and from it, against Hubs of our own."""

from pathlib import Path

import datasets
import pytest
from huggingface_hub import errors

from chats.errors import UserError
from tests.test_push import FakeApi, http_error
from tests.tiny_preferences import PROMPTS, write_preferences
from training.__main__ import main
from training.config import DataSettings
from training.datasets import DatasetStore
from training.datasets.importing import import_file, import_hub
from training.preferences.hub import preview_hub
from training.publishing.push_dataset import push_dataset


@pytest.fixture
def folder(tmp_path):
    return write_preferences(tmp_path / "pairs")


@pytest.fixture
def store(tmp_path):
    return DatasetStore(tmp_path / "datasets")


@pytest.fixture
def dataset(store, folder):
    return import_file(store, DataSettings(path=folder))


def push(store, dataset, api, *, repo_id="owner/name", private=False) -> str:
    return push_dataset(store, dataset.id, repo_id, private=private, api=api)


@pytest.mark.parametrize("repo_id", ["", "name", "../x/y", "a/b/c", "owner/na me"])
def test_what_is_no_name_of_a_repository_is_refused(store, dataset, repo_id):
    api = FakeApi()
    with pytest.raises(UserError, match="is no name of a repository"):
        push(store, dataset, api, repo_id=repo_id)
    assert api.num_commits == 0


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (FakeApi(["train.parquet"], private=True), "holds something else than preference pairs"),
        (FakeApi(["metadata.jsonl"]), "is there already and is public"),
        (FakeApi(refuse={"whoami": errors.LocalTokenNotFoundError()}), "nobody is logged in"),
        (FakeApi(refuse={"whoami": ConnectionError()}), "Exporting a zip works without"),
        (FakeApi(refuse={"upload_folder": http_error(403)}), "token that may write"),
    ],
)
def test_each_refusal_is_one_message_and_nothing_is_left(store, dataset, api, message):
    with pytest.raises(UserError, match=f"owner/name.*{message}"):
        push(store, dataset, api, private=True)
    assert api.num_commits == 0
    assert list(store.folder.glob(".staged-*")) == []


def test_a_push_replaces_an_earlier_one_and_leaves_out_what_was_edited_out(store, dataset):
    api = FakeApi(["metadata.jsonl", "pictures/00/old.png", "notes.txt"])
    dataset.edit("drop", rows=[1])
    assert push(store, dataset, api) == "https://huggingface.co/owner/name"
    kept = {
        name for row in dataset.rows() for name in (row.chosen_file_name, row.rejected_file_name)
    }
    assert api.files["owner/name"] == kept | {"metadata.jsonl", "README.md", "notes.txt"}


@pytest.fixture
def on_hub(monkeypatch, folder):
    """Stand the folder in for the Hub's only data set."""

    def load_dataset(repo_id, *, split, streaming):
        assert (repo_id, split, streaming) == ("somebody/preferences", "train", True)

        def rows():
            for number, prompt in enumerate(PROMPTS):
                pictures = {
                    half: {"bytes": (folder / f"{number}_{half}.png").read_bytes(), "path": None}
                    for half in ("chosen", "rejected")
                }
                yield {"prompt": prompt, **pictures}
            raise AssertionError("read on")

        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_a_preview_reads_the_first_rows_only(on_hub):
    found = preview_hub("somebody/preferences", split="train", num_rows=3)
    assert [row["prompt"] for row in found.rows] == list(PROMPTS[:3])
    assert set(found.columns) == {"prompt", "chosen", "rejected"}


def test_an_import_from_the_hub_reads_as_many_pairs_as_were_asked_for(on_hub, store):
    path = Path("somebody/preferences")
    settings = DataSettings(path=path, streaming=True, max_pairs=3, on_bad_rows="skip")
    told = []
    dataset = import_hub(store, settings, on_progress=told.append)
    assert [row.prompt for row in dataset.rows()] == list(PROMPTS[:3])
    assert dataset.record().origin == "Hub: somebody/preferences, split train"
    assert (told[-1].done, told[-1].total) == (3, 3)
    assert list(store.folder.glob(".staged-*")) == []


def test_a_folder_is_imported_from_the_command_line(monkeypatch, tmp_path, folder, capsys):
    (folder / "3_chosen.png").write_bytes(b"no picture")
    command = ["training", "import", str(folder), "--workspace", str(tmp_path), "--name", "Mine"]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 0
    said = capsys.readouterr().out
    assert "3 of 4 rows are now in" in said
    assert "Row 4: 3_chosen.png is no PNG, JPEG or WebP image" in said
    (summary,) = DatasetStore(tmp_path / "datasets").summaries()
    assert (summary.name, summary.num_pairs) == ("Mine", 3)
    monkeypatch.setattr("sys.argv", [*command[:2], str(tmp_path / "none"), *command[3:]])
    assert main() == 1
    assert "There is no 'none' any more" in capsys.readouterr().err
