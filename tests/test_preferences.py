"""Preferences from a folder: what is refused, how faults are told, and what is held out."""

import csv
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from chats.errors import UserError
from tests.tiny_preferences import read_metadata, write_metadata, write_preferences
from training.config import DataSettings
from training.preferences import PreferencePair, read_pairs, read_preferences, split_pairs


@pytest.fixture
def folder(tmp_path):
    return write_preferences(tmp_path / "pairs")


def change_row(folder, number: int, **values) -> None:
    rows = read_metadata(folder)
    rows[number - 1] |= values
    write_metadata(folder, rows)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_pairs(tmp_path / "none")


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither metadata\.jsonl nor metadata\.csv nor parquet"):
        read_pairs(tmp_path)


def test_a_folder_with_two_tables_is_refused(folder):
    (folder / "metadata.csv").write_text("prompt\n")
    with pytest.raises(UserError, match="but not both"):
        read_pairs(folder)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "pairs.tar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no \.zip and no \.parquet"):
        read_pairs(tmp_path / "pairs.tar")


def test_missing_columns_are_named_with_those_that_exist(folder):
    rows = [
        {"prompt": row["prompt"], "image_0": row["chosen_file_name"]}
        for row in read_metadata(folder)
    ]
    write_metadata(folder, rows)
    with pytest.raises(
        UserError,
        match=r"no column 'chosen_file_name' and no 'rejected_file_name'; it has "
        r"\['image_0', 'prompt'\]\. Set data\.prompt_column",
    ):
        read_pairs(folder)


@pytest.mark.parametrize("prompt", [None, 3, ["a"], ""])
def test_a_prompt_that_is_no_text_or_empty_is_refused_with_its_row(folder, prompt):
    change_row(folder, 2, prompt=prompt)
    with pytest.raises(UserError, match=r"1 × .*prompt.*\nRow 2: prompt (must be text|is empty)"):
        read_pairs(folder)


def test_a_column_that_only_one_row_lacks_is_a_fault_of_that_row(folder):
    rows = read_metadata(folder)
    del rows[2]["rejected_file_name"]
    write_metadata(folder, rows)
    with pytest.raises(UserError, match=r"\nRow 3: there is no 'rejected_file_name', only"):
        read_pairs(folder)


def test_a_missing_image_is_refused_with_its_row(folder):
    change_row(folder, 3, rejected_file_name="gone.png")
    with pytest.raises(UserError, match=r"1 × missing picture.*\nRow 3: there is no image 'gone"):
        read_pairs(folder)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png"])
def test_a_path_that_leaves_the_folder_is_refused_with_its_row(folder, name):
    Image.new("RGB", (16, 16)).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    change_row(folder, 1, chosen_file_name=name)
    with pytest.raises(UserError, match=r"Row 1: .* leads out of the folder"):
        read_pairs(folder)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000, 7, None, "\ud800.png"])
def test_what_can_be_no_file_name_is_refused_with_its_row(folder, name):
    change_row(folder, 1, chosen_file_name=name)
    with pytest.raises(UserError, match="Row 1: "):
        read_pairs(folder)


@pytest.mark.parametrize("line", ["{", "[1]", "[" * 100_000])
def test_a_line_that_is_no_json_object_is_refused_with_its_row(folder, line):
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text + line + "\n")
    with pytest.raises(UserError, match="Row 5: not "):
        read_pairs(folder)


