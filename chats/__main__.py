"""The command line: `python -m chats generate | compare | convert | sweep | info`.

python -m chats compare --prompt "three red stars on a black background"
python -m chats generate --prompt "a blue circle" --method chats --scale 5 --alpha 0.5 --count 4
python -m chats sweep --prompts "three red stars" --alphas 0 0.5 1 --scales 2 5 --out sweeps/stars
python -m chats convert --base owner/sdxl --preferred a.safetensors --dispreferred b.safetensors
python -m chats info pictures/chats-0.png
"""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, ConfigDict, Field, create_model

from chats.config import (
    FrozenSettings,
    GenerationConfig,
    MethodName,
    Row,
    parse_generation_config,
)
from chats.environment import check_environment, quieten_libraries
from chats.errors import UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.generation.png import config_of_row, describe, read_png, save_png
from chats.generation.sheet import side_by_side
from chats.pairs import hub
from chats.pairs.weight_files import component_folders, local_folder, read_json, weight_bytes
from chats.shapes import BASE, SHAPES_MODEL
from chats.sweeps.command import Sweep
from chats.wording import row_label


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 2 for what the person can mend."""
    command = tyro.cli(COMMANDS, args=arguments, prog="python -m chats")
    try:
        command.run()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return 130
    return 0


def _without(model: type[BaseModel], *names: str) -> type[BaseModel]:
    """Make a model of the same settings without `names`, so that none is defined twice."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in model.model_fields.items()
        if name not in names
    }
    config = ConfigDict(frozen=True, extra="forbid")
    return create_model(model.__name__, __config__=config, __doc__=model.__doc__, **fields)


_Shared = _without(GenerationConfig, "rows", "missing_pair", "preview_every")
_OneRow = _without(Row, "prompt")
_SameForAll = _without(Row, "method", "prompt")
_Flat = tyro.conf.OmitArgPrefixes


class _Making(FrozenSettings):
    shared: Annotated[_Shared, _Flat] = _Shared()
    """What every picture shares."""

    out: Path = Path("pictures")
    """Folder for the pictures."""

    device: str | None = None
    """Torch device: cpu, cuda or mps; none means the best there is."""

    def make(self, rows: Sequence[Mapping[str, Any]], **settings: Any) -> ImagesEvent:
        """Make a picture for each row, tell of progress, and write the pictures."""
        config = parse_generation_config(
            {"rows": rows, "preview_every": 0, **settings, **self.shared.model_dump()}
        )
        check_environment()
        quieten_libraries()
        from chats.generation.generate import generate
        from chats.models.manager import ModelManager

        for event in generate(ModelManager(device=self.device), config):
            if isinstance(event, StepEvent):
                _show_progress(event)
            else:
                _report(event, folder=self.out)
                return event
        raise RuntimeError("The generation ended without pictures.")


class Generate(_Making):
    """Make pictures and write them as PNG files with their settings inside."""

    row: Annotated[_OneRow, _Flat] = _OneRow()
    """How each picture is guided, and the first seed."""

    count: int = Field(1, ge=1, le=64)
    """How many pictures, at seeds that follow one another."""

    def run(self) -> None:
        """Make the pictures."""
        seeds = range(self.row.seed, self.row.seed + self.count)
        self.make([{**self.row.model_dump(), "seed": seed} for seed in seeds])


class Compare(_Making):
    """Show methods side by side at one seed: a PNG for each, and one labelled sheet.

    Methods that need a preference pair are left out, with a notice, where the model has none.
    """

    row: Annotated[_SameForAll, _Flat] = _SameForAll()
    """Guidance and seed, the same for all methods."""

    methods: tuple[MethodName, ...] = ("standard", "cfg", "chats")
    """What to compare, in this order."""

    def run(self) -> None:
        """Make the pictures and the sheet."""
        same = self.row.model_dump()
        rows = [{"method": method, **same} for method in self.methods]
        made = self.make(rows, missing_pair="skip")
        labels = [row_label(row) for row in made.config.rows]
        sheet = side_by_side(made.images, labels=labels)
        path = _free_path(self.out, f"compare-{self.row.seed}")
        _say(f"{save_png(sheet, path, config=made.config)}: side by side")


