"""The commands beside training itself: `python -m training export | push`.

This module imports no torch.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from chats.config import FrozenSettings
from chats.errors import UserError
from chats.pairs.weight_files import local_folder
from training.card import Layout, model_card
from training.config import TrainingConfig, parse_command_line
from training.push import check_target, push_folder
from training.run import Metrics, RunDirectory

if TYPE_CHECKING:
    from chats.pairs.pair import Pair


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
        pair, metrics = read_source(self.run_or_pair)
        name = self.output.expanduser().resolve().name
        _export(pair, self.output, settings=self, name=name, metrics=metrics)
        return f"The pair is in {self.output}"


class Push(_Publishing):
    """Export a trained pair, with a model card, to a repository on the Hugging Face Hub."""

    repo: str
    """The repository, `owner/name`; it is made if it is not there."""

    private: bool = False
    """Make it private."""

    def run(self) -> str:
        """Upload it and say where it is."""
        from huggingface_hub import HfApi

        api = HfApi()
        check_target(self.repo, private=self.private, api=api)
        pair, metrics = read_source(self.run_or_pair)
        with tempfile.TemporaryDirectory(prefix="chats-push-") as parent:
            folder = Path(parent) / "pair"
            _export(pair, folder, settings=self, name=self.repo, metrics=metrics)
            address = push_folder(folder, self.repo, private=self.private, api=api)
        return f"The pair is at {address}"


def parse_arguments(arguments: Sequence[str]) -> TrainingConfig | Export | Push:
    """Read the command line: a command, or the settings of a training.

    Raises:
        UserError: See `parse_command_line`.
    """
    if arguments and arguments[0] in ("export", "push"):
        return tyro.cli(Export | Push, args=list(arguments), prog="python -m training")
    return parse_command_line(arguments)


def read_source(name: str) -> "tuple[Pair, list[Metrics]]":
    """Load the pair of a run with the run's metrics, or a pair alone.

    Raises:
        UserError: The run has no finished pair, or there is no such pair.
    """
    from chats.pairs.pair import load_pair

    folder = local_folder(name)
    if folder is None or not (folder / "status.json").is_file():
        return load_pair(name), []
    run = RunDirectory(folder)
    if not (run.pair / "pair.json").is_file():
        status = run.status()
        steps = f" of {status.num_steps}" if status.num_steps else ""
        raise UserError(
            f"The run {folder.name} has no finished pair: it is {status.state}, at step "
            f"{status.step}{steps}. Let it finish, or start its training again to go on."
        )
    return load_pair(run.pair), run.read_metrics()


def _export(
    pair: "Pair", folder: Path, *, settings: _Publishing, name: str, metrics: list[Metrics]
) -> None:
    from training.export import export_pair, public_metadata

    card = model_card(
        public_metadata(pair.metadata),
        layout=settings.layout,
        name=name,
        roles=pair.halves(),
        metrics=metrics,
        license=settings.license,
    )
    export_pair(pair, folder, layout=settings.layout, card=card)
