"""Preferences on the Hub, with a local parquet file in its place: nothing is fetched."""

from pathlib import Path

import datasets
import pytest
from huggingface_hub import errors

from chats.errors import UserError
from tests.tiny_tables import ROWS, binarized, halves, pickapic, picture, write
from training.config import DataSettings
from training.preferences import read_preferences

HUB_ID = Path("somebody/preferences")


@pytest.fixture
def put_on_hub(monkeypatch, tmp_path):
    """Stand a table in for the Hub's only data set."""
    load_local = datasets.load_dataset

    def put(columns: dict[str, list], *, pictures: tuple[str, ...] = ()) -> None:
        table = write(tmp_path / "hub.parquet", columns)

        def load_dataset(repo_id, *, split, streaming):
            assert repo_id == "somebody/preferences"
            dataset = load_local(
                "parquet",
                data_files={"train": str(table)},
                split=split,
                streaming=streaming,
                cache_dir=str(tmp_path / "cache"),
            )
            for name in pictures:
                dataset = dataset.cast_column(name, datasets.Image())
            return dataset

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return put


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset doesn't exist"), "for who is logged in"),
        (ConnectionError("Couldn't reach the Hub"), "Hub cannot be reached"),
        (errors.OfflineModeIsEnabled("offline"), "Hub cannot be reached"),
        (ValueError("Unknown split \"train\". Should be one of ['x']."), r"Should be one of \['x"),
        (OSError(28, "No space left on device"), "No space left"),
        (datasets.exceptions.DatasetGenerationError("While generating"), "While generating"),
    ],
)
def test_each_failure_of_the_hub_is_one_clear_message(monkeypatch, error, message):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=f"somebody/preferences.*{message}"):
        read_preferences(DataSettings(path=HUB_ID))


def test_missing_columns_are_named_with_those_that_exist(put_on_hub):
    put_on_hub({"prompt": ["a"], "image": [b"1"]})
    for streaming in (False, True):
        with pytest.raises(UserError, match=r"no column 'chosen' and no 'rejected'; it has \['ima"):
            read_preferences(DataSettings(path=HUB_ID, streaming=streaming, max_pairs=2))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_that_is_not_there_is_named_with_those_that_are(put_on_hub, streaming):
    put_on_hub(binarized())
    with pytest.raises(UserError, match=r"The split 'tset' of somebody/preferences .*train"):
        read_preferences(DataSettings(path=HUB_ID, split="tset", streaming=streaming, max_pairs=2))


@pytest.mark.parametrize("streaming", [False, True])
def test_open_image_preferences_are_read_without_decoding_them(put_on_hub, streaming):
    put_on_hub(binarized(), pictures=("chosen", "rejected"))
    settings = DataSettings(path=HUB_ID, streaming=streaming, max_pairs=ROWS)
    pairs = read_preferences(settings)
    assert [pair.prompt for pair in pairs] == [f"prompt {row}" for row in range(ROWS)]
    assert halves(pairs) == [
        (picture("chosen", row), picture("rejected", row)) for row in range(ROWS)
    ]
    assert halves([pairs[3]]) == [(picture("chosen", 3), picture("rejected", 3))]


@pytest.mark.parametrize("streaming", [False, True])
def test_pickapic_is_read_by_its_labels_without_ties(put_on_hub, streaming):
    put_on_hub(pickapic([(1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0)]))
    settings = DataSettings(path=HUB_ID, streaming=streaming, max_pairs=2)
    pairs = read_preferences(settings)
    assert [pair.row for pair in pairs] == [1, 3]
    assert halves(pairs) == [
        (picture("jpg_0", 0), picture("jpg_1", 0)),
        (picture("jpg_1", 2), picture("jpg_0", 2)),
    ]


def test_a_stream_is_read_no_further_than_asked_and_leaves_nothing(monkeypatch, tmp_path):
    def rows():
        for row in range(3):
            yield {name: column[row] for name, column in binarized().items()}
        raise AssertionError("read on")

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    settings = DataSettings(path=HUB_ID, streaming=True, max_pairs=3, cache=tmp_path / "cache")
    pairs = read_preferences(settings)
    assert halves(pairs)[2] == (picture("chosen", 2), picture("rejected", 2))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_stream_without_an_end_is_refused():
    with pytest.raises(ValueError, match="streaming needs max_pairs"):
        DataSettings(path=HUB_ID, streaming=True)
