"""The command line: a training, its dry run, `export`, `push`, `import`, or the queue.

This module imports no torch.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import tyro
from pydantic import Field

from chats.config import FrozenSettings
from chats.errors import UserError
from chats.pairs.weight_files import local_folder
from training.config import DataSettings, DryRunSettings, TrainingConfig, parse_command_line
from training.jobs.commands import COMMANDS, parse_job_command
from training.progress import OnProgress, told_to_nobody
from training.publishing.card import Layout, model_card
from training.publishing.push import check_target, push_folder
from training.run import RunDirectory
from training.scoring.record import read_score, told_scores

if TYPE_CHECKING:
    from chats.pairs.pair import Pair


@dataclass(frozen=True)
class DryRun:
    """Tell what a training would do and cost, without starting it."""

    config: TrainingConfig
    settings: DryRunSettings
    arguments: Sequence[str]
    """The command line without what belongs to the dry run."""

    def run(self) -> str:
        """Return it for a person to read."""
        from training.planning.dry_run import dry_run

        return dry_run(self.config, self.settings, self.arguments)


class _Publishing(FrozenSettings):
    run_or_pair: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_PAIR")]
    """Folder of a run, or a pair: its folder or its Hub id."""

    layout: Layout = "ours"
    """`ours`; `released`, the authors' whole pipeline with two UNets (SD 1.5, SDXL); or `lora`, two
    LoRA adapters for stock diffusers."""

    license: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    """Licence of the weights, for the model card, such as apache-2.0; none leaves it out."""


class Export(_Publishing):
    """Write a trained pair, with a model card, into a new folder."""

    output: Path
    """The folder; it must not exist, or be empty."""

    def run(self) -> str:
        """Write it and say where it is."""
        pair, run = read_source(self.run_or_pair)
        name = self.output.expanduser().resolve().name
        _export(pair, self.output, settings=self, name=name, run=run)
        return f"The pair is in {self.output}"


class Push(_Publishing):
    """Export a trained pair, with a model card, to a repository on the Hugging Face Hub."""

    repo: str
    """The repository, `owner/name`; it is made if it is not there."""

    private: bool = False
    """Make it private."""

    def run(self, *, on_progress: OnProgress = told_to_nobody) -> str:
        """Upload it and say where it is."""
        from huggingface_hub import HfApi

        api = HfApi()
        check_target(self.repo, private=self.private, api=api)
        pair, run = read_source(self.run_or_pair)
        with tempfile.TemporaryDirectory(prefix="chats-push-") as parent:
            folder = Path(parent) / "pair"
            _export(pair, folder, settings=self, name=self.repo, run=run)
            address = push_folder(
                folder, self.repo, private=self.private, api=api, on_progress=on_progress
            )
        return f"The pair is at {address}"


class Import(FrozenSettings):
    """Take preferences from a folder or a file into the page's data sets."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A folder, a zip or a parquet file with preference pairs."""

    workspace: Path = Path("workspace")
    """The page's workspace."""

    name: str = ""
    """How people will call the data set; empty is as the file or folder is called."""

    prompt_column: str | None = None
    """Column of the prompts, if it is not recognised."""

    preferred_column: str | None = None
    """Column of the preferred pictures, or of the first ones if there are labels."""

    dispreferred_column: str | None = None
    """Column of the other pictures."""

    label_columns: tuple[str, str] | None = None
    """Columns that score the two pictures; ties are left out."""

    def run(self) -> str:
        """Import it and say what became of the rows."""
        from training.datasets import DatasetStore
        from training.datasets.importing import import_file

        store = DatasetStore(self.workspace.expanduser() / "datasets")
        settings = DataSettings(
            on_bad_rows="skip", **self.model_dump(exclude={"workspace", "name"})
        )
        dataset = import_file(store, settings, name=self.name)
        report = dataset.report()
        lines = [
            f"{report.num_kept:,} of {report.num_read:,} rows are now in {dataset.folder}",
            *(f"Row {bad.row}: {bad.reason}" for bad in report.faults),
        ]
        if report.num_ties:
            lines.append(f"Ties, left out: {report.num_ties:,}")
        return "\n".join(lines)


class Command(Protocol):
    """What is asked of the command line, other than to train."""

    def run(self) -> str:
        """Do it and return what it has to say."""


def parse_arguments(arguments: Sequence[str]) -> TrainingConfig | Command:
    """Read the command line: a command, or the settings of a training.

    Raises:
        UserError: See `parse_command_line`.
    """
    if arguments and arguments[0] in ("export", "push", "import"):
        return tyro.cli(Export | Push | Import, args=list(arguments), prog="python -m training")
    if arguments and arguments[0] in COMMANDS:
        return parse_job_command(arguments)
    asked, rest = take_dry_run(arguments)
    config = parse_command_line(rest)
    return config if asked is None else DryRun(config, asked, rest)


def take_dry_run(arguments: Sequence[str]) -> tuple[DryRunSettings | None, list[str]]:
    """Take the flags of a dry run out of a command line.

    Returns:
        What they ask, none without `--dry-run`; and the arguments that are left.

    Raises:
        UserError: A flag of the dry run stands without it.
    """
    if "--dry-run" not in arguments:
        for name in DryRunSettings.model_fields:
            flag = f"--{name.replace('_', '-')}"
            if any(each.partition("=")[0].replace("_", "-") == flag for each in arguments):
                raise UserError(f"{flag} belongs to --dry-run. Add --dry-run, or leave it out.")
        return None, list(arguments)
    settings, rest = tyro.cli(
        DryRunSettings,
        prog="python -m training --dry-run",
        args=[each for each in arguments if each != "--dry-run"],
        return_unknown_args=True,
        add_help=False,
    )
    return settings, rest


def read_source(name: str) -> "tuple[Pair, RunDirectory | None]":
    """Load the pair of a run, and name the run; or load a pair alone.

    Raises:
        UserError: The run has no finished pair, or there is no such pair.
    """
    from chats.pairs.pair import load_pair

    folder = local_folder(name)
    if folder is None or not (folder / "status.json").is_file():
        return load_pair(name), None
    run = RunDirectory(folder)
    if not (run.pair / "pair.json").is_file():
        status = run.status()
        steps = f" of {status.num_steps}" if status.num_steps else ""
        raise UserError(
            f"The run {folder.name} has no finished pair: it is {status.state}, at step "
            f"{status.step}{steps}. Let it finish, or start its training again to go on."
        )
    return load_pair(run.pair), run


def _export(
    pair: "Pair", folder: Path, *, settings: _Publishing, name: str, run: RunDirectory | None
) -> None:
    from training.publishing.export import export_pair, public_metadata

    card = model_card(
        public_metadata(pair.metadata),
        layout=settings.layout,
        name=name,
        roles=pair.halves(),
        metrics=run.read_metrics() if run else (),
        scores=told_scores(read_score(run)) if run else None,
        license=settings.license,
    )
    export_pair(pair, folder, layout=settings.layout, card=card)
