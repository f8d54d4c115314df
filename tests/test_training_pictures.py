"""Pictures of every kind: what is refused before it is decoded, and how the others look."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from training.data.pictures import decode, fit, size_px
from training.preferences.bad_rows import RowFault

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size=(24, 16), mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    return Image.fromarray(pixels, mode=None if mode != "CMYK" else mode)


def png_header(width: int, height: int) -> bytes:
    """Return a whole PNG's beginning: signature and IHDR of a black and white picture."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    size, check = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + size + chunk + check + b"\0\0\0\0IDAT" + bytes(4)


def fault(content: bytes) -> tuple[str, str]:
    with pytest.raises(RowFault) as refused:
        decode(content, name="a.png")
    return refused.value.kind, str(refused.value)


def left_and_right(image: Image.Image) -> tuple[tuple[int, ...], tuple[int, ...]]:
    middle = image.height // 2
    return image.getpixel((0, middle)), image.getpixel((image.width - 1, middle))


def red_then_blue(size=(8, 4)) -> Image.Image:
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def test_an_empty_file_is_refused():
    assert fault(b"") == ("empty file", "a.png is empty")


@pytest.mark.parametrize(
    "content", [b"just text", b"%PDF-1.7", b"II*\0", b"<svg/>", saved(noise(), "GIF")]
)
def test_what_is_no_picture_or_of_another_kind_is_refused_whatever_its_name(content):
    assert fault(content) == ("no picture", "a.png is no PNG, JPEG or WebP image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_cut_short_is_refused(kind):
    content = saved(noise((64, 64)), kind)
    kind_of_fault, message = fault(content[: len(content) // 2])
    assert kind_of_fault in ("damaged picture", "no picture")
    assert message.startswith("a.png ")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animated_picture_is_refused(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert fault(content)[0] == ("no picture" if kind == "GIF" else "animated picture")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((41_000, 1_000), "41000 × 1000 pixels; at most 40 million"),
        ((12_000, 10_000), "too many pixels"),
        ((60_000, 60_000), "too many pixels"),
    ],
)
def test_too_many_pixels_are_refused_by_the_head_alone(size, message):
    kind, text = fault(png_header(*size))
    assert kind == "too many pixels"
    assert message in text


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damage_anywhere_is_refused_or_decoded_but_nothing_else(kind):
    """60 copies of a picture with EXIF, each with eight wrong bytes in other places."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = saved(noise((48, 32)), kind, exif=exif)
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 8):
            damaged[place] = generator.integers(256)
        try:
            size_px(bytes(damaged), name="a")
            assert decode(bytes(damaged), name="a").mode == "RGB"
        except RowFault:
            pass


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_rgb_stays_as_it_is(kind):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    content = saved(red_then_blue((16, 8)), kind, **options.get(kind, {}))
    image = decode(content, name="a")
    assert (image.mode, image.size) == ("RGB", (16, 8))
    assert np.allclose(left_and_right(image), (RED, BLUE), atol=2)


def test_gray_and_black_and_white_become_rgb():
    assert decode(saved(Image.new("L", (4, 4), 77)), name="a").getpixel((0, 0)) == (77, 77, 77)
    assert decode(saved(Image.new("1", (4, 4), 1)), name="a").getpixel((0, 0)) == WHITE


def test_16_bit_gray_is_scaled_down_not_clipped():
    """0, a quarter, a half, and all of 65535 are 0, 64, 128 and 255 of 255."""
    pixels = np.array([[0, 16384, 32896, 65535]], dtype=np.uint16)
    image = decode(saved(Image.fromarray(pixels)), name="a")
    assert np.asarray(image).tolist() == [[[value] * 3 for value in (0, 64, 128, 255)]]


def test_cmyk_becomes_the_rgb_that_it_shows():
    """Red is magenta and yellow, blue is cyan and magenta."""
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    image.paste((255, 255, 0, 0), (8, 0, 16, 8))
    decoded = decode(saved(image, "JPEG", quality=100), name="a")
    assert np.allclose(left_and_right(decoded), (RED, BLUE), atol=6)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(kind, mode):
    """Black, the left half not there and the right half half there: white, and middle gray."""
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 128), (4, 0, 8, 4))
    decoded = decode(saved(image.convert(mode), kind, lossless=True), name="a")
    assert left_and_right(decoded) == (WHITE, (127, 127, 127))


def test_a_palette_with_transparency_lies_on_white():
    image = red_then_blue().quantize(2)
    red = image.getpixel((0, 0))
    assert left_and_right(decode(saved(image), name="a")) == (RED, BLUE)
    assert left_and_right(decode(saved(image, transparency=red), name="a")) == (WHITE, BLUE)
    shades = bytes(127 if place == red else 255 for place in range(2))
    decoded = decode(saved(image, transparency=shades), name="a")
    assert left_and_right(decoded) == ((255, 128, 128), BLUE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, "red"), (3, "blue"), (6, "red")])
def test_a_picture_is_turned_as_its_exif_says(kind, orientation, corner):
    """Orientation 3 is upside down; 6 lies on its side: its left edge is shown on top."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(red_then_blue((32, 16)), kind, exif=exif)
    image = decode(content, name="a")
    assert image.size == size_px(content, name="a") == ((16, 32) if orientation == 6 else (32, 16))
    expected = {"red": RED, "blue": BLUE}[corner]
    assert np.allclose(image.getpixel((1, 1)), expected, atol=8)


def test_a_turned_palette_with_transparency_keeps_both():
    exif = Image.Exif()
    exif[0x0112] = 3
    image = red_then_blue().quantize(2)
    content = saved(image, transparency=image.getpixel((0, 0)), exif=exif)
    assert left_and_right(decode(content, name="a")) == (BLUE, WHITE)


def test_a_jpeg_of_a_camera_with_a_preview_in_it_is_still():
    content = saved(noise(), "MPO", save_all=True, append_images=[noise((8, 8))])
    assert decode(content, name="a").size == (24, 16)


def test_a_picture_is_scaled_by_its_short_side_and_cut_in_the_middle():
    """6 × 2 pixels, left third black, middle third white, right third black → the middle."""
    pixels = np.zeros((2, 6, 3), dtype=np.uint8)
    pixels[:, 2:4] = 255
    assert (fit(Image.fromarray(pixels), width=2, height=2) == 255).all()


@pytest.mark.parametrize("size", [(24, 16), (17, 31), (1, 1), (64, 64), (101, 7)])
@pytest.mark.parametrize("target", [(16, 16), (33, 33), (24, 16), (8, 40)])
def test_cutting_while_scaling_gives_what_scaling_and_then_cutting_gives(size, target):
    """By hand: scale until it covers, at least to the target, then crop the middle."""
    image, (width, height) = noise(size), target
    scale = max(width / size[0], height / size[1])
    scaled = (max(width, int(size[0] * scale)), max(height, int(size[1] * scale)))
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    whole = image.resize(scaled, Image.Resampling.BILINEAR)
    expected = np.asarray(whole.crop((left, top, left + width, top + height)))
    fitted = fit(image, width=width, height=height)
    assert fitted.shape == (height, width, 3)
    assert np.abs(fitted.astype(int) - expected).max() <= 1


def test_a_very_long_picture_takes_no_more_memory_than_what_is_kept():
    """Scaled whole it would be 512 × 512 million pixels."""
    image = Image.new("RGB", (1, 1_000_000), RED)
    assert fit(image, width=512, height=512).shape == (512, 512, 3)
