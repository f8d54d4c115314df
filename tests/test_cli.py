"""`python -m chats` as a person types it."""

import json
import re

import pytest
import torch
from PIL import Image

from chats import environment
from chats.__main__ import main
from chats.errors import UserError
from chats.generation.png import read_png
from chats.pairs.pair import save_pair
from tests.tiny import tiny_pair, tiny_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    pipeline.save_pretrained(folder / "model")
    save_pair(tiny_pair(pipeline, "lora"), folder / "pair")
    return folder


@pytest.fixture
def request_of(saved, tmp_path):
    """The arguments that every command shares."""

    def arguments(command, *more):
        model, out = str(saved / "model"), str(tmp_path / "out")
        common = ["--prompt", "red star", "--num-steps", "2", "--device", "cpu"]
        return [command, "--model", model, "--out", out, *common, *more]

    return arguments


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--method", "cfg", "--width", "20"], "divisible by 8"),
        (["--method", "chats"], "needs a preference pair"),
        (["--model", "unheard of", "--method", "cfg"], "Unknown model"),
    ],
)
def test_what_the_person_can_mend_is_one_message_and_code_2(request_of, capsys, more, words):
    assert main(request_of("generate", *more)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "more", [["--scale", "-1"], ["--alpha", "3"], ["--method", "magic"], ["--rescale", "2"]]
)
def test_a_value_out_of_range_is_refused_before_anything_is_loaded(request_of, capsys, more):
    with pytest.raises(SystemExit) as raised:
        main(request_of("generate", *more))
    assert raised.value.code == 2
    assert more[0].strip("-") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--interval", "0.8", "0.2"], "interval must start before it ends, got 0.8 to 0.2"),
        (["--seed", str(2**32 - 1), "--count", "2"], "rows.1.seed: .* 4294967296"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_message_and_code_2(
    request_of, capsys, more, words
):
    assert main(request_of("generate", *more)) == 2
    error = capsys.readouterr().err
    assert re.search(words, error)
    assert "Traceback" not in error


def test_a_broken_torchvision_is_told_before_anything_is_imported(request_of, capsys, monkeypatch):
    def broken():
        raise UserError("uninstall torchvision: pip uninstall torchvision")

    monkeypatch.setattr("chats.__main__.check_environment", broken)
    assert main(request_of("generate")) == 2
    assert "pip uninstall torchvision" in capsys.readouterr().err
    assert environment.check_environment() is None


def test_generate_writes_pictures_that_carry_their_settings(request_of, tmp_path, capsys):
    assert main(request_of("generate", "--method", "cfg", "--seed", "5", "--count", "2")) == 0
    assert files(tmp_path) == ["cfg-5.png", "cfg-6.png"]
    config = read_png(tmp_path / "out" / "cfg-6.png")
    assert (config.prompt, config.rows[0].seed, config.num_steps) == ("red star", 6, 2)
    assert config.model == "model"
    assert "6·reference(prompt) − 5·reference(null)" in capsys.readouterr().out


def test_no_picture_is_ever_overwritten(request_of, tmp_path):
    for _ in range(2):
        main(request_of("generate", "--method", "standard"))
    assert files(tmp_path) == ["standard-0-2.png", "standard-0.png"]


def test_compare_writes_each_method_and_a_sheet(request_of, saved, tmp_path):
    assert main(request_of("compare", "--pair", str(saved / "pair"), "--scale", "2")) == 0
    assert files(tmp_path) == ["cfg-0.png", "chats-0.png", "compare-0.png", "standard-0.png"]
    sheet = read_png(tmp_path / "out" / "compare-0.png")
    assert [row.method for row in sheet.rows] == ["standard", "cfg", "chats"]
    with Image.open(tmp_path / "out" / "compare-0.png") as image:
        assert image.width > 3 * 256


def test_compare_without_a_pair_shows_the_rest_and_says_so(request_of, tmp_path, capsys):
    assert main(request_of("compare")) == 0
    assert files(tmp_path) == ["cfg-0.png", "compare-0.png", "standard-0.png"]
    assert "Left out CHATS" in capsys.readouterr().out


def test_info_prints_the_settings_of_a_picture(request_of, tmp_path, capsys):
    main(request_of("generate", "--method", "cfg"))
    capsys.readouterr()
    assert main(["info", str(tmp_path / "out" / "cfg-0.png")]) == 0
    assert "red star\nSteps: 2" in capsys.readouterr().out


def test_info_prints_what_a_pair_is(saved, capsys):
    assert main(["info", str(saved / "pair")]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "lora"


@pytest.mark.parametrize("name", ["shapes", "folder"])
def test_info_prints_what_a_model_is_made_of(saved, capsys, name):
    assert main(["info", name if name == "shapes" else str(saved / "model")]) == 0
    printed = capsys.readouterr().out
    assert "StableDiffusionPipeline" in printed
    assert "unet" in printed


def test_info_of_something_else_says_what_it_is_not(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("nothing of interest")
    assert main(["info", str(tmp_path / "notes.txt")]) == 2
    assert "notes.txt is not a PNG file" in capsys.readouterr().err
