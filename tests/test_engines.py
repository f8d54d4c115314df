"""The files of accelerate that start processes, judged by accelerate itself."""

import subprocess
import sys

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from training.launch import ENGINES, find_engine, launch_command

FILES = sorted(ENGINES.glob("*.yaml"))


def validated(name: str, *flags: str):
    """What accelerate would start."""
    command = ["--config_file", str(ENGINES / f"{name}.yaml"), *flags, "-m", "training"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    return arguments


def test_accelerate_refuses_a_key_that_it_does_not_know(tmp_path):
    path = tmp_path / "engine.yaml"
    path.write_text((ENGINES / "ddp.yaml").read_text() + "num_procs: 8\n")
    with pytest.raises(ValueError, match="unknown keys"):
        load_config_from_file(str(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path):
    config = load_config_from_file(str(path))
    for name, value in yaml.safe_load(path.read_text()).items():
        assert getattr(config, name) == value, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_reaches_the_launch(path):
    """Accelerate passes over some keys without a word, same_network for one."""
    arguments = validated(path.stem, "--num_processes", "2")
    settings = yaml.safe_load(path.read_text())
    assert arguments.multi_gpu == (settings.pop("distributed_type") == "MULTI_GPU")
    del settings["compute_environment"]
    settings |= settings.pop("fsdp_config", {})
    assert arguments.use_fsdp == ("fsdp_version" in settings)
    settings |= settings.pop("deepspeed_config", {})
    assert arguments.use_deepspeed == ("zero_stage" in settings)
    settings["num_processes"] = 2
    for name, value in settings.items():
        assert str(getattr(arguments, name)).lower() == str(value).lower(), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_number_format_is_left_to_the_run(path):
    assert "mixed_precision" not in yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_begins_with_when_to_use_it_and_how(path):
    comment = path.read_text().partition("compute_environment")[0].splitlines()
    assert all(line.startswith("# ") for line in comment)
    assert f"accelerate launch --config_file training/engines/{path.name}" in "\n".join(comment)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "multi_node", "zero2"])
def test_the_number_of_gpus_is_not_guessed(name):
    with pytest.raises(ValueError, match="manually pass in `--num_processes`"):
        validated(name)


@pytest.mark.parametrize(
    ("name", "num_processes"),
    [(None, None), ("cpu", None), ("gpu", 1), ("ddp", 8), ("fsdp", 8), ("zero2", 8)],
)
def test_the_command_of_an_engine_starts_its_processes(name, num_processes):
    engine = find_engine(name, num_processes=num_processes)
    assert engine.num_processes == (num_processes or 1)
    command = launch_command(engine, ["--config", "a run.yaml"])
    assert command[-4:] == ["-m", "training", "--config", "a run.yaml"]
    if name is None:
        assert command[0] == "python"
        return
    assert command[:2] == ["accelerate", "launch"]
    arguments = launch_command_parser().parse_args(command[2:])
    assert arguments.training_script_args == ["--config", "a run.yaml"]
    assert _validate_launch_command(arguments)[0].num_processes == engine.num_processes


def test_the_cpu_is_used_although_there_is_a_gpu():
    arguments = validated("cpu")
    assert (arguments.use_cpu, arguments.multi_gpu, arguments.num_processes) == (True, False, 1)


def test_one_gpu_is_one_process():
    arguments = validated("gpu")
    assert (arguments.use_cpu, arguments.multi_gpu, arguments.num_processes) == (False, False, 1)
    assert arguments.gpu_ids == "all"


def test_ddp_starts_a_process_for_each_gpu_at_any_free_port():
    arguments = validated("ddp", "--num_processes", "8")
    assert (arguments.multi_gpu, arguments.num_processes, arguments.num_machines) == (True, 8, 1)
    assert arguments.main_process_port == 0


def test_machines_share_their_processes_and_meet_at_the_first():
    flags = ("--num_processes", "24", "--num_machines", "3")
    flags += ("--machine_rank", "2", "--main_process_ip", "10.0.0.1")
    arguments = validated("multi_node", *flags)
    assert (arguments.multi_gpu, arguments.num_processes, arguments.num_machines) == (True, 24, 3)
    assert (arguments.machine_rank, arguments.main_process_ip) == (2, "10.0.0.1")
    assert arguments.main_process_port == 29500


def test_launching_needs_no_torch():
    program = "import sys, training.launch; sys.exit('torch' in sys.modules)"
    root = ENGINES.parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
