"""Pictures once more, in the folders that the published evaluators read.

GenEval: METHOD/NUMBER/metadata.jsonl and samples/SEED.png. DPG-Bench: METHOD/ITEM.png, with four
seeds a 2 × 2 grid. HPS v2: METHOD/STYLE/NUMBER.jpg. These tools need environments of their own.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from training.disk import disk_errors_explained
from training.evaluate.folder import EvaluationFolder
from training.evaluate.prompts import Prompt, PromptSet
from training.evaluation_config import EvaluateConfig

_GRID = 4
"""Pictures of a prompt that DPG-Bench reads from one file."""


def lay_out(prompts: PromptSet, config: EvaluateConfig, folder: EvaluationFolder) -> None:
    """Write them under the format's name in the evaluation's folder; other formats need none.

    Raises:
        UserError: the disk refuses it.
    """
    if prompts.format not in _WRITERS:
        return
    write = _WRITERS[prompts.format]
    with disk_errors_explained(folder.path, remedy="then start it again."):
        for contestant in config.contestants:
            target = folder.path / prompts.format / contestant.name
            for number, prompt in enumerate(prompts.prompts):
                pictures = [folder.picture(contestant.name, seed, number) for seed in config.seeds]
                write(target, prompt, pictures)


def _geneval(target: Path, prompt: Prompt, pictures: list[Path]) -> None:
    samples = target / prompt.key / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    metadata = json.dumps(prompt.metadata)
    (samples.parent / "metadata.jsonl").write_text(metadata, "utf-8")
    for number, picture in enumerate(pictures):
        shutil.copyfile(picture, samples / f"{number:05}.png")


def _dpg(target: Path, prompt: Prompt, pictures: list[Path]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{prompt.key}.png"
    if len(pictures) < _GRID:
        shutil.copyfile(pictures[0], path)
        return
    images = [Image.open(each) for each in pictures[:_GRID]]
    width, height = images[0].size
    grid = Image.new("RGB", (2 * width, 2 * height))
    for place, image in enumerate(images):
        grid.paste(image, (place % 2 * width, place // 2 * height))
    grid.save(path)


def _hps(target: Path, prompt: Prompt, pictures: list[Path]) -> None:
    path = target / prompt.category / f"{prompt.key}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(pictures[0]) as image:
        image.convert("RGB").save(path, quality=95)


_WRITERS: Mapping[str, object] = {"geneval": _geneval, "dpg": _dpg, "hps": _hps}
