"""Scorers by name, sums of them, and what is refused."""

import subprocess
import sys
import time

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from chats.errors import UserError
from chats.scoring import SCORERS, score_pictures, scorer
from chats.scoring.registry import parse_terms
from tests.tiny_scorers import pictures

OWN = "tests.test_scorers:Brightness"


class Brightness:
    """A scorer of a user."""

    def __init__(self, *, device=None, dtype=None):
        self.device = device

    def score(self, images, prompts):
        return [np.asarray(image).mean() for image in images]


class Length:
    def __init__(self, *, device=None, dtype=None):
        pass

    def score(self, images, prompts):
        return [float(len(prompt)) for prompt in prompts]


class Broken:
    def __init__(self, answer):
        self.answer = answer

    def score(self, images, prompts):
        return self.answer


def plain(value):
    return Image.new("RGB", (4, 4), (value,) * 3)


def test_a_scorer_of_ones_own_is_one_class():
    judge = scorer(OWN, device="cpu")
    assert judge.device == "cpu"
    assert score_pictures(judge, [plain(3), plain(9)], ["", ""]).tolist() == [3, 9]


def test_a_sum_adds_raw_scores_by_their_weights():
    judge = scorer(f"0.5*{OWN} - 2*tests.test_scorers:Length")
    assert score_pictures(judge, [plain(10), plain(20)], ["abc", ""]).tolist() == [5 - 6, 10]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("pickscore", [(1, "pickscore")]),
        ("0.5*pickscore+0.5*hps", [(0.5, "pickscore"), (0.5, "hps")]),
        ("clip + shapes", [(1, "clip"), (1, "shapes")]),
        ("-1 * clip", [(-1, "clip")]),
        ("shapes-clip", [(1, "shapes-clip")]),
        ("2e-1*shapes-clip - .5*hps", [(0.2, "shapes-clip"), (-0.5, "hps")]),
    ],
)
def test_sums_are_read(text, terms):
    assert parse_terms(text) == terms


def test_a_long_text_that_is_no_sum_is_refused_at_once():
    """In time that grows with its length: a page would stand still for all who use it."""
    began = time.process_time()
    with pytest.raises(UserError):
        parse_terms(" " * 8_000 + "!")
    assert time.process_time() - began < 1


@pytest.mark.parametrize("text", ["", "  ", "0.5*", "clip hps", "clip*0.5", "0.5*clip,hps", "*hps"])
def test_what_is_no_sum_is_refused(text):
    with pytest.raises(UserError, match="scorer"):
        parse_terms(text)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"no scorer 'picscore'.*pickscore.*package\.module:Class"):
        scorer("picscore")


def test_a_module_that_is_not_there_is_told():
    with pytest.raises(UserError, match=r"nowhere\.at_all:Scorer cannot be imported"):
        scorer("nowhere.at_all:Scorer")
    with pytest.raises(UserError, match="has no Missing"):
        scorer("tests.test_scorers:Missing")


def test_a_class_that_takes_no_device_is_told():
    with pytest.raises(UserError, match="must take the keywords device and dtype"):
        scorer("tests.test_scorers:Broken")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 1)), r"shape \(2, 1\) for 2 pictures"),
        ([1.0], r"shape \(1,\) for 2 pictures"),
        ([0.0, float("nan")], "nan for picture 1, with the prompt 'second'"),
        (["high", "low"], "could not score"),
    ],
)
def test_a_scorer_is_held_to_its_promise(answer, message):
    with pytest.raises(UserError, match=message):
        score_pictures(Broken(answer), [plain(0), plain(1)], ["first", "second"])


def test_as_many_prompts_as_pictures():
    with pytest.raises(UserError, match="2 pictures came with 1 prompts"):
        score_pictures(Brightness(), pictures(2), ["a"])


def test_no_pictures_have_no_scores():
    assert score_pictures(Broken([1, 2]), [], []).shape == (0,)


@pytest.mark.parametrize("name", [name for name, known in SCORERS.items() if known.needs])
def test_without_a_network_each_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be reached\. Fetch it once.*shapes-clip"):
        scorer(name, device="cpu")


def test_scorers_are_listed_without_torch():
    code = "import sys, chats.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
