"""Stands in for sbatch, squeue, sacct and scancel, in their words; FAKE_SLURM names its jobs' file.

As documented: sbatch tells the number; squeue lists jobs that have not ended and refuses a number
that it has forgotten; sacct knows how a job ended, if there is accounting; scancel ends a job, or
sends a signal and leaves it.
"""

import json
import os
import sys
from pathlib import Path

ENDED = ("TIMEOUT", "OUT_OF_MEMORY", "CANCELLED by 1000", "NODE_FAIL", "FAILED", "COMPLETED")


def main(program: str, arguments: list[str]) -> str:
    """Do as one of the programs would; returns what it prints."""
    file = Path(os.environ["FAKE_SLURM"])
    content = json.loads(file.read_text())
    content["calls"].append([program, *arguments])
    jobs = content["jobs"]
    said = ""
    if content["error"]:
        sys.exit(content["error"])
    if program == "sbatch":
        lines = Path(arguments[0]).read_text().splitlines()
        name = next(line.partition("=")[2] for line in lines if "--job-name" in line)
        number = str(4000 + len(jobs))
        jobs[number] = {"name": name, "state": "PENDING", "reason": "Resources"}
        said = f"Submitted batch job {number}\n"
    elif program == "squeue" and "--me" in arguments:
        alive = [(key, job) for key, job in jobs.items() if job["state"] not in ENDED]
        said = "".join(f"{key} {job['name']}\n" for key, job in alive)
    elif program == "squeue":
        job = jobs.get(arguments[arguments.index("--jobs") + 1])
        if job is None:
            sys.exit("slurm_load_jobs error: Invalid job id specified")
        said = "" if job["state"] in ENDED else f"{job['state']} {job['reason']}\n"
    elif program == "sacct":
        job = jobs.get(arguments[arguments.index("--jobs") + 1])
        said = f"{job['state']}\n" if job else ""
    elif program == "scancel" and not arguments[0].startswith("--signal"):
        jobs[arguments[0]]["state"] = "CANCELLED by 1000"
    file.write_text(json.dumps(content))
    return said
