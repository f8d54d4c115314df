"""The lines of a Hugging Face Job, brought into the run's own files as they come."""

import threading
from typing import TYPE_CHECKING

from filelock import FileLock

from chats.devices import taken
from training.jobs.hf_bundle import METRICS_MARK
from training.jobs.workspace import JobFolder

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class Followers:
    """A thread for each job whose lines are followed; one program follows a job at a time."""

    def __init__(self) -> None:
        self._threads: dict[str, threading.Thread] = {}

    def follow(
        self, folder: JobFolder, *, api: "HfApi", token: str | None, has_ended: bool
    ) -> None:
        """Begin to follow a run's job, unless that is under way or done."""
        thread = self._threads.get(folder.id)
        if thread is not None and (has_ended or thread.is_alive()):
            return
        thread = threading.Thread(
            target=_follow, args=(folder, api, token), name="hf-job", daemon=True
        )
        self._threads[folder.id] = thread
        thread.start()


def _follow(folder: JobFolder, api: "HfApi", token: str | None) -> None:
    """Write a job's lines until it ends; the Hub tells all of them again from the first."""
    lock = FileLock(folder.run.path / "follow.lock", thread_local=False)
    if not taken(lock):
        return
    try:
        owner, _, job_id = folder.job().handle.partition("/")
        lines = api.fetch_job_logs(job_id=job_id, namespace=owner, follow=True, token=token)
        with (
            folder.run.output.open("w", encoding="utf-8") as output,
            folder.run.log.open("w", encoding="utf-8") as log,
            folder.run.metrics.open("w", encoding="utf-8") as metrics,
        ):
            try:
                for line in lines:
                    _write(line.rstrip("\r\n"), output=output, log=log, metrics=metrics)
            except Exception as error:  # the network, the Hub, its client: the job goes on
                output.write(f"(The job's lines can't be followed: {type(error).__name__}.)\n")
    finally:
        lock.release()


def _write(line: str, *, output, log, metrics) -> None:
    if line.startswith(METRICS_MARK):
        metrics.write(line.removeprefix(METRICS_MARK) + "\n")
        metrics.flush()
        return
    for file in (output, log):
        file.write(line + "\n")
        file.flush()
