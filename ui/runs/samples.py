"""Pictures that a training made on the way: the base model's beside the pair's, same seeds."""

import functools
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from chats.wording import METHOD_TITLES
from training.run import RunDirectory, Sample
from ui.pictures import display_uri

MAX_PX = 320
MAX_PROMPTS = 16
_CACHED = 256


class SampleBook:
    """Draws the pictures of a step; small ones are kept, so that a slider may be dragged."""

    def __init__(self) -> None:
        self._thumbnail = functools.lru_cache(_CACHED)(_thumbnail)
        self._read = functools.lru_cache(8)(_read)

    def samples(self, run: RunDirectory) -> tuple[Sample, ...]:
        """Return a run's pictures in the order in which they were made."""
        try:
            changed = run.samples.stat().st_mtime_ns  # the index is replaced, never added to
        except OSError:
            return ()
        return self._read(run, changed)

    def render(self, run: RunDirectory, samples: Sequence[Sample], step: int) -> str:
        """Draw a row for each prompt: the base model, then what the pair made at a step."""
        at_step = nearest_step(samples, step)
        base = [each for each in samples if each.method == "cfg"]
        pair = [each for each in samples if each.method != "cfg" and each.step == at_step]
        shown = list(dict.fromkeys((each.seed, each.prompt) for each in [*base, *pair]))
        rows = ""
        for seed, prompt in shown[:MAX_PROMPTS]:
            of_prompt = [
                each for each in [*base, *pair] if (each.seed, each.prompt) == (seed, prompt)
            ]
            figures = "".join(self._figure(run, each) for each in of_prompt)
            rows += f'<div class="sample-row"><p>{escape(prompt)}</p><div>{figures}</div></div>'
        return f'<div class="samples">{rows}</div>'

    def _figure(self, run: RunDirectory, sample: Sample) -> str:
        path = run.samples / sample.file
        alpha = "" if sample.alpha is None else f" α = {sample.alpha:g}"
        title = f"{METHOD_TITLES[sample.method]}{alpha}"
        about = "base model" if sample.method == "cfg" else f"step {sample.step:,}"
        try:
            source = self._thumbnail(path, path.stat().st_mtime_ns)
            picture = (
                f'<img src="{source}" alt="{escape(f"{title}, {about}: {sample.prompt}"[:300])}">'
            )
        except (OSError, UnidentifiedImageError):
            picture = '<span class="missing">can’t be read</span>'
        caption = f"<figcaption>{escape(title)} <span>{about}</span></figcaption>"
        return f"<figure>{picture}{caption}</figure>"


def steps_of(samples: Sequence[Sample]) -> list[int]:
    """Return the steps at which there are pictures of the pair, in order."""
    return sorted({each.step for each in samples if each.method != "cfg"})


def nearest_step(samples: Sequence[Sample], step: int) -> int:
    """Return the newest step with pictures that is not after `step`, or else the first."""
    steps = steps_of(samples)
    before = [each for each in steps if each <= step]
    return (before or steps or [0])[-1 if before else 0]


def _read(run: RunDirectory, changed: int) -> tuple[Sample, ...]:
    return tuple(run.read_samples())


def _thumbnail(path: Path, changed: int) -> str:
    image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    image.thumbnail((MAX_PX, MAX_PX), Image.Resampling.LANCZOS)
    return display_uri(image)
