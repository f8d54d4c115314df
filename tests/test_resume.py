"""A training that is stopped, killed or split goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from chats.errors import UserError
from chats.pairs.pair import load_pair
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.config import TrainingConfig
from training.data.encoded_pairs import encode_pairs
from training.loop.checkpoints import newest_checkpoint
from training.loop.metrics import MEASURED
from training.loop.trainer import TrainingInterruptedError, train_on
from training.preferences import read_pairs
from training.run import EXIT_STOPPED, RunDirectory

ROOT = Path(__file__).parent.parent
STEPS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    tiny_pipeline("sd15", dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    return write_preferences(tmp_path_factory.mktemp("data") / "pairs")


@pytest.fixture(scope="module")
def dataset(preferences):
    return encode_pairs(read_pairs(preferences), tiny_pipeline("sd15", dtype=torch.float32))


@pytest.fixture
def _one_thread():
    """Sums over several threads differ in the last bit from those that the children make."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_config(tmp_path, base, preferences):
    def make(output, *, optimizer=None, kind="lora", run=None, **others):
        return TrainingConfig.model_validate(
            {
                "data": {"path": preferences},
                "model": {"base": str(base), "kind": kind, "rank": 2, "lora_alpha": 4},
                "objective": {"temperature": 100.0},
                "optimizer": {"num_steps": STEPS, "batch_size": 4, "learning_rate": 1e-3}
                | (optimizer or {}),
                "run": {"output": tmp_path / output, "log_every": 1, "save_every": 3} | (run or {}),
                **others,
            }
        )

    return make


@pytest.fixture
def pipeline():
    return tiny_pipeline("sd15", dtype=torch.float32)


def losses_of(config):
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in RunDirectory(config.run.output).read_metrics()
    ]


def weights_of(config):
    pair = load_pair(config.run.output / "pair")
    return {
        f"{role}.{name}": value
        for role, half in pair.halves().items()
        for name, value in (
            half.state_dict() if isinstance(half, torch.nn.Module) else half
        ).items()
    }


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class _StopAt:
    """Stands for a person who asks to stop while a step is under way."""

    def __init__(self, step, monkeypatch):
        from training.loop import trainer

        terms_of = trainer.loss_terms
        self.calls = 0

        def counted(*args, **kwargs):
            self.calls += 1
            if self.calls == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return terms_of(*args, **kwargs)

        monkeypatch.setattr(trainer, "loss_terms", counted)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(
    "optimizer",
    [
        {},
        {"ema_decay": 0.9},
        {"name": "adafactor"},
        pytest.param({"name": "adamw-8bit"}, marks=pytest.mark.extras),
    ],
)
def test_a_stopped_training_goes_on_bit_for_bit(
    dataset, pipeline, make_config, monkeypatch, kind, optimizer
):
    whole, cut = (make_config(name, kind=kind, optimizer=optimizer) for name in ("whole", "cut"))
    train_on(whole, dataset, pipeline)
    with monkeypatch.context() as patch:
        _StopAt(5, patch)
        with pytest.raises(TrainingInterruptedError, match=f"after step 5 of {STEPS}"):
            train_on(cut, dataset, pipeline)
    assert RunDirectory(cut.run.output).state() == "interrupted"
    assert newest_checkpoint(cut.run.output / "checkpoints").step == 5
    train_on(cut, dataset, pipeline)
    assert losses_of(cut) == losses_of(whole)
    assert same_weights(cut, whole)
    assert RunDirectory(cut.run.output).state() == "succeeded"


def test_a_killed_training_goes_on_bit_for_bit(make_config):
    """Kill -9 at ten moments spread over the run, some of them in a save."""
    whole, cut = make_config("whole"), make_config("cut", run={"save_every": 1})
    for config, kills in ((whole, 0), (cut, 10)):
        path = config.run.output.with_suffix(".json")
        path.write_text(config.model_dump_json())
        command = [sys.executable, "-m", "tests.kill_training", str(path), str(kills)]
        environment = {**os.environ, "PYTHONPATH": _python_path()}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["kills"] == kills
    assert losses_of(cut) == losses_of(whole)
    assert same_weights(cut, whole)


def test_other_settings_are_refused_for_an_interrupted_run(
    dataset, pipeline, make_config, monkeypatch
):
    config = make_config("run")
    with monkeypatch.context() as patch:
        _StopAt(2, patch)
        with pytest.raises(TrainingInterruptedError):
            train_on(config, dataset, pipeline)
    other = make_config("run", optimizer={"learning_rate": 1e-4})
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.001 then, 0\.0001 now"):
        train_on(other, dataset, pipeline)
    train_on(config, dataset, pipeline)


def test_sigterm_saves_and_leaves_with_its_own_exit_status(make_config):
    config = make_config("run", optimizer={"num_steps": 10_000}, run={"save_every": 10_000})
    settings = config.run.output.parent / "run.yaml"
    settings.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "training", "--config", str(settings)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    run = RunDirectory(config.run.output)
    deadline = time.monotonic() + 200
    while not run.read_metrics() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=100)
    assert child.returncode == EXIT_STOPPED, said
    assert "Stopped as asked" in said
    assert newest_checkpoint(run.checkpoints).step == run.read_metrics()[-1]["step"]


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_processes_train_as_one_with_the_same_global_batch(
    dataset, pipeline, make_config, tmp_path, kind
):
    """Held-out pairs too: three of them, so that the second process has but padding for one."""
    settings = {"num_steps": 4, "learning_rate": 1e-4}
    seen = {
        "validation": {"max_pairs": 3},
        "samples": {"prompts": ["a cat"], "every": 100, "num_steps": 2},
    }
    one = make_config("one", kind=kind, optimizer=settings, **seen)
    train_on(one, dataset, pipeline, held_out=dataset)
    two = make_config("two", kind=kind, optimizer=settings | {"batch_size": 2}, **seen)
    path = tmp_path / "two.json"
    path.write_text(two.model_dump_json())
    # --cpu --num_processes 2 would silently start one process.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", "0", "-m", "tests.two_ranks"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": _python_path()}
    done = subprocess.run(
        [*command, str(path), str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "rank-0").read_text() == (tmp_path / "rank-1").read_text()
    for alone, together in zip(losses_of(one), losses_of(two), strict=True):
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-4)
    samples = [RunDirectory(each.run.output).read_samples() for each in (one, two)]
    assert samples[0] == samples[1]
    assert [each.method for each in samples[0]] == ["cfg", "chats", "chats"]
    expected, found = weights_of(one), weights_of(two)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
