"""Every launcher that this program knows, by name."""

from collections.abc import Mapping

from training.jobs.here import ThisMachine
from training.jobs.hf_jobs import HfJobs
from training.jobs.hf_price import HfJobSettings
from training.jobs.launchers import Launcher
from training.jobs.queue import HERE
from training.jobs.slurm import Slurm
from training.jobs.slurm_cluster import SlurmSettings

HF_JOBS, SLURM = "hf-jobs", "slurm"


def known_launchers(
    *, hf_jobs: HfJobSettings | None = None, slurm: SlurmSettings | None = None
) -> Mapping[str, Launcher]:
    """Return the launchers; the settings are for what is submitted, not for what there is."""
    return {HERE: ThisMachine(), HF_JOBS: HfJobs(hf_jobs), SLURM: Slurm(slurm)}
