"""Settings into and out of a PNG, so that a picture can be made again from its file.

Two text chunks are written: `chats` holds the settings as JSON and is what `read_png` trusts;
`parameters` says the same in words, for other programs and for people. Neither ever holds a path
of this machine. This module imports no torch.
"""

import json
import struct
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from chats.config import GenerationConfig, Row, parse_generation_config
from chats.denoising.methods import uses_alpha, uses_scale
from chats.errors import UserError
from chats.pairs.hub import is_hub_id

SETTINGS_KEY = "chats"
FORMAT_VERSION = 1
MAX_PIXELS = 40_000_000
MAX_TEXT_CHARS = 1_000_000

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def save_png(image: Image.Image, path: str | Path, *, config: GenerationConfig) -> Path:
    """Write a picture with its settings inside and return the path.

    Args:
        image: the picture.
        path: where to write it; missing folders are made.
        config: what it was made with: one row for a picture (see `config_of_row`), all of them
            for a sheet of pictures.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=png_info(config))
    return path


def read_png(path: str | Path) -> GenerationConfig:
    """Read the settings that `save_png` wrote.

    Raises:
        UserError: the file is not a PNG, is too large, is damaged, or holds no such settings.
    """
    path = Path(path)
    _check_header(path)
    text = _read_text(path)
    if text is None:
        raise UserError(
            f"{path.name} holds no settings of this program. Programs that edit or convert a "
            "picture often drop them: use the file as it was downloaded."
        )
    if len(text) > MAX_TEXT_CHARS:
        raise UserError(f"The settings in {path.name} are too large ({len(text):,} characters).")
    return _parse(text, name=path.name)


def config_of_row(config: GenerationConfig, row: int) -> GenerationConfig:
    """Return the settings that make picture `row` alone: the same seed makes the same picture."""
    own = config.rows[row]
    prompt = config.prompt if own.prompt is None else own.prompt
    alone = own.model_copy(update={"prompt": None})
    return config.model_copy(update={"rows": (alone,), "prompt": prompt})


def png_info(config: GenerationConfig) -> PngImagePlugin.PngInfo:
    """Return the text chunks of `save_png`, for code that writes the PNG itself."""
    public = _without_paths(config)
    document = {"version": FORMAT_VERSION, "config": public.model_dump(mode="json")}
    info = PngImagePlugin.PngInfo()
    info.add_text(SETTINGS_KEY, json.dumps(document))
    info.add_itxt("parameters", describe(public))
    return info


def describe(config: GenerationConfig) -> str:
    """Say the settings in words, one line for the prompt and one for the rest."""
    lines = [config.prompt]
    if config.negative_prompt:
        lines.append(f"Negative prompt: {config.negative_prompt}")
    facts = [f"Steps: {config.num_steps}", f"Sampler: {config.scheduler}"]
    facts += [_describe_row(row) for row in config.rows]
    if config.interval != (0.0, 1.0):
        facts.append(f"Guidance interval: {config.interval[0]:g} to {config.interval[1]:g}")
    facts += [
        f"{name}: {value:g}"
        for name, value in config.shaping.model_dump(exclude_defaults=True).items()
    ]
    if config.width and config.height:
        facts.append(f"Size: {config.width}x{config.height}")
    facts.append(f"Model: {config.model}")
    if config.pair:
        facts.append(f"Pair: {config.pair}")
    return "\n".join([*lines, ", ".join(facts)])


def _describe_row(row: Row) -> str:
    parts = [f"Method: {row.method}"]
    if uses_scale(row.method):
        parts.append(f"s: {row.scale:g}")
    if uses_alpha(row.method):
        parts.append(f"alpha: {row.alpha:g}")
    return ", ".join([*parts, f"Seed: {row.seed}"])


def _without_paths(config: GenerationConfig) -> GenerationConfig:
    update = {"model": _public_name(config.model)}
    if config.pair is not None:
        update["pair"] = _public_name(config.pair)
    return config.model_copy(update=update)


def _public_name(name: str) -> str:
    """Keep a Hub id (`owner/name`), and of a folder only its last part."""
    if is_hub_id(name) and not Path(name).exists():
        return name
    return PureWindowsPath(name).name or "model"


def _check_header(path: Path) -> None:
    """Judge the size from the file's first bytes, before anything is decoded."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}.") from None
    if len(head) < 24 or not head.startswith(_SIGNATURE) or head[12:16] != b"IHDR":
        raise UserError(f"{path.name} is not a PNG file. Settings are kept in PNG files only.")
    width, height = struct.unpack(">II", head[16:24])
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path.name} has {width}×{height} pixels; the most that is read is "
            f"{MAX_PIXELS // 1_000_000} million."
        )


def _read_text(path: Path) -> str | None:
    """Read the chunk without decoding the picture; Pillow bounds what compressed text may hold."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(SETTINGS_KEY)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error):
        raise UserError(f"{path.name} is a damaged PNG file.") from None


def _parse(text: str, *, name: str) -> GenerationConfig:
    try:
        document: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise UserError(f"The settings in {name} are damaged: they are not what was written.")
    if document.get("version") != FORMAT_VERSION:
        raise UserError(
            f"The settings in {name} have format version {document.get('version')!r}; this program "
            f"reads version {FORMAT_VERSION}. Update it."
        )
    try:
        return parse_generation_config(document["config"])
    except UserError as error:
        raise UserError(f"The settings in {name} do not fit this program. {error}") from None
