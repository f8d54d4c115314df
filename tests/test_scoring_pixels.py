"""Pictures as models read them, against values worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from chats.scoring.preprocessing import cropped_pixels, padded_pixels

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
"""Of CLIP's pictures, as its authors publish them."""


def normalized(color):
    return (np.array(color) / 255 - MEAN) / STD


def test_a_plain_picture_is_shifted_and_scaled_by_the_published_numbers():
    pixels = cropped_pixels([Image.new("RGB", (9, 9), (10, 200, 90))], 4)
    assert pixels.shape == (1, 3, 4, 4)
    assert pixels.dtype == torch.float32
    expected = np.broadcast_to(normalized((10, 200, 90))[:, None, None], (3, 4, 4))
    np.testing.assert_allclose(pixels[0], expected, rtol=1e-5, atol=1e-6)


def test_the_short_side_is_resized_and_the_middle_kept():
    """16 × 8 at size 4 is 8 × 4; columns 2 to 5 stay, which show columns 4 to 11."""
    columns = np.zeros((8, 16, 3), np.uint8)
    columns[:, 4:12] = 255
    pixels = cropped_pixels([Image.fromarray(columns)], 4)[0]
    inner = normalized((255, 255, 255))[:, None]
    np.testing.assert_allclose(pixels[:, 0, 1:3], np.repeat(inner, 2, 1), rtol=1e-2)


def test_resizing_is_bicubic():
    """Halving 4 columns: Keys' kernel (a = −0.5) stretched to 2, cut off at the border.

    Output 0 has its centre at 1 (in units of input pixels), inputs at 0.5, 1.5, 2.5, 3.5 are at
    distances 0.25, 0.25, 0.75, 1.25 of the stretched kernel; of these weights, normalised, the
    first column has k(0.25) / Σ k.
    """

    def kernel(x):
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2

    weights = np.array([kernel(each) for each in (0.25, 0.25, 0.75, 1.25)])
    share = weights[0] / weights.sum()
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:, 0] = 200
    value = cropped_pixels([Image.fromarray(picture)], 2)[0, 0, 0, 0].item()
    expected = (200 * share / 255 - MEAN[0]) / STD[0]
    assert value == pytest.approx(expected, abs=1 / 255 / STD[0])


@pytest.mark.parametrize("size", [(7, 15), (15, 7), (9, 9), (4, 4), (3, 40)])
def test_every_shape_becomes_a_square(size):
    for prepare in (cropped_pixels, padded_pixels):
        assert prepare([Image.new("RGB", size)], 4).shape == (1, 3, 4, 4)


def test_padding_keeps_the_whole_picture_and_surrounds_it_with_black():
    """8 × 4 white at size 4 is 4 × 2: one black row above, one below."""
    pixels = padded_pixels([Image.new("RGB", (8, 4), (255, 255, 255))], 4)[0].numpy()
    black, white = normalized((0, 0, 0)), normalized((255, 255, 255))
    for row, expected in enumerate((black, white, white, black)):
        np.testing.assert_allclose(
            pixels[:, row], np.repeat(expected[:, None], 4, 1), rtol=1e-5, atol=1e-6
        )


def test_pictures_without_color_are_read_as_rgb():
    gray = cropped_pixels([Image.new("L", (4, 4), 128)], 4)
    rgb = cropped_pixels([Image.new("RGB", (4, 4), (128, 128, 128))], 4)
    assert torch.equal(gray, rgb)
