"""Runs as a training leaves them, written at once: in every state, with curves, pictures, logs."""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image

from tests.job_queue import make_config
from training.config import TrainingConfig
from training.jobs.workspace import Workspace, new_job
from training.run import RunDirectory, RunState, Sample

PROMPTS = ("three red stars", "a blue circle to the left of a square")


def write_run(
    workspace: Path,
    *,
    state: RunState = "succeeded",
    num_steps: int = 100,
    step: int | None = None,
    message: str = "",
    config: TrainingConfig | None = None,
    age_minutes: int = 0,
    curve_every: int = 5,
    with_pair: bool = True,
) -> RunDirectory:
    """Write a run of a queue that nobody trains."""
    config = config or make_config(num_steps=num_steps)
    submitted = datetime.now(UTC) - timedelta(minutes=age_minutes)
    job = new_job(directory=Path.cwd(), devices=("cpu",), ticket=age_minutes)
    job = job.model_copy(update={"submitted": submitted.replace(microsecond=0)})
    folder = Workspace(workspace)
    run = folder.create(config, job).run
    step = config.optimizer.num_steps if step is None else step
    write_curve(run, range(curve_every, step + 1, curve_every))
    if state == "succeeded" and with_pair:
        run.pair.mkdir()
        (run.pair / "pair.json").write_text("{}")
    run.update_status(state=state, step=step, message=message, started=submitted)
    return run


def write_curve(run: RunDirectory, steps: range, *, seed: int = 0) -> None:
    generator = random.Random(seed or run.path.name)
    speed = generator.uniform(0.5, 1.5)
    with run.metrics.open("a") as file:
        for step in steps:
            gain = 1 - math.exp(-speed * step / max(steps[-1] / 2, 1))
            row = {
                "step": step,
                "loss": math.log(2) - 0.3 * gain + generator.gauss(0, 0.05),
                "rewards/preferred": 0.8 * gain + generator.gauss(0, 0.2),
                "rewards/dispreferred": 0.4 * gain + generator.gauss(0, 0.2),
                "rewards/margins": 1.2 * gain + generator.gauss(0, 0.3),
                "rewards/accuracies": min(1, 0.5 + 0.35 * gain + generator.gauss(0, 0.06)),
                "sigmoid_argument/std": 1 + gain + generator.gauss(0, 0.1),
                "grad_norm": 0.4 + abs(generator.gauss(0, 0.1)),
                "lr": 3e-4 * (1 - step / (steps[-1] + 1)),
                "pairs_per_second": 12 + generator.gauss(0, 0.5),
                "memory_gb": 0.9,
            }
            file.write(json.dumps(row) + "\n")


def write_samples(run: RunDirectory, steps: list[int], *, picture: Path | None = None) -> None:
    """Write the pictures of some steps, as the trainer does."""
    found = []
    for step in steps:
        for seed, prompt in enumerate(PROMPTS):
            methods = [("cfg", None)] * (step == 0) + [("chats", 0.5)]
            for method, alpha in methods:
                file = f"step-{step:06}/{seed:02}-{method}.png"
                path = run.samples / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (step % 256, 90 * seed, 120)).save(path)
                found.append(
                    Sample(
                        step=step,
                        prompt=prompt,
                        method=method,
                        scale=5.0,
                        alpha=alpha,
                        seed=seed,
                        file=file,
                    )
                )
    lines = "".join(each.model_dump_json() + "\n" for each in found)
    (run.samples / "index.jsonl").write_text(lines)
