"""Words for rows, and the side-by-side sheet."""

import pytest
from PIL import Image

from chats.config import Row
from chats.generation.sheet import side_by_side
from chats.wording import combination, row_label


def squares(*colours, size=64):
    return [Image.new("RGB", (size, size), colour) for colour in colours]


@pytest.mark.parametrize("labels", [[], ["one"], ["a", "b", "c"]])
def test_every_picture_needs_a_label(labels):
    with pytest.raises(ValueError, match="as many labels"):
        side_by_side(squares("red", "blue"), labels=labels)


def test_pictures_stand_in_order_and_small_ones_are_enlarged():
    sheet = side_by_side(squares("red", "blue"), labels=["one", "two"])
    assert sheet.width > 2 * 256
    assert sheet.getpixel((sheet.width // 4, 100)) == (255, 0, 0)
    assert sheet.getpixel((3 * sheet.width // 4, 100)) == (0, 0, 255)


def test_large_pictures_keep_their_size():
    assert side_by_side(squares("red", size=600), labels=["one"]).width < 2 * 600


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Row(method="standard"), "reference(prompt)"),
        (Row(method="cfg", scale=0), "reference(prompt)"),
        (Row(method="cfg", scale=1.5), "2.5·reference(prompt) − 1.5·reference(null)"),
        (Row(alpha=0), "6·preferred(prompt) − 5·dispreferred(null)"),
        (
            Row(),
            "6·preferred(prompt) − 5·dispreferred(proxy), proxy = 1.5·null − 0.5·prompt",
        ),
        (
            Row(method="chats-exact"),
            "6·preferred(prompt) + 2.5·dispreferred(prompt) − 7.5·dispreferred(null)",
        ),
        (Row(method="npo", scale=1), "2·reference(prompt) − dispreferred(null)"),
    ],
)
def test_what_is_combined_is_said_in_words(row, words):
    assert combination(row) == words


def test_labels_name_what_the_method_uses():
    assert row_label(Row(method="standard")) == "Standard"
    assert row_label(Row(method="cfg", scale=2)) == "CFG  s = 2"
    assert row_label(Row(scale=2, alpha=-0.25)) == "CHATS  s = 2  alpha = -0.25"
