"""The jobs of the Hub in memory, as huggingface_hub documents them.

Every call is checked against the signature of the real `HfApi`, jobs are real `JobInfo` objects
made of the JSON that the Hub sends, and stages, errors and logs are as documented: a job is
SCHEDULING, RUNNING, then COMPLETED, ERROR, CANCELED or DELETED; an unknown one is a 404; the log is
told from its first line whenever it is asked for, and with `follow` until the job has ended.
"""

import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import HfApi, JobInfo
from huggingface_hub._jobs_api import TERMINAL_JOB_STAGES
from huggingface_hub.errors import HfHubHTTPError

from tests.test_push import http_error

ENDED = {str(stage.value) for stage in TERMINAL_JOB_STAGES}
PRICES = {"cpu-basic": (0.000167, "minute"), "a10g-small": (0.0175, "minute")}


class FakeHubJobs:
    """One user's jobs."""

    def __init__(self, *, name: str = "ada"):
        self.name = name
        self.jobs: dict[str, dict] = {}
        self.logs: dict[str, list[str]] = {}
        self.bundles: dict[str, set[str]] = {}
        self.calls: list[str] = []
        self.secrets: list[dict] = []
        self.error: Exception | None = None
        self.after_submit: BaseException | None = None
        self.is_closed = False

    def __getattribute__(self, name):
        """Check the arguments of a call against those of the real client."""
        found = object.__getattribute__(self, name)
        real = getattr(HfApi, name, None)
        if name.startswith("_") or real is None or not callable(found):
            return found

        def call(*arguments, **options):
            inspect.signature(real).bind(self, *arguments, **options)
            self.calls.append(name)
            if self.error is not None:
                raise self.error
            return found(*arguments, **options)

        return call

    def whoami(self, token=None):
        return {"name": self.name}

    def list_jobs_hardware(self, token=None):
        return [
            SimpleNamespace(name=name, unit_cost_usd=price, unit_label=unit)
            for name, (price, unit) in PRICES.items()
        ]

    def create_repo(self, repo_id, *, private, exist_ok, token):
        assert private
        self.bundles.setdefault(repo_id, set())

    def upload_folder(self, *, repo_id, folder_path, path_in_repo, token):
        found = {p for p in Path(folder_path).rglob("*") if p.is_file()}
        names = {f"{path_in_repo}/{p.relative_to(folder_path).as_posix()}" for p in found}
        self.bundles[repo_id] |= names
        self.config = (Path(folder_path) / "config.yaml").read_text()

    def run_job(self, *, secrets, token, namespace, volumes, timeout, image, **spec):
        job_id = f"{len(self.jobs):024x}"
        self.secrets.append(secrets)
        self.volume, self.timeout = volumes[0], timeout
        self.jobs[job_id] = {
            "id": job_id,
            "createdAt": "2026-01-31T12:00:00.000Z",
            "dockerImage": image,
            "command": spec["command"],
            "environment": spec["env"],
            "flavor": spec["flavor"],
            "labels": spec["labels"],
            "status": {"stage": "SCHEDULING", "message": None},
            "owner": {"id": "1", "name": namespace, "type": "user"},
        }
        self.logs[job_id] = []
        if self.after_submit is not None:
            raise self.after_submit
        return self._info(job_id)

    def inspect_job(self, *, job_id, namespace=None, token=None):
        if job_id not in self.jobs:
            raise http_error(404, kind=HfHubHTTPError)
        return self._info(job_id)

    def list_jobs(self, *, status=None, namespace=None, token=None):
        return [
            self._info(key) for key, job in self.jobs.items() if job["status"]["stage"] in status
        ]

    def fetch_job_logs(self, *, job_id, namespace=None, follow=False, token=None) -> Iterator[str]:
        told = 0
        while True:
            has_ended = self.is_closed or self.jobs[job_id]["status"]["stage"] in ENDED
            lines = self.logs[job_id][told:]
            told += len(lines)
            yield from lines
            if has_ended or not follow:
                return
            time.sleep(0.02)

    def cancel_job(self, *, job_id, namespace=None, token=None):
        self.becomes("CANCELED", job_id=job_id)

    def becomes(self, stage: str, *, message: str | None = None, job_id: str | None = None):
        """Let the newest job, or another, reach a stage."""
        job = self.jobs[job_id or max(self.jobs)]
        job["status"] = {"stage": stage, "message": message}
        if stage == "RUNNING":
            job["startedAt"] = "2026-01-31T12:01:00.000Z"

    def _info(self, job_id):
        return JobInfo(**self.jobs[job_id], endpoint="https://huggingface.co")
