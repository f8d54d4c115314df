"""Hugging Face Jobs as a launcher: a training in a container that is paid by the minute.

Written after the documentation of huggingface_hub and tested against a stand-in that keeps to it;
nobody has paid for a real job yet. The job is given this program and the run's settings, prints its
metrics among its lines, and pushes the pair to the user's repository at its end. It keeps no
checkpoints: what is stopped is gone.

The token is asked for whenever it is needed and handed to the Hub as the job's secret; it is
written nowhere.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chats.errors import UserError
from training.hub import check_name, hub_errors_explained
from training.jobs.hf_bundle import (
    BUNDLE,
    FLAGS_VARIABLE,
    REPO_VARIABLE,
    check_portable,
    job_command,
    write_bundle,
)
from training.jobs.hf_following import Followers
from training.jobs.hf_price import HfJobSettings, check_price
from training.jobs.launchers import Report
from training.jobs.reading import LogChunk, read_log
from training.jobs.workspace import JobFolder
from training.launch import Engine
from training.run import RunState

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo

RUN_LABEL = "chats-run"
_BUNDLES = "chats-jobs"
"""Private repository of the user that bundles are uploaded to."""
_LOOK_AGAIN_SECONDS = 10.0
_ENDS: Mapping[str, tuple[RunState, str]] = {
    "COMPLETED": ("succeeded", "The pair is at https://huggingface.co/{repo}."),
    "ERROR": ("failed", "The job failed: {said}"),
    "CANCELED": ("cancelled", "The job was cancelled; it kept no checkpoint."),
    "DELETED": ("interrupted", "The job was deleted on the Hub; it kept no checkpoint."),
}
"""Stages that a job does not leave, with what the run becomes."""


@dataclass
class _Seen:
    report: Report
    until: float


class HfJobs:
    """Starts trainings as jobs of the user who is logged in."""

    def __init__(
        self,
        settings: HfJobSettings | None = None,
        *,
        api: "Callable[[], HfApi] | None" = None,
        token: Callable[[], str | None] | None = None,
    ) -> None:
        """Prepare it; nothing is asked yet.

        Args:
            settings: For new jobs; none if this only looks after those that there are.
            api: Gives the Hub's client; none means huggingface_hub's.
            token: Gives the user's token: by OAuth on a Space; none means the local login's.
        """
        self._settings, self._make_api = settings, api or _make_api
        self._token = token or _local_token
        self._seen: dict[str, _Seen] = {}
        self._followers = Followers()

    def devices(
        self,
        engine: Engine,
        *,
        wanted: str | None,
        before: tuple[str, ...],
        load: Mapping[str, int],
    ) -> tuple[str, ...]:
        """Return none: the hardware is not here. Refuses what was not agreed to.

        Raises:
            UserError: The hardware or the repository is not named, or the price not agreed to.
        """
        if wanted is not None:
            raise UserError("A job runs elsewhere: leave out --device and choose a flavor.")
        settings = self._agreed()
        with _explained(f"for {settings.repo}", doing="start a job"):
            check_price(settings, api=self._make_api(), token=self._token())
        return ()

    def submit(self, folder: JobFolder) -> str:
        """Upload what the job needs and start it; returns `owner/id`.

        Raises:
            UserError: It needs files of this machine, costs too much, or the Hub refuses it.
        """
        from huggingface_hub import Volume

        if folder.job().kind != "training":
            raise UserError(
                f"Hugging Face Jobs take trainings, and {folder.id} is an evaluation. "
                "Leave out --launcher, or take slurm."
            )
        settings, config = self._agreed(), folder.run.read_config()
        check_portable(config)
        explained = _explained(f"for {settings.repo}", doing="start a job")
        with explained, tempfile.TemporaryDirectory() as bundle:
            check_price(settings, api=self._make_api(), token=self._token())
            api, token = self._make_api(), self._needed_token(settings)
            owner = api.whoami(token=token)["name"]
            write_bundle(Path(bundle), config)
            source = f"{owner}/{_BUNDLES}"
            api.create_repo(source, private=True, exist_ok=True, token=token)
            api.upload_folder(
                repo_id=source, folder_path=bundle, path_in_repo=folder.id, token=token
            )
            volume = Volume(type="model", source=source, mount_path=BUNDLE, path=folder.id)
            started = api.run_job(
                image=settings.image,
                command=job_command(folder.job()),
                env={
                    REPO_VARIABLE: settings.repo,
                    FLAGS_VARIABLE: "" if settings.public else "--private",
                },
                secrets={"HF_TOKEN": token},
                flavor=settings.flavor,
                timeout=round(settings.hours * 3600),
                labels={RUN_LABEL: folder.id},
                volumes=[volume],
                namespace=owner,
                token=token,
            )
        return f"{owner}/{started.id}"

    def poll(self, folder: JobFolder) -> Report:
        """Say whether a run's job lives; the Hub is asked now and then, and takes the last word."""
        seen = self._seen.get(folder.id)
        if seen is None or time.monotonic() >= seen.until:
            until = time.monotonic() + _LOOK_AGAIN_SECONDS
            self._seen[folder.id] = seen = _Seen(self._look(folder), until)
        return seen.report

    def cancel(self, folder: JobFolder, *, force: bool) -> None:
        """Cancel a run's job; the Hub knows no way to let it save first.

        Raises:
            UserError: The Hub refuses it or can't be reached.
        """
        owner, job_id = _parts(folder)
        if job_id:
            with _explained(job_id, doing="cancel the job"):
                self._make_api().cancel_job(job_id=job_id, namespace=owner, token=self._token())
            self._seen.pop(folder.id, None)

    def logs(self, folder: JobFolder, *, offset: int | None, max_bytes: int) -> LogChunk:
        """Read what has come of the job's lines."""
        self.poll(folder)
        return read_log(folder.run.output, offset=offset, max_bytes=max_bytes)

    def list(self) -> Mapping[str, str]:
        """Return the user's living jobs that have a run's label.

        Raises:
            UserError: The Hub refuses it or can't be reached.
        """
        with _explained("the jobs", doing="list"):
            api, token = self._make_api(), self._token()
            owner = api.whoami(token=token)["name"]
            found = api.list_jobs(status=["RUNNING", "SCHEDULING"], namespace=owner, token=token)
            return {
                job.labels[RUN_LABEL]: f"{owner}/{job.id}"
                for job in found
                if RUN_LABEL in (job.labels or {})
            }

    def _look(self, folder: JobFolder) -> Report:
        from huggingface_hub import errors

        owner, job_id = _parts(folder)
        if not job_id:
            return Report(is_alive=False)
        try:
            api, token = self._make_api(), self._token()
            job = api.inspect_job(job_id=job_id, namespace=owner, token=token)
        except errors.HfHubHTTPError as error:
            if getattr(error.response, "status_code", None) == 404:
                folder.run.update_status(
                    state="interrupted", message="The Hub knows this job no more."
                )
                return Report(is_alive=False)
            return Report(is_alive=True, reason=f"The Hub does not say how it is: {_line(error)}")
        except (OSError, errors.HTTPError, errors.LocalTokenNotFoundError) as error:
            return Report(is_alive=True, reason=f"The Hub can't be asked: {_line(error)}")
        return self._told(folder, job, api=api, token=token)

    def _told(
        self, folder: JobFolder, job: "JobInfo", *, api: "HfApi", token: str | None
    ) -> Report:
        """Write down what the Hub says of a job."""
        stage = str(getattr(job.status.stage, "value", job.status.stage))
        if stage == "SCHEDULING":
            return Report(is_alive=True, reason=f"Waits for a machine ({job.flavor}).")
        self._followers.follow(folder, api=api, token=token, has_ended=stage in _ENDS)
        if stage not in _ENDS:
            if folder.run.stored_status().state == "queued":
                folder.run.update_status(state="running", started=job.started_at, message="")
            return Report(is_alive=True)
        state, words = _ENDS[stage]
        repo = (job.environment or {}).get(REPO_VARIABLE, "the Hub")
        said = job.status.message or "the end of its log says why."
        folder.run.update_status(state=state, message=words.format(repo=repo, said=said))
        return Report(is_alive=False)

    def _agreed(self) -> HfJobSettings:
        settings = self._settings
        if settings is None:
            raise UserError(
                "A job costs money and keeps no checkpoints: submit the training again, with "
                "--launcher hf-jobs and what it may cost."
            )
        if not settings.repo:
            raise UserError("Say where the pair is pushed to: --hf-jobs.repo owner/name.")
        check_name(settings.repo)
        return settings

    def _needed_token(self, settings: HfJobSettings) -> str:
        token = self._token()
        if not token:
            raise UserError(
                f"Can't push to {settings.repo}: nobody is logged in to the Hub on this machine. "
                "Run `hf auth login` with a token that may write and start jobs."
            )
        return token


def _explained(name: str, *, doing: str) -> AbstractContextManager[None]:
    offline = "Jobs that run go on; the Hub's own page shows them."
    return hub_errors_explained(name, doing=doing, offline=offline)


def _parts(folder: JobFolder) -> tuple[str, str]:
    """Return owner and id of a run's job; empty if none is known."""
    job = folder.job()
    owner, _, job_id = (job.handle or "" if job else "").partition("/")
    return owner, job_id


def _make_api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi()


def _local_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
