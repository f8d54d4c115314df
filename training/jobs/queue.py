"""Who is started, where and when: what has to be done one at a time in a workspace."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from chats.errors import UserError
from training.config import TrainingConfig
from training.evaluation_config import EvaluateConfig
from training.jobs.kinds import kind_of
from training.jobs.launchers import Launcher
from training.jobs.states import FINAL, WAITING
from training.jobs.summary import JobSummary, damaged_summary, summarise
from training.jobs.workspace import Job, JobFolder, Workspace, new_job
from training.launch import find_engine

HERE = "here"

LEAVE_SECONDS = 10.0
"""Longer than a run needs from its last word in status.json to its end."""

logger = logging.getLogger(__name__)


class JobQueue:
    """The order of a workspace's runs, and who starts them.

    It lies on the disk alone. Whoever changes it keeps the others off until what he started is
    written down; whoever was killed in between leaves runs that `reconcile` starts.
    """

    def __init__(self, workspace: Workspace, launchers: Mapping[str, Launcher]) -> None:
        self._workspace = workspace
        self._launchers = launchers

    def add(
        self,
        config: TrainingConfig | EvaluateConfig,
        *,
        engine: str | None,
        num_processes: int | None,
        device: str | None,
        launcher: str,
    ) -> JobFolder:
        """Make a run, give it the last place, and start it; see `JobConsole.submit`.

        Raises:
            UserError: What is asked is not there, or the workspace can't be written to.
        """
        starter = self._launcher(launcher)
        found = find_engine(engine, num_processes=num_processes)
        with self._workspace.queue():
            devices = starter.devices(found, wanted=device, before=(), load=self._load())
            job = new_job(
                kind=kind_of(config),
                directory=Path.cwd(),
                launcher=launcher,
                engine=engine,
                num_processes=found.num_processes,
                devices=devices,
                ticket=self._workspace.next_ticket(),
            )
            folder = self._workspace.create(config, job)
            self._start(folder, job)
        return folder

    def add_again(self, folder: JobFolder) -> None:
        """Give a run that has ended the last place, and start it; who holds the queue may ask.

        Raises:
            UserError: It lives after all, or its devices are gone.
        """
        job = folder.job()
        engine = find_engine(job.engine, num_processes=job.num_processes)
        devices = self.launcher_of(folder).devices(
            engine, wanted=None, before=job.devices, load=self._load()
        )
        ticket = self._workspace.next_ticket()
        self._restart(folder, job.model_copy(update={"ticket": ticket, "devices": devices}))

    def reconcile(self) -> list[str]:
        """Start what waited and has no process, in the old order; return the runs' ids.

        Raises:
            UserError: The workspace can't be written to.
        """
        with self._workspace.queue():
            self._workspace.sweep()
            waiting = [
                (folder.job(), folder)
                for folder, summary in self.summaries()
                if summary.submitted is not None and self._is_forgotten(folder)
            ]
            used = {job.launcher for job, _ in waiting}
            known = {name: self._living(name) for name in used}
            started = []
            for job, folder in sorted(waiting, key=lambda each: each[0].ticket):
                if known[job.launcher] is None:
                    continue  # it can't be asked now, and may know the run: nothing starts twice
                if handle := known[job.launcher].get(folder.id):
                    folder.write_job(job.model_copy(update={"handle": handle}))
                    continue
                with contextlib.suppress(UserError):  # status.json has it
                    self._restart(folder, job)
                    started.append(folder.id)
            return started

    def summaries(self) -> Iterator[tuple[JobFolder, JobSummary]]:
        """Look at every run, the newest first; what is deleted meanwhile is left out."""
        for folder in self._workspace.folders():
            summary = self.summary(folder)
            if folder.run.path.is_dir():
                yield folder, summary

    def summary(self, folder: JobFolder) -> JobSummary:
        """Look at a run; one that is damaged says so."""
        try:
            return summarise(folder, self.launcher_of(folder))
        except UserError as error:
            return damaged_summary(folder, error)

    def launcher_of(self, folder: JobFolder) -> Launcher:
        """Return who starts a run.

        Raises:
            UserError: This program does not know it.
        """
        job = folder.job()
        return self._launcher(job.launcher if job else HERE)

    def cancel_elsewhere(self, folder: JobFolder) -> None:
        """Take a run that waits out of another machine's queue; one that waits here sees it itself.

        Raises:
            UserError: That queue refuses it or can't be reached.
        """
        job = folder.job()
        if job is not None and job.launcher != HERE:
            self._launcher(job.launcher).cancel(folder, force=True)

    def _is_forgotten(self, folder: JobFolder) -> bool:
        """Whether a run waits on the disk, but nothing of it lives."""
        status = folder.run.stored_status()
        if status is None or status.state not in WAITING:
            return False
        return not self.launcher_of(folder).poll(folder).is_alive

    def _living(self, launcher: str) -> Mapping[str, str] | None:
        """Return what a launcher started and still lives; none if it can't be asked."""
        try:
            return self._launcher(launcher).list()
        except UserError as error:
            logger.warning("%s", error)
            return None

    def _restart(self, folder: JobFolder, job: Job) -> None:
        job = job.model_copy(update={"handle": None})
        # A trainer that has told its end may take a moment to leave.
        with folder.run.probe(wait_seconds=LEAVE_SECONDS) as is_free:
            if not is_free:
                raise UserError(f"The run {folder.id} is alive: it can't be started.")
            folder.forget_stop()
            folder.write_job(job)
            folder.run.update_status(state="queued", message="", exit_code=None)
        self._start(folder, job)

    def _start(self, folder: JobFolder, job: Job) -> None:
        try:
            handle = self._launcher(job.launcher).submit(folder)
        except UserError as error:
            folder.run.update_status(state="failed", message=str(error))
            raise
        folder.write_job(job.model_copy(update={"handle": handle}))

    def _load(self) -> Counter[str]:
        """Count the runs that wait for each device or keep it."""
        busy = (summary for _, summary in self.summaries() if summary.state not in FINAL)
        return Counter(device for summary in busy for device in summary.devices)

    def _launcher(self, name: str) -> Launcher:
        if name not in self._launchers:
            known = ", ".join(self._launchers)
            raise UserError(f"There is no launcher {name!r}; there is {known}.")
        return self._launchers[name]
