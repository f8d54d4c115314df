"""Random models of the published shapes, and the program that measures them, on tiny ones."""

import contextlib
import json
import math
import sys
import time

import pytest
import torch

from benchmarks.speed.__main__ import SpeedConfig, main, stages
from benchmarks.speed.published import SHAPES
from benchmarks.speed.random_models import RandomModelConfig, make_folder, random_component
from benchmarks.speed.report import printed_to, report_lines, results_of, write_part
from benchmarks.speed.sampling import SamplingSettings, measure_sampling
from benchmarks.speed.trained import StepSettings
from benchmarks.speed.training import measure_training
from benchmarks.speed.turns import Clock, Contestant, OutOfTime, Turn, rows, take_turns
from chats.denoising.families import family_of
from chats.errors import UserError
from chats.models.loading import load_model

NO_LIMIT = Clock(math.inf)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a tiny SDXL."""
    output = tmp_path_factory.mktemp("models") / "sdxl"
    return make_folder(RandomModelConfig(shape="sdxl", output=output, tiny=True))


def contestant(name, *speeds, prepare=dict):
    """One whose turns have these speeds; an exception among them is raised."""
    left = iter(speeds)

    def take():
        speed = next(left)
        if isinstance(speed, Exception):
            raise speed
        return Turn(speed=speed, memory_gb=speed)

    return Contestant(name, prepare, take)


def measured(path, *contestants, rounds=1, clock=NO_LIMIT, settings=None):
    return take_turns(
        lambda: contestants, path=path, settings=settings or {}, rounds=rounds, clock=clock
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_full_shapes_have_the_published_numbers_of_parameters(shape):
    """SDXL's UNet 2.567 billion, SD3's transformer 2.028 billion, and so on."""
    for name, component in SHAPES[shape].components.items():
        model = random_component(component, {}, device="meta")
        count = sum(parameter.numel() for parameter in model.parameters())
        assert (name, count) == (name, component.num_parameters)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tiny_folder_is_a_pipeline_of_its_family_that_paints_finite_pictures(shape, tmp_path):
    folder = make_folder(RandomModelConfig(shape=shape, output=tmp_path / "m", tiny=True))
    pipeline = load_model(folder, device=torch.device("cpu"), dtype=torch.bfloat16).pipeline
    pipeline.set_progress_bar_config(disable=True)
    assert family_of(pipeline).name == shape
    assert pipeline.tokenizer.model_max_length == 77
    pictures = pipeline(["a red star"], num_inference_steps=1, output_type="pt").images
    assert pictures.shape == (1, 3, 64, 64)
    assert pictures.isfinite().all()


def test_a_folder_is_made_once_and_never_over_something_else(tiny, tmp_path):
    before = (tiny / "model_index.json").stat().st_mtime_ns
    assert make_folder(RandomModelConfig(shape="sdxl", output=tiny, tiny=True)) == tiny
    assert (tiny / "model_index.json").stat().st_mtime_ns == before
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="holds something else"):
        make_folder(RandomModelConfig(shape="sdxl", output=tmp_path, tiny=True))


def test_a_ratio_is_a_turn_over_the_mean_of_the_baselines_around_it(tmp_path):
    """Round 1: 6 / ((2 + 4) / 2) = 2; round 2: 12 / ((4 + 4) / 2) = 3; the median is 2.5."""
    found = measured(
        tmp_path / "r.json", contestant("base", 2, 4, 4, 4), contestant("ours", 6, 12), rounds=2
    )
    base, ours = rows(found)
    assert (ours["ratio"], ours["low"], ours["high"]) == (2.5, 2, 3)
    assert (base["low"], base["high"]) == (1, 2)  # its drift
    assert ours["memory_gb"] == 12


def test_what_runs_out_of_memory_says_so_in_its_row_and_the_others_go_on(tmp_path):
    cleaned = []
    hungry = contestant("hungry", torch.OutOfMemoryError("CUDA out of memory"))
    hungry = Contestant(hungry.name, hungry.prepare, hungry.take, lambda: cleaned.append(1))
    found = measured(
        tmp_path / "r.json",
        contestant("base", 1, 1, 1, 1),
        hungry,
        contestant("ours", 2, 2),
        rounds=2,
    )
    assert [row.get("failed") for row in rows(found)] == [None, "out of memory", None]
    assert rows(found)[2]["ratio"] == 2
    assert cleaned == [1]
    found["settings"] = {"base": "m", "resolution": 64, "kind": "full", "pairs_per_step": 1}
    assert "| hungry | out of memory | – | – | – | – |" in report_lines([found])


def test_a_program_out_of_time_goes_on_with_the_next_round(tmp_path):
    path = tmp_path / "r.json"

    class Until(Clock):
        def __init__(self, num_turns):
            super().__init__(math.inf)
            self.left = num_turns

        def check(self, seconds=0.0):
            self.left -= 1
            if self.left < 0:
                raise OutOfTime

    # One check at the start, two to prepare, three turns of the first round, one of the second.
    with pytest.raises(OutOfTime):
        measured(
            path,
            contestant("base", 1, 1, 5),
            contestant("ours", 3),
            rounds=2,
            clock=Until(7),
        )
    written = json.loads(path.read_text())
    assert not written["is_complete"]
    assert [len(each) for each in written["rounds"]] == [3, 1]
    found = measured(path, contestant("base", 2, 2), contestant("ours", 8), rounds=2)
    assert [each["ours"]["speed"] for each in found["rounds"]] == [3, 8]
    untouched = measured(path, contestant("base"), contestant("ours"), rounds=2)
    assert untouched["rounds"] == found["rounds"]
    other = measured(path, contestant("base", 1, 1), contestant("ours", 9), settings={"steps": 2})
    assert [each["ours"]["speed"] for each in other["rounds"]] == [9]


def test_every_way_to_train_is_measured_against_the_released_settings(tiny, tmp_path):
    """Of tiny models only the counted forwards are exact: a cache saves what encoding cost."""
    settings = StepSettings(
        base=str(tiny),
        resolution=64,
        mixed_precision="no",
        pairs_per_step=1,
        seconds=0.01,
        num_pairs=2,
    )
    found = measure_training(
        settings, kind="full", batch_sizes=(1,), rounds=1, path=tmp_path / "r.json", clock=NO_LIMIT
    )
    assert found["failed"] == {}
    table = {row["name"]: row for row in rows(found)}
    assert len(table) == 7
    assert all(math.isfinite(row["ratio"]) and row["memory_gb"] > 0 for row in table.values())
    forwards = {name: row["forwards"] for name, row in table.items()}
    assert forwards["cached, batch 1"] == pytest.approx(8, abs=0.5)
    assert forwards["cached, reference's errors kept, batch 1"] == pytest.approx(
        forwards["cached, batch 1"] - 2
    )
    # Not every layer lies in a block that is computed again: 10 is the most.
    assert 8.5 < forwards["cached, checkpointing, batch 1"] <= 10
    online = forwards["encoded in the loop, checkpointing, batch 1"]
    assert forwards["released settings"] == pytest.approx(online, rel=0.05)
    assert online > forwards["cached, checkpointing, batch 1"] + 1


def test_every_method_is_sampled_against_diffusers_own_guidance(tiny, tmp_path):
    settings = SamplingSettings(
        base=str(tiny), resolution=64, dtype="float32", num_steps=1, batch_size=1
    )
    found = measure_sampling(settings, rounds=1, path=tmp_path / "r.json", clock=NO_LIMIT)
    assert found["failed"] == {}
    assert all(row["ratio"] > 0 for row in rows(found))
    text = "\n".join(report_lines(results_of(tmp_path)))
    assert "CHATS over CFG at batch 1: the paper 0.89 (SDXL on an A100); here CHATS, full" in text


def test_a_stage_that_cannot_start_does_not_end_the_others(tmp_path, capsys):
    config = SpeedConfig(
        models=("nowhere",),
        trained_models=(),
        tiny=True,
        results=tmp_path / "results",
        write=tmp_path / "page.md",
    )
    assert [name for name, _ in stages(config)] == ["nowhere-sampling-1", "nowhere-sampling-4"]
    assert main(config) == 1
    said = capsys.readouterr().out
    assert "nowhere-sampling-1: UserError" in said
    assert "nowhere-sampling-4: UserError" in said
    assert not config.write.exists()


def test_full_shapes_are_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        main(SpeedConfig())


def test_commands_write_their_part_of_the_page_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Above.\n\n<!-- written by `a`; do not edit -->\nold\n<!-- end of `a` -->\n\nBelow.\n"
    )
    write_part(page, "a", ["new"])
    write_part(page, "b", ["more"])
    text = page.read_text()
    assert text.startswith(
        "Above.\n\n<!-- written by `a`; do not edit -->\n\nnew\n\n<!-- end of `a`"
    )
    assert "old" not in text
    assert "Below.\n<!-- written by `b`" in text
    with printed_to(page, "a"):
        sys.stdout.write("1.25 pairs/s\n")
    assert "1.25 pairs/s\n```" in page.read_text()


def test_half_a_table_is_not_written(tmp_path):
    page = tmp_path / "page.md"
    with contextlib.suppress(ZeroDivisionError), printed_to(page, "a"):
        sys.stdout.write("half a table\n")
        raise ZeroDivisionError
    assert not page.exists()


def test_the_clock_stops_a_turn_that_would_end_too_late():
    clock = Clock(time.monotonic() + 60)
    clock.check(1)
    with pytest.raises(OutOfTime):
        clock.check(61)
