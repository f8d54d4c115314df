"""Where evaluations are prepared and handed in: what there is to evaluate, what it would cost.

Whoever asks gives names of lists, never paths, and no code: scorers are those that are known here.
This module imports no torch.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chats.denoising.methods import needs_pair, terms
from chats.errors import UserError
from chats.models.choices import ModelChoice
from chats.pairs.hub import is_hub_id
from chats.scoring.registry import SCORERS, parse_terms
from training.disk import write_atomically
from training.evaluate.prompts import SHAPES_SETS, check_captions, read_prompts
from training.evaluation_config import Contestant, EvaluateConfig
from training.hardware import HardwareSettings
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv")
"""Files of prompts that can be brought."""
MAX_PROMPTS_BYTES = 50_000_000
_SHAPES_TITLES = {"shapes": "Shapes, test prompts", "shapes-tuning": "Shapes, tuning prompts"}


@dataclass(frozen=True)
class Cost:
    """What an evaluation would make.

    Attributes:
        num_prompts: Prompts of the set; none where only its start can count them (a Hub data set).
        num_pictures: Prompts × methods × seeds.
        num_forwards: Predictions of a denoiser for one picture, in all.
        num_steps: Denoising steps of a picture.
        seconds: How long it takes, judged by the newest evaluation of the model; none without one.
        fetched: Repositories that scorers read weights from.
    """

    num_prompts: int | None
    num_pictures: int | None
    num_forwards: int | None
    num_steps: int
    seconds: float | None
    fetched: tuple[str, ...]


class SettingError(UserError):
    """What is wrong with one setting."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


