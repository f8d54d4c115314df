"""Serve the page: `python app.py --port 7860`. The only file that knows every package."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import tyro
from pydantic import Field

from chats.config import FrozenSettings
from chats.devices import Device, find_devices, machine_devices
from chats.environment import check_environment
from chats.errors import UserError
from chats.generation.studio import Studio
from chats.models.choices import ModelChoice, describe_model
from chats.models.sharing import DeviceShare
from chats.pairs.recommended import changeable_pair, recommended_setting
from chats.scoring import Scorer, score_pictures, scorer
from chats.shapes import SHAPES_MODEL
from chats.sweeps.store import SweepStore
from training.commands import Push
from training.datasets import DatasetStore
from training.datasets.store import dataset_name
from training.desk import TrainingDesk
from training.evaluate.desk import EvaluationDesk
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole, JobSettings
from training.jobs.workspace import Workspace
from training.progress import OnProgress
from training.votes import VoteStore
from ui.runs.words import short_title
from ui.server import (
    LOGIN_VARIABLE,
    access,
    check_login,
    check_port,
    prepare_environment,
)
from ui.services import LabServices, ModelServices, RunServices, Services
from ui.space import (
    MAX_UPLOAD_MB,
    MODEL_VARIABLE,
    Space,
    default_workspace,
    find_space,
    hardware_notice,
    open_workspace,
)
from ui.zerogpu import find_lender, lent

NO_LOADING = "This server loads no other models. Run the program yourself to load them."
NO_EVALUATIONS = "This server starts no evaluations. Run the program yourself to evaluate."
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
    """The model: `shapes` (embedded), a diffusers folder, or a Hub id such as `owner/name`; the
    default can be set as CHATS_MODEL."""

    pair: str | None = None
    """Its preference pair: a folder or a Hub id; none means the one embedded with Shapes."""

    max_upload_mb: int = Field(4096, ge=1)
    """Largest file that the page takes, in megabytes; data sets come as one zip."""

    trainings: bool = True
    """Whether people who reach the page may start trainings and evaluations, and load models."""

    device: str | None = None
    """Torch device, such as `cpu`, `cuda` or `cuda:1`; none means the best there is."""


def main(settings: Settings, *, devices: Sequence[Device] = ()) -> None:
    """Check what can be checked at once, serve the page, then load the model behind it.

    Args:
        settings: of the server.
        devices: what pictures are made on; none means what `settings` says.
    """
    check_environment()
    space = find_space(os.environ)
    devices = devices or find_devices(settings.device)
    login_text = os.environ.get(LOGIN_VARIABLE, "")
    login = check_login(settings.host, login_text, is_public=space is not None)
    check_port(settings.host, settings.port)
    settings, notices = prepare(settings, space, devices=devices)
    lender = find_lender(os.environ)
    runs = open_runs(settings)
    studio = open_studio(settings, runs, devices=devices)
    generate = studio.generate
    if lender is not None:
        studio.warm_up()  # before the page is launched, which is when the lender takes the weights
        model = describe_model(settings.model, settings.pair)
        generate = lent(generate, lender=lender, model=model)

    from ui.blocks import build_ui
    from ui.look import launch_options

    services = Services(
        generate=generate,
        models=lambda: offered_models(settings, runs, others=studio.loaded_by_hand()),
        status=studio.status,
        datasets=None,
        num_at_once=len(devices),
        notices=notices,
    )
    if space is None or login is not None:  # else strangers would share one workspace
        services = with_workspace(services, settings, studio, runs=runs, devices=devices)
    if lender is not None:  # these use the device outside of a request for pictures
        services = replace(services, lab=None, shelf=None)
    page = build_ui(services)
    page.launch(
        server_name=settings.host,
        server_port=settings.port,
        prevent_thread_lock=True,
        share=False,
        show_error=True,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        max_file_size=f"{settings.max_upload_mb}mb",
        quiet=True,
        **access(settings.host, login, page_host=space.host if space else ""),
        **launch_options(),
    )
    logger.info("Serving http://%s:%d", settings.host, settings.port)
    if services.runs and services.votes:
        known = (services.runs, services.votes)
        threading.Thread(target=take_up, args=known, name="runs", daemon=True).start()
    if lender is None:
        threading.Thread(target=warm_up, args=(studio,), name="warm-up", daemon=True).start()
    page.block_thread()


def default_settings(environment: Mapping[str, str]) -> Settings:
    """Return what holds where the command line says nothing: on a Space all of it."""
    model = environment.get(MODEL_VARIABLE)
    space = find_space(environment)
    if space is None:
        return Settings(model=model or SHAPES_MODEL)
    return Settings(
        host="0.0.0.0",
        workspace=default_workspace(),
        model=model or space.default_model(),
        max_upload_mb=MAX_UPLOAD_MB,
        trainings=not space.has_zerogpu,
        device="cuda" if space.has_zerogpu else None,
    )


def prepare(
    settings: Settings, space: Space | None, *, devices: Sequence[Device]
) -> tuple[Settings, tuple[str, ...]]:
    """Make the workspace; on a Space with a read-only disk another one, and say so."""
    if space is None:
        prepare_environment(settings.workspace)
        return settings, ()
    folder, notice = open_workspace(settings.workspace)
    notices = (hardware_notice(settings.model, devices), notice)
    return settings.model_copy(update={"workspace": folder}), tuple(filter(None, notices))


def with_workspace(
    services: Services,
    settings: Settings,
    studio: Studio,
    *,
    runs: RunServices,
    devices: Sequence[Device],
) -> Services:
    """Add what keeps things in the workspace, and what changes what is loaded."""
    datasets = DatasetStore(settings.workspace.expanduser().resolve() / "datasets")
    scorers = open_scorers(studio)
    return replace(
        services,
        datasets=datasets,
        votes=VoteStore(datasets.folder.parent / "votes", datasets),
        score=lambda name: partial(score_pictures, scorers(name)),
        runs=runs,
        desk=make_desk(settings, studio, runs=runs, datasets=datasets),
        evaluations=EvaluationDesk(
            console=runs.console,
            catalogue=runs.catalogue,
            workspace=datasets.folder.parent,
            models=services.models,
            devices=machine_devices(),
            refusal="" if settings.trainings else NO_EVALUATIONS,
        ),
        shelf=ModelServices(
            report=studio.report,
            load=studio.load,
            unload=studio.unload,
            folders=studio.folders,
            refusal="" if settings.trainings else NO_LOADING,
        ),
        generate_on_cpu=studio.generate_on_cpu if has_cpu_beside(settings, devices) else None,
        lab=open_lab(settings, runs=runs, scorers=scorers),
    )


def open_scorers(studio: Studio) -> Callable[[str], Scorer]:
    """Return what loads a scorer, once; on the CPU, where it needs no turn on a device."""
    lock, known = threading.Lock(), {}

    def load(name: str) -> Scorer:
        with lock:
            if name not in known:
                studio.open_libraries("training.planning.dry_run")
                known[name] = scorer(name, device="cpu")
            return known[name]

    return load


def open_studio(settings: Settings, runs: RunServices, *, devices: Sequence[Device]) -> Studio:
    """Make what paints, in turn with the trainings of the workspace."""
    workspace = Workspace(settings.workspace.expanduser().resolve())

    def share(device: Device) -> DeviceShare:
        return DeviceShare(
            title=device.title,
            lock=None if device.is_shared else workspace.device_lock(device.name),
            used_by=lambda: runs.catalogue.user_of(device.name),
        )

    return Studio(
        model=settings.model,
        pair=settings.pair,
        devices=devices,
        share=share,
        pair_of_run=lambda run: pair_of_run(runs, run),
        models_folder=workspace.path / "models",
    )


def has_cpu_beside(settings: Settings, devices: Sequence[Device]) -> bool:
    """Whether the CPU is fast enough for the model to stand in for GPUs that are in use."""
    return settings.model == SHAPES_MODEL and not any(device.is_shared for device in devices)


def warm_up(studio: Studio) -> None:
    """Load the model, then make way for trainings as long as the server lives."""
    studio.warm_up("training.planning.dry_run")
    studio.watch(threading.Event())


def make_desk(
    settings: Settings, studio: Studio, *, runs: RunServices, datasets: DatasetStore
) -> TrainingDesk:
    """Make what hands trainings in to the queue of the workspace."""
    model = describe_model(settings.model, settings.pair)
    return TrainingDesk(
        data_sets=datasets,
        console=runs.console,
        workspace=settings.workspace.expanduser().resolve(),
        models=((model.title, model.name),),
        devices=machine_devices(),
        open_libraries=lambda: studio.open_libraries("training.planning.dry_run"),
        refusal="" if settings.trainings else NO_TRAININGS,
    )


def open_lab(
    settings: Settings, *, runs: RunServices, scorers: Callable[[str], Scorer]
) -> LabServices:
    """Open the sweeps of the workspace."""

    def pair_folder(pair: str | None) -> Path:
        return changeable_pair(pair and (pair_of_run(runs, pair) or pair))

    store = SweepStore(settings.workspace.expanduser().resolve() / "sweeps")
    return LabServices(store=store, judge=scorers, pair_folder=pair_folder)


def open_runs(settings: Settings) -> RunServices:
    """Open the queue of the workspace."""
    workspace = settings.workspace.expanduser().resolve()
    console = JobConsole(JobSettings(workspace=workspace))

    def push(run: str, repo_id: str, private: bool, on_progress: OnProgress) -> str:
        folder = console.directory(run).path
        command = Push(run_or_pair=str(folder), repo=repo_id, private=private)
        return command.run(on_progress=on_progress)

    catalogue = RunCatalogue(console, data_name=dataset_name)
    refusal = "" if settings.trainings else NO_TRAININGS
    return RunServices(console=console, catalogue=catalogue, push=push, refusal=refusal)


def take_up(runs: RunServices, votes: VoteStore) -> None:
    """Put right what happened while no server looked, and read all runs once."""
    try:
        votes.mend()
        for run in runs.console.reconcile():
            logger.info("The training %s waited and was started.", run)
        runs.catalogue.entries()
    except UserError as error:
        logger.error("%s", error)


def offered_models(
    settings: Settings, runs: RunServices, *, others: Sequence[tuple[str, str | None]] = ()
) -> tuple[ModelChoice, ...]:
    """Return each model with its own pair, then with those of finished runs, the newest first."""
    found = []
    for model, pair in ((settings.model, settings.pair), *others):
        try:
            own = describe_model(model, pair)
        except UserError:
            if model == settings.model:
                raise
            continue  # loaded by hand, and damaged since
        found += [own] + [
            replace(
                own,
                run=each.id,
                run_title=short_title(each),
                pair=each.id,
                has_pair=True,
                **_recommended(runs.console.directory(each.id).pair),
            )
            for each in runs.catalogue.finished_pairs(model)
        ]
    return tuple(found)


def pair_of_run(runs: RunServices, run: str) -> str | None:
    """Return the folder of a run's pair; none if this is no run."""
    if run not in runs.console.ids():
        return None
    if not runs.catalogue.get(run).has_pair:
        raise UserError(f"The run {run} has no finished pair.")
    return str(runs.console.directory(run).pair)


def _recommended(pair: Path) -> dict[str, float]:
    """Return the setting that a pair recommends; a damaged pair says so when it is used."""
    with contextlib.suppress(UserError):
        return recommended_setting(pair)
    return {}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        main(tyro.cli(Settings, description=__doc__, default=default_settings(os.environ)))
    except UserError as error:
        sys.exit(str(error))
