"""The dry run: what it refuses, what it tells, and that it changes nothing."""

import hashlib
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.__main__ import main
from training.commands import take_dry_run
from training.config import (
    DryRunSettings,
    TrainingConfig,
    parse_command_line,
)
from training.planning.dry_run import dry_run
from training.run import RunDirectory

ROOT = Path(__file__).parents[1]


@pytest.fixture
def arguments(tmp_path):
    """A training of the embedded model on four pairs: 2 × 3 pairs a step, 10 steps."""
    write_preferences(tmp_path / "pairs")
    flags = {
        "data.path": tmp_path / "pairs",
        "run.output": tmp_path / "run",
        "model.rank": 2,
        "optimizer.num-steps": 10,
        "optimizer.batch-size": 2,
        "optimizer.gradient-accumulation": 3,
        "optimizer.learning-rate": 1e-3,
    }
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


@pytest.fixture
def run_main(monkeypatch, capsys):
    def run(arguments):
        monkeypatch.setattr("sys.argv", ["training", *arguments])
        status = main()
        return status, capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--engine", "ddp"], "--engine belongs to --dry-run"),
        (["--pairs-per-second=3"], "--pairs-per-second belongs to --dry-run"),
        (
            ["--dry-run", "--engine", "zero"],
            "no engine 'zero'; the engines are cpu, ddp, fsdp, gpu",
        ),
        (["--dry-run", "--engine", "../recipes/shapes_demo"], "There is no engine"),
        (["--dry-run", "--engine", "ddp"], "Give --num-processes, one for each GPU"),
        (["--dry-run", "--engine", "ddp", "--num-processes", "1"], "must be at least two"),
        (["--dry-run", "--engine", "cpu", "--num-processes", "2"], "starts one process"),
        (["--dry-run", "--num-processes", "2"], "Without an engine there is one process"),
        (
            ["--dry-run", "--engine", "multi_node", "--num-processes", "3"],
            "can't start 3 processes on 2 machines",
        ),
        (["--dry-run", "--model.base", "no such model"], "Unknown model 'no such model'"),
        (["--dry-run", "--data.path", "no such data"], "no such data does not exist"),
        (["--dry-run", "--model.targets", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_message(arguments, run_main, flags, words):
    status, printed = run_main([*arguments, *flags])
    assert status == 1
    assert words in printed.err
    assert "Traceback" not in printed.err


def test_a_speed_of_nothing_is_refused(arguments, run_main, capsys):
    with pytest.raises(SystemExit):
        run_main([*arguments, "--dry-run", "--pairs-per-second", "0"])
    assert "greater than 0" in capsys.readouterr().err


def test_its_flags_are_no_settings_of_a_training(arguments):
    settings, rest = take_dry_run(
        ["--dry-run", *arguments, "--engine", "ddp", "--num-processes", "8"]
    )
    assert settings == DryRunSettings(engine="ddp", num_processes=8)
    assert rest == arguments
    assert take_dry_run(arguments) == (None, arguments)
    parse_command_line(rest)


def test_it_tells_what_would_be_trained_and_changes_nothing(arguments, run_main, tmp_path):
    before = contents(tmp_path)
    status, printed = run_main([*arguments, "--dry-run", "--pairs-per-second", "0.5"])
    assert status == 0
    assert contents(tmp_path) == before
    told = sections(printed.out)
    assert TrainingConfig.model_validate(yaml.safe_load(told["Settings"])) == parse_command_line(
        arguments
    )
    assert shlex.split(told["Command"]) == ["python", "-m", "training", *arguments]
    # 60 pairs are 15 epochs of 4; at half a pair a second they take two minutes.
    assert "6 pairs a step: 1 process × batch 2 × accumulation 3" in told["Course"]
    assert "10 steps see 60 pairs: 15.0 epochs of 4 pairs" in told["Course"]
    assert "learning rate 0.001 at its peak" in told["Course"]
    assert "about 6 forwards" in told["Course"]
    assert "about 2 minutes at 0.5 pairs a second, as given" in told["Course"]


def test_memory_is_told_by_part_and_adds_up(arguments, run_main):
    _, printed = run_main([*arguments, "--dry-run", "--optimizer.ema-decay", "0.9"])
    lines = sections(printed.out)["Memory of each process, in GB (10⁹ bytes)"].splitlines()
    parts = dict(re.findall(r"^(\S.*?)\s{2,}([\d.]+)$", "\n".join(lines), re.MULTILINE))
    available = parts.pop("there is (main memory)")
    together = float(parts.pop("together"))
    assert list(parts) == [
        "weights",
        "gradients",
        "optimizer state (adamw)",
        "moving average",
        "activations",
        "the model as it was loaded",
    ]
    assert sum(map(float, parts.values())) == pytest.approx(together, abs=0.005)
    assert together < float(available)
    assert "does not fit" not in printed.out


def test_a_training_that_does_not_fit_is_told_what_helps(arguments, run_main):
    flags = ["--dry-run", "--model.kind", "full", "--optimizer.batch-size", "65536"]
    status, printed = run_main([*arguments, *flags, "--optimizer.gradient-accumulation", "1"])
    assert status == 0
    helps = "It does not fit. What helps: optimizer.gradient_checkpointing true, a smaller"
    assert helps in printed.out
    _, printed = run_main([*arguments, *flags, "--optimizer.gradient-checkpointing"])
    assert "What helps: a smaller optimizer.batch_size" in printed.out


def test_a_ddp_run_has_the_batch_and_the_rate_of_all_processes(arguments, run_main, monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = ["--dry-run", "--engine", "ddp", "--num-processes", "8"]
    _, printed = run_main([*arguments, *flags, "--optimizer.scale-learning-rate"])
    told = sections(printed.out)
    assert told["Command"].startswith(
        "accelerate launch --config_file training/engines/ddp.yaml --num_processes 8 -m training "
    )
    assert "48 pairs a step: 8 processes" in told["Course"]
    assert "learning rate 0.048 at its peak" in told["Course"]
    assert "being exchanged" in printed.out


def test_shared_out_models_are_told_by_their_parts(arguments, run_main):
    """Eight processes hold an eighth each; what is whole for a moment is told by itself."""
    told = {}
    for engine in ("ddp", "fsdp"):
        flags = ["--dry-run", "--engine", engine, "--num-processes", "8"]
        _, printed = run_main([*arguments, *flags, "--model.kind", "full"])
        told[engine] = {
            name: float(size)
            for name, size in re.findall(r"^(\S.*?)\s{2,}([\d.]+)$", printed.out, re.MULTILINE)
        }
        assert f"training/engines/{engine}.yaml --num_processes 8" in printed.out
    for part in ("weights", "gradients", "optimizer state (adamw)"):
        assert told["fsdp"][part] == pytest.approx(told["ddp"][part] / 8, abs=6e-4)
    assert 0 < told["fsdp"]["being exchanged"] < told["ddp"]["weights"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to compare with")
def test_memory_is_not_compared_with_a_gpu_that_is_elsewhere(arguments, run_main):
    _, printed = run_main([*arguments, "--dry-run", "--engine", "gpu"])
    assert "there is" not in printed.out
    assert "before that, to encode the data" in printed.out


def test_several_machines_are_told_what_each_fills_in(arguments):
    asked = DryRunSettings(engine="multi_node", num_processes=16)
    told = sections(dry_run(parse_command_line(arguments), asked, arguments))
    assert "--num_processes 16 --machine_rank RANK --main_process_ip ADDRESS" in told["Command"]
    assert "on each of 2 machines" in told["Command"]


def test_the_speed_of_a_run_is_read_from_its_metrics(arguments, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.append_metrics({"step": 1, "pairs_per_second": 60.0})
    run.append_metrics({"step": 2, "pairs_per_second": 0.01})
    told = sections(dry_run(parse_command_line(arguments), DryRunSettings(), arguments))
    assert "about 1.7 hours at 0.01 pairs a second, measured in this run" in told["Course"]


def test_what_would_have_to_be_fetched_or_unpacked_is_not_known(arguments, tmp_path):
    archive = tmp_path / "pairs.zip"
    archive.write_bytes(b"not read")
    for path in (str(archive), "owner/name"):
        config = parse_command_line([*arguments, "--data.path", path])
        told = sections(dry_run(config, DryRunSettings(), arguments))
        assert "how many epochs is not known before the data is here" in told["Course"]
        assert "time: not known" in told["Course"]


def test_no_weights_are_needed(arguments, tmp_path):
    """A folder with configurations alone; what is not there is not counted."""
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    pipeline.unet.save_config(tmp_path / "base" / "unet")
    pipeline.vae.save_config(tmp_path / "base" / "vae")
    index = '{"_class_name": "StableDiffusionPipeline"}'
    (tmp_path / "base" / "model_index.json").write_text(index)
    config = parse_command_line([*arguments, "--model.base", str(tmp_path / "base")])
    text = dry_run(config, DryRunSettings(), arguments)
    num_frozen = sum(each.numel() for each in pipeline.unet.parameters())
    assert re.search(rf"^frozen +{num_frozen:,}$", text, re.MULTILINE)
    assert "the model as it was loaded" not in text


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^# (.+)\n", text, flags=re.MULTILINE)[1:]
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def contents(folder: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
