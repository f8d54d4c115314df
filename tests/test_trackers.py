"""Trackers: they are told what metrics.jsonl says, under the same names."""

from typing import ClassVar

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType

from chats.errors import UserError
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from tests.tiny_training import tiny_config
from training.data.encoded_pairs import encode_pairs
from training.loop.trackers import public_settings
from training.loop.trainer import train, train_on
from training.preferences import read_pairs
from training.run import RunDirectory


class FakeTracker(tracking.GeneralTracker):
    """Keeps what it is told."""

    name = "tensorboard"
    requires_logging_directory = True
    made: ClassVar[list["FakeTracker"]] = []

    def __init__(self, run_name, logging_dir):
        super().__init__()
        self.told, self.settings, self.is_finished = [], {}, False
        self.place = (run_name, logging_dir)
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.told.append({"step": step} | values)

    def finish(self):
        self.is_finished = True


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", FakeTracker)
    FakeTracker.made.clear()
    return FakeTracker.made


def test_a_tracker_is_told_the_metrics_and_closed(fake, tmp_path):
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    dataset = encode_pairs(read_pairs(write_preferences(tmp_path / "pairs")), pipeline)
    config = tiny_config(tmp_path / "run", run={"trackers": ["tensorboard"]})
    train_on(config, dataset, pipeline, held_out=dataset)
    (tracker,) = fake
    assert tracker.told == RunDirectory(config.run.output).read_metrics()
    assert "validation/loss" in tracker.told[0]
    assert tracker.is_finished
    assert tracker.place == ("chats", tmp_path / "run")
    assert tracker.settings["optimizer.num_steps"] == 6
    assert not any(str(tmp_path) in str(value) for value in tracker.settings.values())


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    config = tiny_config(
        tmp_path / "run",
        data={"path": tmp_path / "nowhere"},
        run={"trackers": ["tensorboard", "wandb", "trackio"]},
    )
    with pytest.raises(UserError, match=r"wandb and trackio, which is not .*pip install wandb tra"):
        train(config)
    assert not config.run.output.exists()


def test_a_tracker_that_can_not_start_says_so(fake, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no login")

    monkeypatch.setattr(FakeTracker, "__init__", refuse)
    config = tiny_config(tmp_path / "run", run={"trackers": ["tensorboard"]})
    with pytest.raises(UserError, match=r"\(tensorboard\) can't start: no login"):
        train(config)
    assert RunDirectory(config.run.output).state() == "failed"


def test_trackers_get_no_paths_of_this_machine(tmp_path):
    (tmp_path / "base").mkdir()
    config = tiny_config(
        tmp_path / "run",
        model={"base": str(tmp_path / "base")},
        data={"cache": tmp_path / "cache", "path": "owner/name"},
    )
    settings = public_settings(config)
    assert settings["model.base"] == "base"
    assert settings["data.path"] == "owner/name"
    assert settings["run.output"] == "run"
    assert not any(str(tmp_path) in str(value) for value in settings.values())
