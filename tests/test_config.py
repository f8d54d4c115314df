"""Settings: what is refused, in which words, and what the defaults are."""

import subprocess
import sys

import pytest

from chats.config import GenerationConfig, Row, parse_generation_config
from chats.errors import UserError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rows": [{"scale": -1}]}, ["rows.0.scale", "greater than or equal to 0", "-1"]),
        ({"rows": [{"scale": 31}]}, ["rows.0.scale", "less than or equal to 30", "31"]),
        ({"rows": [{"alpha": -1.5}]}, ["rows.0.alpha", "-1.5"]),
        ({"rows": [{"alpha": float("nan")}]}, ["rows.0.alpha", "finite"]),
        ({"rows": [{"seed": 2**32}]}, ["rows.0.seed", "4294967296"]),
        ({"rows": [{"method": "magic"}]}, ["rows.0.method", "'chats-exact'", "magic"]),
        ({"rows": []}, ["rows", "at least 1"]),
        ({"rows": [{}] * 65}, ["rows", "64"]),
        ({"num_steps": 0}, ["num_steps", "0"]),
        ({"scheduler": "heun"}, ["scheduler", "'unipc'", "heun"]),
        ({"interval": (0.8, 0.2)}, ["interval", "0.8", "0.2"]),
        ({"interval": (0.0, 1.1)}, ["interval.1", "1.1"]),
        ({"width": 1_000_000}, ["width", "4096"]),
        ({"stepz": 3}, ["stepz"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(settings, words):
    with pytest.raises(UserError) as raised:
        parse_generation_config(settings)
    for word in words:
        assert word in str(raised.value)


def test_every_wrong_setting_gets_a_line():
    with pytest.raises(UserError) as raised:
        parse_generation_config({"num_steps": 0, "width": -8})
    assert len(str(raised.value).splitlines()) == 2


def test_a_huge_wrong_value_is_shortened_in_the_message():
    with pytest.raises(UserError) as raised:
        parse_generation_config({"scheduler": "x" * 100_000})
    assert len(str(raised.value)) < 500


def test_defaults_are_the_papers():
    row = GenerationConfig().rows[0]
    assert (row.method, row.scale, row.alpha, row.seed) == ("chats", 5.0, 0.5, 0)


def test_settings_survive_json():
    config = GenerationConfig(prompt="a star", rows=(Row(method="cfg"), Row(seed=7)), width=64)
    assert GenerationConfig.model_validate_json(config.model_dump_json()) == config


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        GenerationConfig().prompt = "other"


def test_what_the_page_needs_is_there_without_torch():
    code = (
        "import sys, chats.config, chats.errors, chats.wording, chats.environment, "
        "chats.generation.events, chats.generation.png, chats.generation.sheet, chats.__main__; "
        "print(sorted({'torch', 'diffusers', 'transformers', 'gradio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
