"""What a Hugging Face Job gets to train: the program, the run's settings, and the commands."""

import shutil
from pathlib import Path

import training
from chats.errors import UserError
from chats.pairs.hub import is_hub_id
from chats.pairs.weight_files import local_folder
from chats.shapes import SHAPES_MODEL
from training.config import TrainingConfig
from training.jobs.workspace import Job
from training.launch import find_engine, launch_command

BUNDLE = "/bundle"
"""Where the job finds what was uploaded; it can't write there."""
REPO_VARIABLE, FLAGS_VARIABLE = "CHATS_REPO", "CHATS_PUSH_FLAGS"
METRICS_MARK = "chats-metrics: "
"""How a line of metrics begins among the lines that the job prints."""

_ROOT = Path(training.__file__).parents[1]
_PACKAGES = ("chats", "training")
_KINDS = frozenset({".py", ".yaml", ".json", ".safetensors"})

# All that differs between jobs are its arguments, the training's command, and two variables.
SCRIPT = f"""set -eu
cp -r {BUNDLE} work && cd work
python -m pip install --quiet --root-user-action ignore -r requirements.txt
mkdir -p run && touch run/metrics.jsonl
(tail --pid=$$ -n +1 -F run/metrics.jsonl | sed -u 's/^/{METRICS_MARK}/') &
"$@"
sleep 2  # until the last line of metrics is told
python -m training push run --repo "${REPO_VARIABLE}" ${FLAGS_VARIABLE}
"""


def check_portable(config: TrainingConfig) -> None:
    """Refuse a training that needs files of this machine.

    Raises:
        UserError: Its data or its base is no repository of the Hub; says what to do.
    """
    if not _is_on_hub(config.data.path):
        raise UserError(
            f"A job can't read {config.data.path} on this machine. Push the data set to the Hub "
            "(Data tab), and give its id owner/name as data.path."
        )
    if config.model.base != SHAPES_MODEL and not _is_on_hub(config.model.base):
        raise UserError(
            f"A job can't read the model {config.model.base} on this machine. Give a Hub id as "
            "model.base."
        )


def write_bundle(folder: Path, config: TrainingConfig) -> None:
    """Write what a job needs into an empty folder.

    Raises:
        UserError: This installation does not have it.
    """
    requirements = _ROOT / "requirements.txt"
    if not requirements.is_file():
        raise UserError(
            "Jobs are given this program's own source, which needs its requirements.txt beside "
            "it: start them from a checkout."
        )
    shutil.copyfile(requirements, folder / requirements.name)
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.suffix in _KINDS and path.is_file():
                target = folder / path.relative_to(_ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    portable = config.run.model_copy(update={"output": Path("run")})
    data = config.data.model_copy(update={"cache": config.data.cache and Path("cache")})
    text = config.model_copy(update={"run": portable, "data": data}).model_dump_json(indent=2)
    (folder / "config.yaml").write_text(text + "\n", "utf-8")  # JSON is YAML as well


def job_command(job: Job) -> list[str]:
    """Return the command of a job: the script, then the training's own command."""
    engine = find_engine(job.engine, num_processes=job.num_processes)
    command = launch_command(engine, ["--config", "config.yaml"])
    if engine.path is not None:
        place = command.index("--config_file") + 1
        command[place] = engine.path.relative_to(_ROOT).as_posix()
    return ["bash", "-c", SCRIPT, "training", *command]


def _is_on_hub(name: object) -> bool:
    text = str(name)
    return is_hub_id(text) and local_folder(text) is None