class Convert(FrozenSettings):
    """Write a pair in our layout, from the released layout or from two separate halves.

    A half is a LoRA file, the folder of a fine-tuned denoiser or pipeline, or a Hub id; one alone
    will do (Diffusion-DPO is a preferred half, Diffusion-NPO a dispreferred one).
    """

    pair: str | None = None
    """A pair as it is: a folder in the released layout, or a Hub id."""

    preferred: str | None = None
    """The preferred half."""

    dispreferred: str | None = None
    """The dispreferred half."""

    base: str | None = None
    """The model that the halves were made from: a folder, a Hub id, or `shapes`."""

    output: Path = Path("pair")
    """The folder that is written; it must not exist, or be empty."""

    def run(self) -> None:
        """Load what is given, with every check, and write it."""
        halves = {"preferred": self.preferred, "dispreferred": self.dispreferred}
        if (self.pair is None) == (set(halves.values()) == {None}):
            raise UserError("Give either --pair, or --preferred or --dispreferred or both.")
        if self.pair is None and self.base is None:
            raise UserError("Give --base: the model that the halves were made from.")
        if self.output.exists() and not (self.output.is_dir() and not any(self.output.iterdir())):
            raise UserError(f"{self.output} exists already and is no empty folder.")
        check_environment()
        quieten_libraries()
        import chats

        made = (
            chats.load_pair(self.pair)
            if self.pair is not None
            else chats.join_pair(base=self.base, **halves)
        )
        chats.save_pair(made, self.output)
        told = " and ".join(made.halves())
        _say(f"{self.output}: {made.metadata.kind}, {made.metadata.family}, {told}")


class Info(FrozenSettings):
    """Print the settings inside a PNG, or what a pair or a model is made of."""

    path: tyro.conf.Positional[str]
    """A PNG file, the folder of a pair or a model, a Hub id, or `shapes`."""

    def run(self) -> None:
        """Print it."""
        folder = BASE if self.path == SHAPES_MODEL else local_folder(self.path)
        if folder is None and hub.is_hub_id(self.path) and not Path(self.path).exists():
            folder = hub.fetch_texts(self.path)
        if folder is None:
            _say(describe(read_png(self.path)))
        elif (folder / "pair.json").is_file():
            _say(json.dumps(read_json(folder / "pair.json"), indent=2, ensure_ascii=False))
        else:
            _say("\n".join(_model_lines(folder)))


COMMANDS = Generate | Compare | Convert | Sweep | Info


def _model_lines(folder: Path) -> list[str]:
    kind = read_json(folder / "model_index.json").get("_class_name")
    sizes = {part.name: weight_bytes(part, bytes_per_float=4) for part in component_folders(folder)}
    lines = [f"  {name}: {size / 1e6:,.1f} MB" for name, size in sizes.items() if size]
    return [f"{kind}, {sum(sizes.values()) / 1e6:,.1f} MB in float32", *lines]


def _report(made: ImagesEvent, *, folder: Path) -> None:
    for notice in made.notices:
        _say(notice)
    for i, (image, row) in enumerate(zip(made.images, made.config.rows, strict=True)):
        path = _free_path(folder, f"{row.method}-{row.seed}")
        save_png(image, path, config=config_of_row(made.config, i))
        _say(f"{path}: {made.combined[i]}")
    _say(f"{made.config.num_steps} steps, {made.num_predictions} predictions, {made.seconds:.1f} s")


def _free_path(folder: Path, stem: str) -> Path:
    """Name a file that is not there yet: no picture is ever overwritten."""
    names = (f"{stem}{'' if k == 1 else f'-{k}'}.png" for k in count(1))
    return next(folder / name for name in names if not (folder / name).exists())


def _show_progress(event: StepEvent) -> None:
    if sys.stderr.isatty():
        end = "\n" if event.step == event.num_steps else ""
        left = f"{event.eta_seconds:.0f} s left"
        sys.stderr.write(f"\rstep {event.step} of {event.num_steps}, {left}   {end}")
        sys.stderr.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