class EvaluationDesk:
    """Prepares evaluations for people who may not name a path.

    Attributes:
        refusal: Why nobody may start an evaluation here; empty if they may.
        devices: Titles of the devices on offer, by name.
    """

    def __init__(
        self,
        *,
        console: JobConsole,
        catalogue: RunCatalogue,
        workspace: Path,
        models: Callable[[], Sequence[ModelChoice]],
        devices: Mapping[str, str],
        refusal: str = "",
    ) -> None:
        """Take the queue, and what says which models and pairs are on offer."""
        self.refusal, self.devices = refusal, devices
        self._console, self._catalogue = console, catalogue
        self._prompts = workspace / "prompts"
        self._workspace = workspace
        self._models = models

    @property
    def output(self) -> Path:
        """Where runs are made; the settings need a place before the queue gives them theirs."""
        return self._workspace / "runs"

    def models(self) -> list[tuple[str, str]]:
        """Offer the base models, as (title, name)."""
        return [(each.title, each.name) for each in self._models() if not each.run]

    def pairs(self) -> list[tuple[str, str]]:
        """Offer the pairs of finished runs, as (title, id of the run)."""
        return [(each.run_title or each.run, each.run) for each in self._models() if each.run]

    def prompt_sets(self) -> list[tuple[str, str]]:
        """Offer the embedded prompt sets, and the files that people brought, as (title, name)."""
        embedded = [(_SHAPES_TITLES[name], name) for name in SHAPES_SETS]
        return [*embedded, *((name, name) for name in self._files())]

    def add_prompts(self, source: Path, *, name: str) -> str:
        """Take a file of prompts into the workspace, and return what it is called here.

        Raises:
            UserError: It is of no known kind, too large, no text, or another one has its name.
        """
        kept = re.sub(r"[^A-Za-z0-9._ -]", "-", Path(name).name).lstrip(". -")[-100:]
        if Path(kept).suffix.lower() not in SUFFIXES:
            raise UserError(f"Prompts come as {', '.join(SUFFIXES)}; {name!r:.80} is none of them.")
        if source.stat().st_size > MAX_PROMPTS_BYTES:
            raise UserError(f"{kept} is larger than {MAX_PROMPTS_BYTES // 10**6} MB.")
        content = source.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{kept} is not UTF-8 text (byte {error.start}).") from None
        path = self._prompts / kept
        if path.exists() and path.read_text("utf-8") != text:
            raise UserError(f"There is another prompt set called {kept}. Rename the file.")
        self._prompts.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        return kept

    def resolve(self, config: EvaluateConfig) -> EvaluateConfig:
        """Put places for the names that a person gave, and see that everything is there.

        Raises:
            SettingError: A prompt set, model, pair, method or scorer is not on offer here.
        """
        for scorer in config.scorers:
            for _, name in parse_terms(scorer):
                if name not in SCORERS:
                    known = ", ".join(SCORERS)
                    raise SettingError("scorers", f"{name!r:.80} is not offered here: {known} are.")
        prompts = self._prompt_set(config.prompts)
        pair = self._pair(config.pair, self._model(config.model), setting="pair")
        methods = tuple(_written(self._contestant(each, config)) for each in config.contestants)
        found = config.model_copy(update={"prompts": prompts, "methods": methods, "pair": pair})
        if not is_hub_id(found.prompts):
            try:
                check_captions(read_prompts(found), found)
            except UserError as error:
                raise SettingError("prompts", str(error)) from None
        return found

    def cost(self, config: EvaluateConfig, hardware: HardwareSettings) -> Cost:
        """Count what resolved settings would make.

        Raises:
            UserError: The prompts can't be read.
        """
        choice = self._model(config.model)
        num_steps = config.num_steps or choice.num_steps
        scorers = [name for each in config.scorers for _, name in parse_terms(each)]
        fetched = dict.fromkeys(SCORERS[name].needs for name in scorers if SCORERS[name].needs)
        number = pictures = forwards = None
        if not is_hub_id(config.prompts):
            number = len(read_prompts(config).prompts)
            each_way = number * len(config.seeds)
            pictures = each_way * len(config.methods)
            forwards = each_way * num_steps * sum(map(_num_forwards, config.contestants))
        speed = self._speed(config)
        return Cost(
            num_prompts=number,
            num_pictures=pictures,
            num_forwards=forwards,
            num_steps=num_steps,
            seconds=forwards / speed if speed and forwards else None,
            fetched=tuple(fetched),
        )

    def submit(self, config: EvaluateConfig, hardware: HardwareSettings) -> str:
        """Put an evaluation into the queue and return its run's id.

        Raises:
            UserError: Evaluations are not started here, or the queue refuses this one.
        """
        if self.refusal:
            raise UserError(self.refusal)
        return self._console.submit(config, **hardware.model_dump())

    def _files(self) -> list[str]:
        found = self._prompts.glob("*") if self._prompts.is_dir() else ()
        return sorted(path.name for path in found if path.suffix.lower() in SUFFIXES)

    def _prompt_set(self, name: str) -> str:
        if name in SHAPES_SETS:
            return name
        if name in self._files():
            return str(self._prompts / name)
        if is_hub_id(name) and not Path(name).exists():
            return name
        known = ", ".join(each for _, each in self.prompt_sets())
        raise SettingError(
            "prompts",
            f"There are no prompts {name!r:.80} here. There are: {known}; bring a file, or write "
            "the id of a Hub data set, owner/name.",
        )

    def _model(self, name: str) -> ModelChoice:
        for choice in self._models():
            if choice.name == name and not choice.run:
                return choice
        known = ", ".join(each for _, each in self.models())
        raise SettingError("model", f"{name!r:.80} is not on offer here. There is: {known}.")

    def _pair(self, run: str | None, model: ModelChoice, *, setting: str) -> str | None:
        if not run:
            return model.pair
        for choice in self._models():
            if choice.run == run and choice.name == model.name:
                return str(self._console.directory(run).pair)
        raise SettingError(
            setting, f"{run!r:.80} is no finished run with a pair for {model.title}."
        )

    def _contestant(self, given: Contestant, config: EvaluateConfig) -> Contestant:
        model = self._model_of(given, config)
        run = given.pair or (None if given.model else config.pair)
        pair = self._pair(run, model, setting="methods")
        if needs_pair(given.method) and pair is None and not model.has_pair:
            raise SettingError(
                "methods",
                f"{given.name} needs a preference pair, and {model.title} has none. Choose a "
                "pair of a finished run, or compare standard and cfg.",
            )
        own = pair if given.pair or given.model else None
        return given.model_copy(update={"pair": own})

    def _model_of(self, given: Contestant, config: EvaluateConfig) -> ModelChoice:
        try:
            return self._model(given.model or config.model)
        except SettingError as error:
            raise SettingError("methods" if given.model else "model", str(error)) from None

    def _speed(self, config: EvaluateConfig) -> float | None:
        """Return the predictions a second of the newest evaluation of the same model and size."""
        for entry in self._catalogue.entries():
            before, rate = entry.evaluation, entry.newest.get("pictures_per_second")
            if before is None or not rate:
                continue
            if (before.model, before.size_px) == (config.model, config.size_px):
                num_steps = before.num_steps or self._model(config.model).num_steps
                ways = [_num_forwards(each) for each in before.contestants]
                return rate * num_steps * sum(ways) / len(ways)
        return None


def _num_forwards(contestant: Contestant) -> int:
    return len(terms(contestant.method, contestant.scale, contestant.alpha))


def _written(contestant: Contestant) -> str:
    """Write a contestant as `read_contestant` reads it."""
    settings = contestant.model_dump(exclude_none=True, exclude={"method", "name"})
    options = [f"{name}={value}" for name, value in settings.items()]
    return ",".join([contestant.method, *options, f"name={contestant.name}"])
