"""Recipes: every one is whole, and the paper's have the paper's numbers."""

from pathlib import Path

import pytest
import yaml

from training.config import TrainingConfig, load_training_config
from training.loop.optimizers import learning_rate
from training.planning.estimate import pairs_per_step

RECIPES = sorted((Path(__file__).parents[1] / "training" / "recipes").glob("*.yaml"))
PAPER_PROCESSES = 8


@pytest.fixture
def load(tmp_path):
    def load(name: str) -> TrainingConfig:
        """Read a recipe as a person's file that adds what it leaves out."""
        (path,) = (path for path in RECIPES if path.stem == name)
        settings = yaml.safe_load(path.read_text("utf-8"))
        settings.setdefault("data", {})["path"] = "pairs"
        settings.setdefault("run", {})["output"] = "run"
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        return load_training_config(tmp_path / "run.yaml")

    return load


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_whole_but_for_the_data_and_the_output(load, path):
    assert load(path.stem).data.path == Path("pairs")
    given = yaml.safe_load(path.read_text("utf-8"))
    assert "path" not in given.get("data", {})
    assert "output" not in given.get("run", {})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_what_it_needs_and_how_it_is_started(path):
    comment = path.read_text("utf-8").partition("\nmodel:")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert f"--config training/recipes/{path.name}" in comment
    assert "Needs" in comment


def test_the_sdxl_recipe_has_the_numbers_of_the_released_script(load):
    """1 × 16 × 8 = 128 pairs a step; 3e-9 × 128 = 3.84e-7, half of it after 50 of 100 steps."""
    config = load("sdxl_paper")
    optimizer = config.optimizer
    assert pairs_per_step(optimizer, num_processes=PAPER_PROCESSES) == 128
    for step, expected in ((50, 1.92e-7), (100, 3.84e-7), (101, 3.84e-7), (6000, 3.84e-7)):
        found = learning_rate(step, optimizer, num_processes=PAPER_PROCESSES)
        assert found == pytest.approx(expected, rel=1e-12), step
    assert (optimizer.name, optimizer.num_steps) == ("adafactor", 6000)
    assert (optimizer.max_grad_norm, optimizer.gradient_checkpointing) == (1.0, True)
    assert (config.data.resolution, config.run.mixed_precision) == (1024, "bf16")
    assert_objective_of_the_paper(config)


def test_the_sd15_recipe_has_the_numbers_of_the_released_script(load):
    """128 pairs a step as well; 1e-9 × 128 = 1.28e-7."""
    config = load("sd15_paper")
    optimizer = config.optimizer
    assert pairs_per_step(optimizer, num_processes=PAPER_PROCESSES) == 128
    found = learning_rate(2000, optimizer, num_processes=PAPER_PROCESSES)
    assert found == pytest.approx(1.28e-7, rel=1e-12)
    assert (optimizer.name, optimizer.num_steps) == ("adamw", 2000)
    assert (optimizer.betas, optimizer.weight_decay) == ((0.9, 0.999), 0.01)
    assert optimizer.max_grad_norm == 1.0
    assert config.data.resolution == 512
    assert_objective_of_the_paper(config)


def assert_objective_of_the_paper(config: TrainingConfig) -> None:
    """CHATS with T = 1000, c′ = ∅ for half of the samples, zeros for ∅, uniform timesteps."""
    objective = config.objective
    assert config.model.kind == "full"
    assert (objective.name, objective.temperature) == ("chats", 1000)
    assert (objective.dispreferred_prompt_drop, objective.prompt_drop) == (0.5, 0)
    assert config.data.null_prompt == "zeros"
    assert config.noise.sampling == "uniform"
