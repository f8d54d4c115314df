"""Serve the page: `python app.py --port 7860`. The only file that knows every package."""

import contextlib
import importlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from pydantic import Field

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE, FrozenSettings, GenerationConfig
from chats.denoising.families import FAMILIES
from chats.environment import check_environment
from chats.errors import UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.pairs import hub
from chats.pairs.recommended import changeable_pair, recommended_setting
from chats.pairs.weight_files import read_json
from chats.scoring import Scorer, scorer
from chats.shapes import BASE, PAIR, SHAPES_MODEL, SHAPES_NUM_STEPS
from chats.sweeps.store import SweepStore
from training.commands import Push
from training.datasets import DatasetStore
from training.desk import TrainingDesk
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole, JobSettings
from ui.runs.words import short_title
from ui.server import (
    LOGIN_VARIABLE,
    check_login,
    check_port,
    own_hosts_only,
    prepare_environment,
)
from ui.services import LabServices, ModelChoice, ModelStatus, RunServices, Services

if TYPE_CHECKING:
    from chats.models.manager import ModelManager

UNKNOWN_NUM_STEPS = 50
SHAPES_EXAMPLES = (
    "three red stars on a black background",
    "a blue circle to the left of a square",
    "a green heart and a purple cross",
    "a triangle above a star on a brown background",
    "four yellow circles",
)
EXAMPLES = (
    "an astronaut riding a horse on the moon, oil painting",
    "a red fox in fresh snow, morning light",
    "a cosy bookshop on a rainy evening, watercolour",
)
NO_TRAININGS = "This server starts no trainings. Run the program yourself to train."

logger = logging.getLogger("chats")


class Settings(FrozenSettings):
    """Settings of the server."""

    host: str = "127.0.0.1"
    """Address to listen on; one that others can reach needs CHATS_LOGIN=name:password."""

    port: int = Field(7860, ge=1, le=65535)
    """Port to listen on."""

    workspace: Path = Path("workspace")
    """Folder for what the page keeps; it is made when it is missing."""

    model: str = SHAPES_MODEL
    """The model: `shapes` (embedded), a diffusers folder, or a Hub id such as `owner/name`."""

    pair: str | None = None
    """Its preference pair: a folder or a Hub id; none means the one embedded with Shapes."""

    max_upload_mb: int = Field(4096, ge=1)
    """Largest file that the page takes, in megabytes; data sets come as one zip."""

    trainings: bool = True
    """Whether people who reach the page may start trainings on this machine."""

    device: str | None = None
    """Torch device, such as `cpu`, `cuda` or `cuda:1`; none means the best there is."""


class Models:
    """The models behind the page; torch is imported with the first use, after the page is up."""

    def __init__(self, settings: Settings, *, pair_of_run: Callable[[str], str | None]):
        """Prepare them; `pair_of_run` gives the folder of a run's pair, none if it is no run."""
        self._settings = settings
        self._pair_of_run = pair_of_run
        self._lock = threading.Lock()
        self._manager: ModelManager | None = None
        self._status = ModelStatus("loading", f"Loading {_title(settings.model)}…")

    def generate(
        self, config: GenerationConfig, cancel: threading.Event
    ) -> Iterator[StepEvent | ImagesEvent]:
        """Make the pictures of a configuration; a run's pair is called by the run's id."""
        manager = self._get_manager()
        from chats.generation.generate import generate

        folder = self._pair_of_run(config.pair) if config.pair else None
        located = config.model_copy(update={"pair": folder}) if folder else config
        for event in generate(manager, located, cancel=cancel):
            if folder and isinstance(event, ImagesEvent):
                # Pictures carry their settings: the id, not a path of this machine.
                named = event.config.model_copy(update={"pair": config.pair})
                event = replace(event, config=named)
            yield event

    def status(self) -> ModelStatus:
        """How far loading is."""
        return self._status

    def warm_up(self) -> None:
        """Load model and pair, so that the first person does not wait for them."""
        title = _title(self._settings.model)
        try:
            self.open_libraries()
            with self._get_manager().lease(self._settings.model, self._settings.pair) as lease:
                self._status = ModelStatus("ready", f"{title}, ready on {lease.device_name}")
        except UserError as error:
            logger.error("%s", error)
            self._status = ModelStatus("failed", str(error))
        except Exception as error:
            logger.exception("%s could not be loaded", title)
            self._status = ModelStatus("failed", f"{title} could not be loaded: {error}")

    def open_libraries(self) -> None:
        """Import all that models and estimates need; two threads that do so at once fail."""
        self._get_manager()
        with self._lock:
            importlib.import_module("training.planning.dry_run")

    def _get_manager(self) -> "ModelManager":
        with self._lock:
            if self._manager is None:
                from chats.models.manager import ModelManager

                self._manager = ModelManager(device=self._settings.device)
            return self._manager


