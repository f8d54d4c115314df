"""Settings into and out of PNG files, hostile files first."""

import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.png import MAX_TEXT_CHARS, config_of_row, read_png, save_png

CONFIG = GenerationConfig(
    prompt="drei rote Sterne, «три» ★",
    negative_prompt="blue",
    rows=(Row(method="cfg", scale=2, seed=7), Row(alpha=-0.25, seed=2**32 - 1)),
    num_steps=20,
    width=64,
    height=128,
    scheduler="dpm++",
    interval=(0.1, 0.9),
    model="owner/name",
    pair="owner/pair",
)


def picture(size=(8, 8)):
    return Image.new("RGB", size, (200, 30, 30))


def with_text(path, text):
    info = PngInfo()
    info.add_text("chats", text)
    picture().save(path, pnginfo=info)
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_missing_file_is_refused_without_its_path(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png cannot be read") as raised:
        read_png(tmp_path / "gone.png")
    assert str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 40])
def test_what_is_no_png_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="not a PNG"):
        read_png(tmp_path / "a.png")


def test_a_jpeg_named_png_is_refused(tmp_path):
    picture().save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(UserError, match="not a PNG"):
        read_png(tmp_path / "a.png")


def test_a_picture_too_large_is_refused_by_its_header_alone(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
    with pytest.raises(UserError, match=r"100000×100000.*40 million"):
        read_png(tmp_path / "a.png")


def test_a_damaged_file_is_refused_without_its_path(tmp_path):
    path = save_png(picture(), tmp_path / "a.png", config=CONFIG)
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png is a damaged PNG") as raised:
        read_png(path)
    assert str(tmp_path) not in str(raised.value)


def test_a_picture_without_settings_is_refused(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds no settings"):
        read_png(tmp_path / "a.png")


def test_compressed_text_that_unpacks_to_gigabytes_is_refused(tmp_path):
    bomb = b"chats\0\0" + zlib.compress(b"0" * 200_000_000, 9)
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"zTXt", bomb)
    )
    with pytest.raises(UserError, match="damaged"):
        read_png(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ("[" * 10_000, "damaged"),
        ('"text"', "damaged"),
        ('{"version": 1}', "damaged"),
        ('{"version": 9, "config": {}}', "version 9"),
        ('{"version": 1, "config": {"num_steps": 1000000}}', "num_steps"),
        ('{"version": 1, "config": {"surprise": 1}}', "surprise"),
        ("x" * (MAX_TEXT_CHARS + 1), "too large"),
    ],
)
def test_settings_that_were_tampered_with_are_refused(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        read_png(with_text(tmp_path / "a.png", text))


def test_settings_come_back_as_they_went_in(tmp_path):
    path = save_png(picture(), tmp_path / "new folder" / "a.png", config=CONFIG)
    assert read_png(path) == CONFIG


def test_a_picture_of_several_keeps_its_own_row(tmp_path):
    path = save_png(picture(), tmp_path / "a.png", config=config_of_row(CONFIG, 1))
    assert read_png(path) == CONFIG.model_copy(update={"rows": (CONFIG.rows[1],)})


def test_people_can_read_the_settings_too(tmp_path):
    save_png(picture(), tmp_path / "a.png", config=CONFIG)
    with Image.open(tmp_path / "a.png") as image:
        words = image.info["parameters"]
    for fact in (CONFIG.prompt, "Negative prompt: blue", "Steps: 20", "Seed: 7", "64x128", "alpha"):
        assert fact in words


@pytest.mark.parametrize("write", [str, lambda path: f"{path}/", lambda path: f"{path}/.."])
def test_no_path_of_this_machine_gets_into_a_file(tmp_path, write):
    secret = tmp_path / "home-of-someone" / "my-model"
    secret.mkdir(parents=True)
    config = CONFIG.model_copy(
        update={"model": write(secret), "pair": "C:\\Users\\Someone\\pair-1"}
    )
    path = save_png(picture(), tmp_path / "a.png", config=config)
    assert b"home-of" not in path.read_bytes()
    assert b"Someone" not in path.read_bytes()
    assert read_png(path).pair == "pair-1"


def test_a_relative_folder_that_looks_like_a_hub_id_keeps_its_name_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private" / "model").mkdir(parents=True)
    config = CONFIG.model_copy(update={"model": "private/model"})
    assert read_png(save_png(picture(), "a.png", config=config)).model == "model"
