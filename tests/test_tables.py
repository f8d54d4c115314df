"""Preferences in parquet files: what is refused, and when pictures are read."""

import pytest

from chats.errors import UserError
from tests.tiny_tables import ROWS, binarized, halves, pickapic, picture, write
from training.config import DataSettings
from training.preferences import read_pairs, read_preferences


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet" * 100])
def test_a_file_that_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.parquet is no parquet file or is damaged"):
        read_pairs(tmp_path / "bad.parquet")


def test_missing_columns_are_named_with_those_that_exist(tmp_path):
    path = write(tmp_path / "a.parquet", {"image_0": [b"1"], "image_1": [b"2"], "label": [0]})
    with pytest.raises(
        UserError,
        match=r"a\.parquet has no column 'prompt' and no 'chosen' and no 'rejected'; it has "
        r"\['image_0', 'image_1', 'label'\]",
    ):
        read_pairs(path)


def test_a_column_that_one_of_the_files_lacks_is_missing(tmp_path):
    write(tmp_path / "set" / "0.parquet", binarized())
    columns = binarized()
    del columns["rejected"]
    write(tmp_path / "set" / "1.parquet", columns)
    with pytest.raises(UserError, match="set has no column 'rejected'"):
        read_pairs(tmp_path / "set")


def test_an_empty_table_is_refused(tmp_path):
    path = write(tmp_path / "empty.parquet", binarized(rows=0))
    with pytest.raises(UserError, match=r"empty\.parquet holds 0 preference pairs"):
        read_pairs(path)


@pytest.mark.parametrize("prompts", [[["a"], ["b"]], [1, 2], [None, "b"], ["", "b"]])
def test_prompts_that_are_lists_numbers_or_empty_are_refused(tmp_path, prompts):
    columns = binarized(rows=2) | {"prompt": prompts}
    with pytest.raises(UserError, match=r"\nRow 1: prompt (must be text|is empty)"):
        read_pairs(write(tmp_path / "a.parquet", columns))


@pytest.mark.parametrize(
    "cell", [None, {"bytes": None, "path": None}, {"bytes": None, "path": "../secret.png"}]
)
def test_a_cell_without_a_picture_is_a_fault_when_it_is_read(tmp_path, cell):
    (tmp_path / "secret.png").write_bytes(b"secret")
    columns = binarized(rows=2)
    columns["chosen"][1] = cell
    pairs = read_pairs(write(tmp_path / "set" / "a.parquet", columns))
    assert pairs[0].preferred.read() == picture("chosen", 0)
    with pytest.raises(UserError, match=r"holds no picture|leads out of the folder"):
        pairs[1].preferred.read()


def test_labels_that_are_no_numbers_are_refused_with_their_rows(tmp_path):
    path = write(tmp_path / "a.parquet", pickapic([(1, 0), (None, 0), (float("nan"), 1)]))
    with pytest.raises(UserError, match=r"2 × label that is no number.*\nRow 2: label_0"):
        read_pairs(path)


def test_pictures_come_from_structs_whatever_the_order_and_the_row_groups(tmp_path):
    write(tmp_path / "set" / "0.parquet", binarized(rows=70), row_group_size=3)
    write(tmp_path / "set" / "1.parquet", binarized(rows=40), row_group_size=40)
    pairs = read_pairs(tmp_path / "set")
    assert [pair.row for pair in pairs] == list(range(1, 111))
    expected = [
        (picture("chosen", row), picture("rejected", row)) for row in (*range(70), *range(40))
    ]
    assert halves(pairs) == expected
    for place in (109, 3, 69, 70, 4, 95, 0):
        assert halves([pairs[place]]) == [expected[place]]


def test_pictures_that_are_named_by_their_path_lie_beside_the_table(tmp_path):
    columns = binarized(rows=2) | {"chosen": [{"bytes": None, "path": "a.png"}] * 2}
    (tmp_path / "a.png").write_bytes(b"beside")
    pairs = read_pairs(write(tmp_path / "a.parquet", columns))
    assert pairs[0].preferred.read() == b"beside"


def test_labels_say_which_is_preferred_and_ties_are_left_out_and_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    path = write(tmp_path / "a.parquet", pickapic([(1, 0), (0.5, 0.5), (0, 1), (0.5, 0.5)]))
    pairs = read_pairs(path)
    assert [pair.row for pair in pairs] == [1, 3]
    assert halves(pairs) == [
        (picture("jpg_0", 0), picture("jpg_1", 0)),
        (picture("jpg_1", 2), picture("jpg_0", 2)),
    ]
    assert "as nothing is preferred in them: 2." in caplog.text


def test_columns_may_be_named(tmp_path):
    columns = binarized()
    columns["winner"] = columns.pop("chosen")
    path = write(tmp_path / "a.parquet", columns)
    pairs = read_preferences(DataSettings(path=path, preferred_column="winner"))
    assert pairs[4].preferred.read() == picture("chosen", 4)


def test_other_splits_and_hidden_folders_are_left_alone(tmp_path):
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet", binarized())
    write(tmp_path / ".cache" / "train-0.parquet", binarized())
    assert len(read_pairs(tmp_path)) == ROWS


def test_a_hundred_thousand_rows_are_read_without_their_pictures(tmp_path):
    path = write(tmp_path / "a.parquet", pickapic([(1, 0)] * 100_000), row_group_size=10_000)
    pairs = read_pairs(path)
    assert len(pairs) == 100_000
    assert halves(pairs[99_999:]) == [(picture("jpg_0", 99_999), picture("jpg_1", 99_999))]