def main(settings: Settings) -> None:
    """Check what can be checked at once, serve the page, then load the model behind it."""
    check_environment()
    login = check_login(settings.host, os.environ.get(LOGIN_VARIABLE, ""))
    check_port(settings.host, settings.port)
    prepare_environment(settings.workspace)
    runs = open_runs(settings)
    models = Models(settings, pair_of_run=lambda run: pair_of_run(runs, run))
    datasets = DatasetStore(settings.workspace.expanduser().resolve() / "datasets")

    from ui.blocks import build_ui
    from ui.look import launch_options

    page = build_ui(
        Services(
            generate=models.generate,
            models=lambda: offered_models(settings, runs),
            status=models.status,
            datasets=datasets,
            runs=runs,
            desk=make_desk(settings, models, runs=runs, datasets=datasets),
            lab=open_lab(settings, models, runs=runs),
        )
    )
    page.launch(
        server_name=settings.host,
        server_port=settings.port,
        auth=login,
        prevent_thread_lock=True,
        share=False,
        show_error=True,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        max_file_size=f"{settings.max_upload_mb}mb",
        quiet=True,
        app_kwargs={"middleware": [own_hosts_only(settings.host)]},
        **launch_options(),
    )
    logger.info("Serving http://%s:%d", settings.host, settings.port)
    threading.Thread(target=take_up_runs, args=(runs,), name="runs", daemon=True).start()
    threading.Thread(target=models.warm_up, name="warm-up", daemon=True).start()
    page.block_thread()


def make_desk(
    settings: Settings, models: Models, *, runs: RunServices, datasets: DatasetStore
) -> TrainingDesk:
    """Make what hands trainings in to the queue of the workspace."""
    model = describe_model(settings)
    return TrainingDesk(
        data_sets=datasets,
        console=runs.console,
        workspace=settings.workspace.expanduser().resolve(),
        models=((model.title, model.name),),
        open_libraries=models.open_libraries,
        refusal="" if settings.trainings else NO_TRAININGS,
    )


def open_lab(settings: Settings, models: Models, *, runs: RunServices) -> LabServices:
    """Open the sweeps of the workspace."""

    def judge(name: str) -> Scorer:
        models.open_libraries()
        return scorer(name, device=settings.device)

    def pair_folder(pair: str | None) -> Path:
        return changeable_pair(pair and (pair_of_run(runs, pair) or pair))

    store = SweepStore(settings.workspace.expanduser().resolve() / "sweeps")
    return LabServices(store=store, judge=judge, pair_folder=pair_folder)


def open_runs(settings: Settings) -> RunServices:
    """Open the queue of the workspace."""
    workspace = settings.workspace.expanduser().resolve()
    console = JobConsole(JobSettings(workspace=workspace))

    def push(run: str, repo_id: str, private: bool) -> str:
        folder = console.directory(run).path
        return Push(run_or_pair=str(folder), repo=repo_id, private=private).run()

    return RunServices(console=console, catalogue=RunCatalogue(console), push=push)


def take_up_runs(runs: RunServices) -> None:
    """Put right what happened while no server looked, and read all runs once."""
    try:
        for run in runs.console.reconcile():
            logger.info("The training %s waited and was started.", run)
        runs.catalogue.entries()
    except UserError as error:
        logger.error("%s", error)


def offered_models(settings: Settings, runs: RunServices) -> tuple[ModelChoice, ...]:
    """Return the model with its own pair, then with those of finished runs, the newest first."""
    own = describe_model(settings)
    trained = runs.catalogue.finished_pairs(settings.model)
    return (
        own,
        *(
            replace(
                own,
                run=each.id,
                run_title=short_title(each),
                pair=each.id,
                has_pair=True,
                **_recommended(runs.console.directory(each.id).pair),
            )
            for each in trained
        ),
    )


def pair_of_run(runs: RunServices, run: str) -> str | None:
    """Return the folder of a run's pair; none if this is no run."""
    if run not in runs.console.ids():
        return None
    if not runs.catalogue.get(run).has_pair:
        raise UserError(f"The run {run} has no finished pair.")
    return str(runs.console.directory(run).pair)


def describe_model(settings: Settings) -> ModelChoice:
    """Say what is known about the model without loading it: reads a few small files at most."""
    if settings.model == SHAPES_MODEL:
        return describe_shapes(base=BASE, pair=settings.pair)
    return ModelChoice(
        name=settings.model,
        title=_title(settings.model),
        num_steps=_num_steps(settings.model),
        has_pair=settings.pair is not None,
        pair=settings.pair,
        examples=EXAMPLES,
    )


def _num_steps(model: str) -> int:
    """Return the number of steps that suits a model, as far as its family is known already."""
    path = hub.file_at_hand(model, "model_index.json")
    name = read_json(path).get("_class_name") if path else None
    known = [family.num_steps for family in FAMILIES if name in family.pipelines]
    return (*known, UNKNOWN_NUM_STEPS)[0]


def describe_shapes(*, base: Path, pair: str | None, embedded: Path = PAIR) -> ModelChoice:
    """Describe the Shapes model and its pair, given or embedded, from their small files."""
    unet, vae = (_read_json(base / part / "config.json") for part in ("unet", "vae"))
    size = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    metadata = (Path(pair).expanduser() if pair else embedded) / "pair.json"
    recommended = _read_json(metadata).get("recommended") or {} if metadata.is_file() else {}
    return ModelChoice(
        name=SHAPES_MODEL,
        title=_title(SHAPES_MODEL),
        num_steps=SHAPES_NUM_STEPS,
        scale=recommended.get("scale", DEFAULT_SCALE),
        alpha=recommended.get("alpha", DEFAULT_ALPHA),
        width=size,
        height=size,
        has_pair=pair is not None or metadata.is_file(),
        pair=pair,
        is_fast=True,
        examples=SHAPES_EXAMPLES,
    )


def _recommended(pair: Path) -> dict[str, float]:
    """Return the setting that a pair recommends; a damaged pair says so when it is used."""
    with contextlib.suppress(UserError):
        return recommended_setting(pair)
    return {}


def _title(model: str) -> str:
    return "Shapes model" if model == SHAPES_MODEL else Path(model).name


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        main(tyro.cli(Settings, description=__doc__))
    except UserError as error:
        sys.exit(str(error))
