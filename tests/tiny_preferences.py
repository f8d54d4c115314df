"""A tiny folder of preferences, written in milliseconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

PROMPTS = ("a red circle", "two blue stars", "a red circle", "a green square")


def write_preferences(folder: Path, *, prompts=PROMPTS, size: tuple[int, int] = (20, 16)) -> Path:
    """Write pictures of noise and their metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    rows = []
    for number, prompt in enumerate(prompts):
        names = {half: f"{number}_{half}.png" for half in ("chosen", "rejected")}
        for name in names.values():
            pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        rows.append({"prompt": prompt} | {f"{half}_file_name": n for half, n in names.items()})
    write_metadata(folder, rows)
    return folder


def write_metadata(folder: Path, rows: list) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")


def read_metadata(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
