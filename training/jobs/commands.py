"""The queue from the command line: `python -m training submit | list | logs | stop | resume`."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from pydantic import Field

from training.config import TrainingConfig, parse_command_line
from training.evaluation_config import EvaluateConfig, parse_evaluation
from training.hardware import HardwareSettings
from training.jobs.console import JobConsole, JobSettings, WorkspaceSettings
from training.jobs.elsewhere import known_launchers
from training.jobs.hf_price import HfJobSettings
from training.jobs.slurm_cluster import SlurmSettings
from training.jobs.states import FINAL
from training.jobs.summary import JobSummary

_LOOK_SECONDS = 0.3
_BEGIN_SECONDS = 30.0
_PROGRAM = "python -m training"

RunId = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]


class SubmitSettings(WorkspaceSettings, HardwareSettings):
    """Put a training into the queue; all its settings may follow, as without `submit`.

    Its run gets a folder of its own below the workspace, whatever the settings say.
    """

    evaluate: bool = False
    """Put an evaluation there instead; the settings of `python -m training.evaluate` may follow."""

    launcher: Literal["here", "hf-jobs", "slurm"] = "here"
    """Where it is trained: on this machine, as a Hugging Face Job, or on a Slurm cluster."""

    hf_jobs: HfJobSettings = HfJobSettings()
    """What a Hugging Face Job gets."""

    slurm: SlurmSettings = SlurmSettings()
    """What a batch job of Slurm gets."""


@dataclass(frozen=True)
class Submit:
    """Put a training or an evaluation into the queue."""

    config: TrainingConfig | EvaluateConfig
    settings: SubmitSettings

    def run(self) -> str:
        """Start it and say where it stands."""
        launchers = known_launchers(hf_jobs=self.settings.hf_jobs, slurm=self.settings.slurm)
        settings = JobSettings(workspace=self.settings.workspace)
        console = JobConsole(settings, launchers=launchers)
        run_id = console.submit(
            self.config,
            engine=self.settings.engine,
            num_processes=self.settings.num_processes,
            device=self.settings.device,
            launcher=self.settings.launcher,
        )
        return _begun(console, run_id)


class List(WorkspaceSettings):
    """Show all runs of the queue, the newest first."""

    def run(self) -> str:
        """Return a line for each."""
        runs = _console(self).list()
        return "\n".join(map(_line, runs)) or f"There is no run in {self.workspace} yet."


class Logs(WorkspaceSettings):
    """Show the end of what a run logged."""

    run_id: RunId
    """The run."""

    output: bool = False
    """All that its processes printed instead: progress bars, crashes."""

    follow: bool = False
    """Go on as long as the run lives."""

    max_bytes: int = Field(20_000, ge=4, le=1_000_000)
    """Show so many bytes."""

    def run(self) -> str:
        """Return it, or write it as it comes."""
        console = _console(self)
        file = "output" if self.output else "log"
        piece = console.log(self.run_id, file=file, max_bytes=self.max_bytes)
        if not self.follow:
            return piece.text.rstrip("\n")
        while True:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
            summary = console.get(self.run_id)
            piece = console.log(self.run_id, file=file, offset=piece.end, max_bytes=self.max_bytes)
            if summary.state in FINAL and not piece.text:
                return _line(summary)
            time.sleep(0 if piece.text else _LOOK_SECONDS)


class Stop(JobSettings):
    """Stop a run: it saves and ends. One that waits leaves the queue."""

    run_id: RunId
    """The run."""

    now: bool = False
    """Kill it without saving."""

    def run(self) -> str:
        """Wait for its end; it is killed when the grace is over."""
        console = JobConsole(self)
        if self.now:
            console.kill(self.run_id)
        else:
            console.stop(self.run_id)
        while (summary := console.get(self.run_id)).state not in FINAL:
            time.sleep(_LOOK_SECONDS)
        return _line(summary)


class Resume(WorkspaceSettings):
    """Put a run that ended early into the queue again, to go on from what it saved."""

    run_id: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="ID")] = None
    """The run; none starts all that waited when the machine went down."""

    def run(self) -> str:
        """Start it and say where it stands."""
        console = _console(self)
        if self.run_id is None:
            return "\n".join(console.reconcile()) or "Nothing was left waiting."
        console.resume(self.run_id)
        return _begun(console, self.run_id)


COMMANDS = ("submit", "list", "logs", "stop", "resume")


def parse_job_command(arguments: Sequence[str]) -> Submit | List | Logs | Stop | Resume:
    """Read a command line whose first word is one of COMMANDS.

    Raises:
        UserError: See `training.config.parse_command_line`.
    """
    if arguments[0] != "submit":
        return tyro.cli(List | Logs | Stop | Resume, args=list(arguments), prog=_PROGRAM)
    rest = list(arguments[1:])
    if {"-h", "--help"} & set(rest):
        rest = ["--help"]
    settings, rest = tyro.cli(
        SubmitSettings,
        prog=f"{_PROGRAM} submit",
        args=rest,
        return_unknown_args=True,
        add_help="--help" in rest,
    )
    # The run's folder is made by the queue; until then its place is any.
    output = str(settings.workspace)
    if settings.evaluate:
        return Submit(parse_evaluation(["--output", output, *rest]), settings)
    return Submit(parse_command_line(["--run.output", output, *rest]), settings)


def _console(settings: WorkspaceSettings) -> JobConsole:
    return JobConsole(JobSettings(workspace=settings.workspace))


def _begun(console: JobConsole, run_id: str) -> str:
    """Wait for the process of a run to begin or to fail, and say which."""
    deadline = time.monotonic() + _BEGIN_SECONDS
    while (summary := console.get(run_id)).state == "queued" and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return _line(summary)


def _line(run: JobSummary) -> str:
    steps = f"{run.step}/{run.num_steps}" if run.num_steps else "-"
    line = f"{run.id}  {run.state:<18}  {steps:>13}  {' '.join(run.devices):<4}  {run.kind:<10}"
    if run.eta_seconds is not None:
        line += f"  {_duration(run.eta_seconds)} left"
    said = run.error or run.reason.partition("\n")[0]
    return f"{line}  {said}".rstrip()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
