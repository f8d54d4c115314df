"""The settings of a training: files, flags, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chats.errors import UserError
from training.config import TrainingConfig, load_training_config, parse_command_line

RECIPES = sorted((Path(__file__).parents[1] / "training" / "recipes").glob("*.yaml"))


@pytest.fixture
def config_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_an_unknown_setting_of_a_file_is_named(config_file):
    path = config_file("data: {pth: x}\nrun: {output: y}\n")
    with pytest.raises(UserError, match=r"data\.pth: Extra inputs"):
        parse_command_line(["--config", str(path), "--data.path", "x"])


def test_a_value_out_of_range_is_named_with_the_value(config_file):
    path = config_file("data: {path: x}\nrun: {output: y}\noptimizer: {learning_rate: -3}\n")
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: .* \(given: -3\)"):
        load_training_config(path)


@pytest.mark.parametrize("text", ["data: [", "- 1\n- 2\n"])
def test_a_file_that_is_no_yaml_mapping_is_refused(config_file, text):
    with pytest.raises(UserError, match=r"run\.yaml"):
        load_training_config(config_file(text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        parse_command_line(["--config", str(tmp_path / "none.yaml")])


def test_a_required_setting_that_nobody_gives_ends_the_command_line(config_file, capsys):
    path = config_file("data: {path: x}\n")
    with pytest.raises(SystemExit):
        parse_command_line(["--config", str(path)])
    assert "--run.output" in capsys.readouterr().err


def test_a_warmup_that_never_ends_is_refused(config_file):
    path = config_file("data: {path: x}\nrun: {output: y}\noptimizer: {warmup_steps: 1000}\n")
    with pytest.raises(UserError, match="warmup_steps 1000 must be less than num_steps 1000"):
        load_training_config(path)


def test_a_number_that_yaml_reads_as_text_is_mended(config_file):
    path = config_file("data: {path: x}\nrun: {output: y}\noptimizer: {learning_rate: 3e-9}\n")
    assert load_training_config(path).optimizer.learning_rate == 3e-9


def test_flags_go_over_the_file_and_fill_what_it_leaves_out(config_file):
    path = config_file(
        "data: {path: pairs}\n"
        "model: {targets: [to_q, to_k]}\n"
        "optimizer: {learning_rate: 3e-9, betas: [0.8, 0.99], warmup_steps: 1500}\n"
    )
    config = parse_command_line(
        ["--config", str(path), "--run.output", "out", "--optimizer.num-steps", "2000"]
    )
    assert config.data.path == Path("pairs")
    assert config.run.output == Path("out")
    assert config.model.targets == ("to_q", "to_k")
    assert config.optimizer.learning_rate == 3e-9
    assert config.optimizer.betas == (0.8, 0.99)
    assert config.optimizer.num_steps == 2000


def test_a_config_survives_yaml():
    config = parse_command_line(["--data.path", "pairs", "--run.output", "out"])
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert TrainingConfig.model_validate(yaml.safe_load(text)) == config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_needs_only_the_data_and_the_output(path):
    config = parse_command_line(
        ["--config", str(path), "--data.path", "pairs", "--run.output", "out"]
    )
    assert config.data.path == Path("pairs")


def test_the_settings_open_without_torch():
    program = "import sys, training.config; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