def test_text_that_is_not_utf_8_is_refused(folder):
    (folder / "metadata.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        read_pairs(folder)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_fewer_than_two_pairs_are_refused(folder, num_rows):
    write_metadata(folder, read_metadata(folder)[:num_rows])
    with pytest.raises(UserError, match=f"pairs holds {num_rows} preference pairs; .* at least 2"):
        read_pairs(folder)


def test_bad_rows_are_left_out_and_counted_when_asked(folder, caplog):
    change_row(folder, 1, prompt=[])
    change_row(folder, 3, chosen_file_name="gone.png")
    pairs = read_preferences(DataSettings(path=folder, on_bad_rows="skip"))
    assert [pair.row for pair in pairs] == [2, 4]
    assert "pairs: left out 2 rows (1 × prompt that is no text, 1 × missing picture)" in caplog.text
    assert "Row 1: prompt must be text, not []" in caplog.text


def test_a_hundred_thousand_bad_rows_are_counted_in_little_memory(folder):
    """20 of them are told; what is held is far less than the 6 MB of the table."""
    good = read_metadata(folder)[0]
    lines = [json.dumps(good | {"prompt": prompt}) + "\n" for prompt in ("", [1], None, "x")]
    (folder / "metadata.jsonl").write_text("".join(lines[:3]) * 33_333 + lines[3])
    tracemalloc.start()
    with pytest.raises(UserError) as refused:
        read_pairs(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(refused.value)
    assert "99,999 rows (66,666 × prompt that is no text, 33,333 × empty prompt)" in message
    assert "… and 99,979 more." in message
    assert len(message.splitlines()) == 1 + 20 + 1 + 1
    assert peak < 1_000_000


def test_rows_of_a_csv_equal_rows_of_jsonl(folder):
    expected = read_pairs(folder)
    rows = read_metadata(folder)
    (folder / "metadata.jsonl").unlink()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert read_pairs(folder) == expected


def test_cells_that_a_csv_lacks_or_has_too_many_are_faults_of_their_rows(folder):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text(
        "prompt,chosen_file_name,rejected_file_name\n"
        "a,0_chosen.png\n"
        "b,0_chosen.png,0_rejected.png,more\n"
        "c,0_chosen.png,0_rejected.png\n"
    )
    with pytest.raises(UserError, match=r"1 row \(1 × missing picture\)\.\nRow 1: a file name"):
        read_pairs(folder)


def test_columns_may_have_other_names_and_labels(folder):
    """Row 1 prefers the first, row 2 the second; row 3 is a tie and is left out."""
    scores = [(1, 0), (0.2, 0.8), (0.5, 0.5), (3, -1)]
    write_metadata(
        folder,
        [
            {
                "text": row["prompt"],
                "a_file_name": row["chosen_file_name"],
                "b_file_name": row["rejected_file_name"],
                "score_a": score[0],
                "score_b": score[1],
            }
            for row, score in zip(read_metadata(folder), scores, strict=True)
        ],
    )
    settings = DataSettings(
        path=folder,
        prompt_column="text",
        preferred_column="a",
        dispreferred_column="b",
        label_columns=("score_a", "score_b"),
    )
    pairs = read_preferences(settings)
    assert [(pair.row, pair.preferred.name) for pair in pairs] == [
        (1, "0_chosen.png"),
        (2, "1_rejected.png"),
        (4, "3_chosen.png"),
    ]


def test_only_the_first_pairs_are_read_when_asked(folder):
    assert [pair.row for pair in read_pairs(folder, max_pairs=2)] == [1, 2]


def test_control_characters_are_taken_out_of_prompts(folder, caplog):
    change_row(folder, 1, prompt="a \x00red\u202e circle ")
    assert read_pairs(folder)[0].prompt == "a red circle"
    assert "control characters, which were taken out: 1." in caplog.text


def test_a_picture_reads_the_content_of_its_file(folder):
    pair = read_pairs(folder)[1]
    assert pair.dispreferred.read() == (folder / "1_rejected.png").read_bytes()


def test_preferences_open_without_torch_and_table_libraries():
    program = (
        "import sys, training.preferences, training.data.pictures, training.data.buckets\n"
        "sys.exit(bool({'torch', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


def pairs_of(prompts) -> list[PreferencePair]:
    return [PreferencePair(row, prompt, None, None) for row, prompt in enumerate(prompts, start=1)]


@pytest.mark.parametrize("held_out", [-1, 4, 9, -0.1, 1.0, 1.5, float("nan")])
def test_a_split_that_leaves_a_side_empty_is_refused(held_out):
    with pytest.raises(UserError, match=f"Can't hold out {held_out} of 4 pairs"):
        split_pairs(pairs_of("abcd"), held_out, seed=0)


@pytest.mark.parametrize("held_out", [20, 0.3])
def test_equal_prompts_are_never_on_both_sides(held_out):
    prompts = [f"{'A' if row % 2 else 'a'}  star {row // 5}" for row in range(100)]
    training, held = split_pairs(pairs_of(prompts), held_out, seed=0)
    words = [{pair.prompt.casefold() for pair in side} for side in (training, held)]
    assert not words[0] & words[1]
    assert sorted(pair.row for pair in (*training, *held)) == list(range(1, 101))
    if held_out == 20:
        assert len(held) == 20


def test_a_split_takes_whole_prompts_and_never_more_than_asked():
    training, held = split_pairs(pairs_of(["a"] * 5 + ["b"] * 3), 4, seed=0)
    assert Counter(pair.prompt for pair in held) == {"b": 3}
    assert len(training) == 5


def test_a_split_by_share_stays_when_the_set_grows_and_changes_with_the_seed():
    prompts = [f"prompt {number}" for number in range(1000)]
    _, held = split_pairs(pairs_of(prompts), 0.1, seed=0)
    _, more = split_pairs(pairs_of(reversed([*prompts, "another", "yet another"])), 0.1, seed=0)
    _, other = split_pairs(pairs_of(prompts), 0.1, seed=1)
    known = {pair.prompt for pair in held}
    assert known == {pair.prompt for pair in more} & set(prompts)
    assert known != {pair.prompt for pair in other}
    assert 60 < len(held) < 140


def test_nothing_is_held_out_when_asked_for_nothing():
    pairs = pairs_of("ab")
    assert split_pairs(pairs, 0, seed=0) == (tuple(pairs), ())
