"""Prompt sets in every format, and what is wrong with those that are refused."""

import json

import pytest

from chats.errors import UserError
from chats.shapes.prompts import evaluation_specs
from chats.shapes.world import caption
from training.evaluate.prompts import read_prompts
from training.evaluation_config import EvaluateConfig


def read(path, **settings):
    return read_prompts(EvaluateConfig(output="unused", prompts=str(path), **settings))


def texts(found):
    return [each.text for each in found.prompts]


def test_shapes_are_the_600_of_the_evidence():
    found = read("shapes")
    specs = evaluation_specs()
    assert texts(found) == [caption(spec) for spec in specs]
    assert [each.category for each in found.prompts] == [spec.category for spec in specs]
    assert len(found.categories) == 6


def test_lines_of_a_text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a cat\n\n  a dög \n", "utf-8")
    assert texts(read(path)) == ["a cat", "a dög"]
    assert texts(read(path, max_prompts=1)) == ["a cat"]


def test_a_table_of_lines_of_json(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"caption": "a cat", "kind": "animal"}\n{"caption": "a car", "kind": "thing"}\n'
    )
    found = read(path, prompt_column="caption", category_column="kind")
    assert texts(found) == ["a cat", "a car"]
    assert found.categories == ["animal", "thing"]


def test_a_csv_with_a_category(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('prompt,category\n"a cat, asleep",one\na dog,two\n')
    found = read(path)
    assert texts(found) == ["a cat, asleep", "a dog"]
    assert found.categories == ["one", "two"]


def test_genevals_metadata_keeps_the_whole_row(tmp_path):
    rows = [
        {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"},
        {"tag": "colors", "include": [{"class": "car", "color": "red"}], "prompt": "a red car"},
    ]
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(path)
    assert found.format == "geneval"
    assert found.categories == ["counting", "colors"]
    assert [each.key for each in found.prompts] == ["00000", "00001"]
    assert found.prompts[0].metadata == rows[0]


def test_dpg_as_a_table_of_questions_has_each_prompt_once(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text(
        "item_id,text,keywords,proposition_id,dependency\n"
        "id,prompt text,words,proposition id,parents\n"
        '7,"A cat, long described.",,1,0\n7,"A cat, long described.",,2,1\n12,A dog.,,1,0\n'
    )
    found = read(path)
    assert found.format == "dpg"
    assert [(each.key, each.text) for each in found.prompts] == [
        ("7", "A cat, long described."),
        ("12", "A dog."),
    ]


def test_dpg_as_a_folder_of_texts(tmp_path):
    for name, text in (("12", "A dog.\n"), ("7", "A cat.")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert [(each.key, each.text) for each in read(tmp_path).prompts] == [
        ("7", "A cat."),
        ("12", "A dog."),
    ]


def test_hps_lists_are_styles(tmp_path):
    (tmp_path / "photo.json").write_text('["a street", "a face"]')
    (tmp_path / "anime.json").write_text('["a girl"]')
    found = read(tmp_path)
    assert found.format == "hps"
    assert [(each.category, each.key, each.text) for each in found.prompts] == [
        ("anime", "00000", "a girl"),
        ("photo", "00000", "a street"),
        ("photo", "00001", "a face"),
    ]
    assert texts(read(tmp_path / "photo.json")) == ["a street", "a face"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n\n", "holds no prompts"),
        ("bad.jsonl", '{"prompt": "a"}\n{"prompt": \n', "Line 2 of bad.jsonl is not JSON"),
        ("list.jsonl", "[1]\n", "Line 1 of list.jsonl is no JSON object"),
        ("bad.json", "{", "bad.json is not JSON"),
        ("object.json", "{}", "must be a list of objects"),
        ("other.csv", "text,kind\na,b\n", "no column 'prompt'; it has text, kind. Set prompt"),
        ("number.jsonl", '{"prompt": 3}\n', "Row 1 of number.jsonl has the prompt 3"),
        ("blank.csv", "prompt,category\na,x\n ,y\n", "Prompt 2 of .* is empty"),
        ("prompts.xlsx", "x", "of no kind that is known"),
        ("path.csv", "item_id,text\n../x,a cat\n", "which is no file name"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_text_that_is_not_utf8_is_told(tmp_path):
    (tmp_path / "old.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"old\.txt is not UTF-8 text \(byte 3\)"):
        read(tmp_path / "old.txt")


def test_a_set_that_is_nowhere_is_told():
    with pytest.raises(UserError, match=r"no prompts 'nowhere\.txt'.*shapes-tuning"):
        read("nowhere.txt")


def test_a_folder_of_something_else_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="holds neither json lists"):
        read(tmp_path)


def test_geneval_that_is_asked_for_must_be_it(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(UserError, match="has no text `prompt` or no `tag`"):
        read(tmp_path / "mine.jsonl", prompt_format="geneval")
