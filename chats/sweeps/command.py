"""`python -m chats sweep`: make a sweep, or go on with it, and say what it found."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from chats.config import FrozenSettings
from chats.disk import write_atomically
from chats.environment import check_environment, quieten_libraries
from chats.sweeps.config import NO_SCORER, SweepConfig
from chats.sweeps.folder import SweepFolder
from chats.sweeps.results import results
from chats.sweeps.run import SweepEvent, run_sweep
from chats.sweeps.sheet import contact_sheet
from chats.sweeps.words import cell_label, score_text, table_csv, verdict

_MAX_SHEETS = 12
_REMEDY = "then run the command again: no picture is made twice."


class Sweep(FrozenSettings):
    """Make the same prompts and seeds at many α and s, score them, and tell the best setting.

    What is there already is not made again: a sweep that was stopped or killed goes on.
    """

    sweep: Annotated[SweepConfig, tyro.conf.OmitArgPrefixes]
    """What is made."""

    out: Path
    """Folder for the pictures, scores.csv and the contact sheets."""

    device: str | None = None
    """Torch device: cpu, cuda or mps; none means the best there is."""

    def run(self) -> None:
        """Make what is missing, then write the table and the sheets."""
        folder = SweepFolder.create(self.out, self.sweep)
        if folder.num_done() < self.sweep.num_pictures:
            self._work(folder)
        _report(folder)

    def _work(self, folder: SweepFolder) -> None:
        check_environment()
        quieten_libraries()
        from chats.generation.generate import generate
        from chats.models.manager import ModelManager
        from chats.scoring import scorer

        manager = ModelManager(device=self.device, max_rows=self.sweep.rows_per_call)
        is_judged = self.sweep.scorer != NO_SCORER
        judge = scorer(self.sweep.scorer, device=self.device) if is_judged else None
        events = run_sweep(
            folder,
            generate=lambda config, cancel: generate(manager, config, cancel=cancel),
            judge=judge,
        )
        try:
            for event in events:
                _show(event)
        except KeyboardInterrupt:
            events.close()
            done = f"{folder.num_done()} of {self.sweep.num_pictures} pictures are kept"
            sys.stderr.write(f"\n{done}; the same command goes on from there.\n")
            raise


def _report(folder: SweepFolder) -> None:
    config, calls = folder.config, folder.calls()
    found = results(config, calls)
    write_atomically(folder.path / "scores.csv", table_csv(config, found), remedy=_REMEDY)
    for prompt in range(min(_MAX_SHEETS, len(config.prompts))):
        sheet = folder.path / f"sheet-{prompt + 1}.png"
        sheet.write_bytes(contact_sheet(folder, prompt=prompt))
    for notice in dict.fromkeys(notice for call in calls for notice in call.notices):
        _say(notice)
    for score in found.cells:
        _say(f"{cell_label(score.cell, config)}: {score_text(score) or 'no score'}")
    _say(verdict(config, found))
    seconds = sum(call.seconds for call in calls)
    _say(f"{config.num_pictures} pictures in {len(calls)} calls, {seconds:.1f} s: {folder.path}")


def _show(event: SweepEvent) -> None:
    if sys.stderr.isatty():
        left = f"{event.eta_seconds:.0f} s left"
        done = f"{event.num_done} of {event.num_pictures} pictures"
        sys.stderr.write(f"\r{100 * event.fraction:.0f} %, {done}, {left}   ")
        sys.stderr.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
