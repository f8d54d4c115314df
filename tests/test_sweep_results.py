"""Scores into errors, the best cell and its peers; expected values are derived by hand."""

import csv
import io
import math

import numpy as np
import pytest

from chats.sweeps.folder import Call
from chats.sweeps.results import best_cells, mean_and_error, results
from chats.sweeps.words import table_csv, verdict
from tests.sweeping import small_sweep


def a_call(first, scores):
    return Call(
        first=first,
        count=len(scores),
        scores=tuple(scores),
        rows_per_call=16,
        seconds=1,
        num_predictions=1,
    )


def test_the_error_is_that_of_the_prompts_means():
    """Prompt means 1 and 0.5 and 0: mean 0.5, sd 0.5, error 0.5/√3; seeds do not shrink it."""
    table = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], float)
    mean, error = mean_and_error(table)
    assert mean == 0.5
    assert error == pytest.approx(0.5 / math.sqrt(3))


def test_the_error_of_one_prompt_is_that_of_its_seeds_and_of_one_picture_there_is_none():
    """Scores 1 0 0 1: mean 0.5, sd √(1/3), error √(1/12)."""
    assert mean_and_error(np.array([[1.0, 0, 0, 1]])) == pytest.approx((0.5, math.sqrt(1 / 12)))
    assert mean_and_error(np.array([[0.7]])) == (0.7, None)
    assert mean_and_error(np.array([[np.nan]])) == (None, None)


def test_cells_are_told_apart_by_their_differences_on_the_same_prompts():
    """Both others are 0.1 behind. One always is: its difference has no error, it is not a peer.

    The other is behind by 0.4 and −0.2: sd 0.3·√2, error 0.3 > 0.1: it is one.
    """
    best = np.array([[0.9], [0.1]])
    always, sometimes = best - 0.1, best - np.array([[0.4], [-0.2]])
    assert best_cells(np.stack([always, best, sometimes])) == (1, (2,))


def test_of_equal_cells_the_first_is_best_and_the_others_are_its_peers():
    assert best_cells(np.ones((3, 2, 2))) == (0, (1, 2))


def test_no_cell_wins_by_a_picture_that_the_others_have_not():
    """The plan is prompt, seed, α: the fourth picture is the first cell's second seed."""
    config = small_sweep()
    early = results(config, [a_call(0, [0.1, 0.3])])
    assert early.best is None
    assert "is told when every cell" in verdict(config, early)
    found = results(config, [a_call(0, [0.1, 0.3, 0.2, 1.0])])
    assert found.best == 1
    assert found.cells[0].mean == pytest.approx(0.55)
    assert "One picture a cell tells nothing of chance" in verdict(config, found)


def test_the_verdict_names_the_best_its_peers_and_the_unit_of_the_errors():
    config = small_sweep()
    scores = [1, 0, 0.9, 1, 0, 0.9, 0, 0, 0.2, 0, 0, 0.2]
    found = results(config, [a_call(0, scores)])
    said = verdict(config, found)
    assert found.best == 2
    assert said.startswith("Best: α = 0.5, s = 2, with 0.55 ± 0.35.")
    assert "being within one standard error: α = -0.5, s = 2." in said
    assert said.endswith("The errors are between prompts.")
    assert "choose a scorer" in verdict(small_sweep(scorer="none"), found)
    one = small_sweep(prompts=["red star"], alphas=[0, 1])
    said = verdict(one, results(one, [a_call(0, [1, 0, 1, 0])]))
    assert "Every other cell is more than one standard error behind" in said
    assert "between seeds, so this holds for this one prompt" in said


def test_the_table_has_a_line_for_each_cell():
    config = small_sweep(num_steps=[5], intervals=[[0, 0.5]])
    found = results(config, [a_call(0, [1, 0, 0.9, 1, 0, 0.9, 0, 0, 0.2, 0, 0, 0.2])])
    rows = list(csv.DictReader(io.StringIO(table_csv(config, found))))
    assert [row["alpha"] for row in rows] == ["-0.5", "0.0", "0.5"]
    assert [row["best"] for row in rows] == ["0", "0", "1"]
    assert rows[2]["num_pictures"] == "4"
    assert (rows[0]["num_steps"], rows[0]["interval_end"]) == ("5", "0.5")
