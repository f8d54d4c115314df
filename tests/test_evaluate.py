"""Evaluations: the same files however many processes, gone on with, and tables worked by hand."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from chats.errors import UserError
from chats.shapes import BASE, PAIR
from chats.shapes.prompts import evaluation_specs
from chats.shapes.sampling import Sampler, first_seed
from training.evaluate import loop
from training.evaluate.loop import evaluate
from training.evaluate.report import tabulate, write_report
from training.evaluation_config import EvaluateConfig, parse_evaluation, read_contestant

ROOT = Path(__file__).parents[1]
_OF_THE_WORK = ("status.json", "log.txt", "metrics.jsonl")
"""Files that tell times and processes."""
QUICK = {
    "methods": ("cfg,s=2", "chats,s=2,alpha=0.5,name=ours"),
    "seeds": (0, 1),
    "max_prompts": 5,
    "batch_size": 3,
    "num_steps": 2,
}
FLAGS = [
    *("--methods", *QUICK["methods"], "--seeds", "0", "1", "--max-prompts", "5"),
    *("--batch-size", "3", "--num-steps", "2"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A whole evaluation by one process."""
    config = EvaluateConfig(output=tmp_path_factory.mktemp("evaluation"), **QUICK)
    evaluate(config, device="cpu")
    return config.output


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that say who worked on it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name not in _OF_THE_WORK
    }


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text("utf-8").splitlines()]


def test_scores_are_those_of_the_evidence_from_the_same_seeds(done):
    """Promises kept by the sampler that docs/evidence.md is measured with."""
    specs = evaluation_specs()[:5]
    for name, pair, method in (("cfg-s2", None, "cfg"), ("ours", PAIR, "chats")):
        for seed in (0, 1):
            expected = Sampler(BASE, pair, num_steps=2).promises_kept(
                specs,
                method=method,
                scale=2,
                alpha=0.5,
                first_seed=first_seed(seed),
                batch_size=3,
            )
            found = [
                row["scores"]["shapes"]
                for row in rows_of(done)
                if (row["method"], row["seed"]) == (name, seed)
            ]
            assert found == expected.astype(float).tolist()


def test_every_picture_has_its_row_and_its_file(done):
    rows = rows_of(done)
    assert len(rows) == 2 * 2 * 5
    assert [row["number"] for row in rows[:5]] == list(range(5))
    for row in rows:
        with Image.open(done / row["file"]) as image:
            assert image.size == (64, 64)


def test_two_processes_give_the_same_files(done, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", "0", "-m", "training.evaluate"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [*command, "--output", str(tmp_path / "two"), *FLAGS],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "Process 1: part" in finished.stdout
    assert contents(tmp_path / "two") == contents(done)


def test_what_was_interrupted_goes_on_and_makes_only_what_is_missing(done, tmp_path, monkeypatch):
    config = EvaluateConfig(output=tmp_path, **QUICK)
    rows_of_part, made = loop._Worker.rows, []

    def stopped(worker, part):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(part)
        return rows_of_part(worker, part)

    monkeypatch.setattr(loop._Worker, "rows", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, device="cpu")
    assert not (tmp_path / "scores.jsonl").exists()
    monkeypatch.setattr(loop._Worker, "rows", rows_of_part)
    told = []
    evaluate(config, device="cpu", say=told.append)
    assert told[0].startswith("Process 0: part 1 of 5")
    assert contents(tmp_path) == contents(done)


def test_a_finished_one_loads_nothing(done, monkeypatch):
    monkeypatch.setattr(loop, "_Worker", None)
    before = contents(done)
    evaluate(EvaluateConfig(output=done, **QUICK), device="cpu")
    assert contents(done) == before


def test_other_settings_in_the_same_folder_are_refused(done):
    with pytest.raises(UserError, match=r"begun with num_steps = 2, not 3.*output"):
        evaluate(EvaluateConfig(output=done, **{**QUICK, "num_steps": 3}), device="cpu")


def test_prompts_that_the_checker_cannot_read_are_refused_before_any_picture(tmp_path):
    (tmp_path / "mine.txt").write_text("a photo of a star\na cat\n")
    config = EvaluateConfig(output=tmp_path / "out", prompts=str(tmp_path / "mine.txt"))
    with pytest.raises(UserError, match=r"Prompt 2: 'a cat' is no caption.*Set scorers"):
        evaluate(config, device="cpu")
    assert not (tmp_path / "out").exists()


def test_another_evaluation_in_the_same_folder_is_refused(done):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from training.run import RunDirectory\n"
        f"with RunDirectory(Path({str(done)!r})).keep():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another process is at work in this folder already"):
            evaluate(EvaluateConfig(output=done, **QUICK), device="cpu")
        holder.stdin.close()


def test_other_models_are_made_by_the_manager_at_the_asked_size(tmp_path):
    """The embedded model with another sampler goes the way of every other model."""
    config = EvaluateConfig(
        output=tmp_path,
        methods=("standard", "chats,s=2,alpha=0"),
        max_prompts=3,
        batch_size=2,
        num_steps=2,
        size_px=48,
        scheduler="euler",
        scorers=("shapes", "tests.test_scorers:Brightness"),
    )
    evaluate(config, device="cpu")
    rows = rows_of(tmp_path)
    assert len(rows) == 6
    for row in rows:
        with Image.open(tmp_path / row["file"]) as image:
            assert image.size == (48, 48)
            mean = np.asarray(image).mean()
        assert row["scores"]["tests.test_scorers:Brightness"] == pytest.approx(mean)


def test_pictures_lie_as_genevals_evaluator_reads_them(tmp_path):
    row = {"tag": "counting", "include": [{"class": "star", "count": 2}], "prompt": "two stars"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    out = evaluated(tmp_path / "metadata.jsonl", tmp_path / "out", seeds=(0, 1))
    folder = out / "geneval" / "standard" / "00000"
    assert json.loads((folder / "metadata.jsonl").read_text()) == row
    assert [path.name for path in sorted((folder / "samples").iterdir())] == [
        "00000.png",
        "00001.png",
    ]


def test_pictures_lie_as_dpgs_evaluator_reads_them(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "42.txt").write_text("a red star")
    out = evaluated(tmp_path / "prompts", tmp_path / "out", seeds=(0, 1, 2, 3))
    with Image.open(out / "dpg" / "standard" / "42.png") as grid:
        assert grid.size == (128, 128)
        last = Image.open(out / "pictures" / "standard" / "seed-3" / "00000.png")
        assert np.array_equal(np.asarray(grid)[64:, 64:], np.asarray(last.convert("RGB")))


def test_pictures_lie_as_hps_evaluator_reads_them(tmp_path):
    (tmp_path / "photo.json").write_text('["a red star", "a blue cross"]')
    out = evaluated(tmp_path / "photo.json", tmp_path / "out", seeds=(0,))
    with Image.open(out / "hps" / "standard" / "photo" / "00001.jpg") as image:
        assert image.format == "JPEG"


def evaluated(prompts: Path, output: Path, *, seeds: tuple[int, ...]) -> Path:
    config = EvaluateConfig(
        output=output, prompts=str(prompts), methods=("standard",), seeds=seeds, num_steps=1
    )
    evaluate(config, device="cpu")
    return output


def by_hand(tmp_path, scores: dict[str, list[list[float]]], *, scorer="shapes", kinds="xxyy"):
    """Rows of two methods with these scores `(seeds, prompts)`."""
    config = EvaluateConfig(
        output=tmp_path,
        methods=("cfg,name=a", "chats,name=b"),
        seeds=tuple(range(len(scores["a"]))),
        scorers=(scorer,),
    )
    rows = [
        {
            "method": name,
            "seed": seed,
            "number": number,
            "category": kinds[number],
            "scores": {scorer: value},
        }
        for name, of_method in scores.items()
        for seed, of_seed in enumerate(of_method)
        for number, value in enumerate(of_seed)
    ]
    return rows, config


def test_the_table_by_hand(tmp_path):
    """B − a is 1, 0, 0, 1: mean 50%, error √(1/3/4) = 28.9%; two wins and two ties are 75%."""
    rows, config = by_hand(tmp_path, {"a": [[0, 1, 1, 0]], "b": [[1, 1, 1, 1]]})
    table = {
        (row["category"], row["method"]): row
        for row in tabulate(rows, config, categories=["x", "y"])
    }
    assert table["all", "a"]["mean"] == 50
    assert table["all", "a"]["difference"] is None
    best = table["all", "b"]
    assert (best["mean"], best["error"], best["difference"]) == (100, 0, 50)
    assert best["difference_error"] == pytest.approx(100 * np.sqrt(1 / 12))
    assert (best["win_rate"], best["num_ties"]) == (0.75, 2)
    assert best["win_low"] < 0.75 < best["win_high"]
    assert table["x", "b"]["num_prompts"] == 2
    assert table["y", "a"]["mean"] == 50


def test_pictures_of_one_prompt_do_not_make_a_win_rate_surer(tmp_path):
    one = {"a": [[0.1, 0.4, 0.3, 0.2]], "b": [[0.2, 0.3, 0.4, 0.3]]}
    many = {name: values * 6 for name, values in one.items()}
    widths = []
    for scores in (one, many):
        rows, config = by_hand(tmp_path, scores, scorer="clip")
        row = tabulate(rows, config, categories=[])[-1]
        widths.append(row["win_high"] - row["win_low"])
    assert widths[1] > 0.9 * widths[0]


def test_tables_come_as_json_csv_and_text(tmp_path):
    rows, config = by_hand(tmp_path, {"a": [[0, 1, 1, 0]], "b": [[1, 1, 1, 1]]}, kinds="xx==")
    write_report(rows, config, categories=["x", "="], folder=tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert (document["baseline"], document["num_prompts"]) == ("a", 4)
    with (tmp_path / "report.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["category"] for row in table} == {"all", "x", "'="}
    text = (tmp_path / "report.md").read_text()
    assert "| a | 50.0 ± 28.9 | – | – |" in text
    assert re.search(r"\| b \| 100\.0 ± 0\.0 \| \+50\.0 ± 28\.9 \| 75\.0% \[\d+\.\d, ", text)


def test_a_single_prompt_has_no_error_and_is_written_as_json(tmp_path):
    rows, config = by_hand(tmp_path, {"a": [[0]], "b": [[1]]}, kinds="x")
    write_report(rows, config, categories=["x"], folder=tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["error"] is None
    assert "NaN" not in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize(
    ("text", "name", "scale", "alpha"),
    [
        ("cfg,s=4", "cfg-s4", 4, 0.5),
        ("chats, s=2.5, alpha=-0.5", "chats-s2.5-a-0.5", 2.5, -0.5),
        ("chats,pair=runs/first/pair", "chats-pair", 5, 0.5),
        ("npo,name=Mine 2", "Mine 2", 5, 0.5),
    ],
)
def test_methods_are_read_and_named(text, name, scale, alpha):
    found = read_contestant(text)
    assert (found.name, found.scale, found.alpha) == (name, scale, alpha)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("cgf",)}, "cgf: method"),
        ({"methods": ("cfg,s",)}, "write settings as key=value, got 's'"),
        ({"methods": ("cfg,s=99",)}, "less than or equal to 30"),
        ({"methods": ("cfg,size=4",)}, "size"),
        ({"methods": ("cfg,name=../x",)}, "name"),
        ({"methods": ("cfg,s=4", "cfg,s=4.0")}, "different names, got cfg-s4, cfg-s4"),
        ({"scorers": ("picscore",)}, "no scorer 'picscore'"),
        ({"scorers": ("clip", "clip")}, "scorers must differ"),
        ({"seeds": (0, 0)}, "seeds must differ"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(ValidationError, match=message):
        EvaluateConfig(output="x", **settings)


def test_the_command_reads_a_file_and_flags(tmp_path):
    (tmp_path / "eval.yaml").write_text("output: here\nscorers: [clip]\nseeds: [3]\n")
    config = parse_evaluation(["--config", str(tmp_path / "eval.yaml"), "--seeds", "1", "2"])
    assert (config.output, config.scorers, config.seeds) == (Path("here"), ("clip",), (1, 2))


def test_commands_of_the_page_are_understood():
    page = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    commands = re.findall(r"^    .* -m training\.evaluate (.+)$", page, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        if "--config" not in command:
            assert parse_evaluation(shlex.split(command)).contestants


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_numbers_of_the_evidence_come_out_exactly(tmp_path):
    """CFG at s = 4 and Standard, in all and by category, as docs/evidence.md prints them."""
    evaluate(
        EvaluateConfig(output=tmp_path, methods=("cfg,s=4", "standard,s=0"), seeds=(0, 1)),
        device="cpu",
    )
    check_against_the_evidence(tmp_path)


def check_against_the_evidence(folder: Path) -> None:
    evidence = (ROOT / "docs" / "evidence.md").read_text("utf-8")
    report = (folder / "report.md").read_text("utf-8")
    for label, name in (("CFG", "cfg-s4"), ("Standard", "standard-s0")):
        printed = [line for line in evidence.splitlines() if line.startswith(f"| {label} |")]
        main, by_category = (line.strip("| ").split(" | ") for line in printed[:2])
        rows = [line for line in report.splitlines() if line.startswith(f"| {name} |")]
        assert rows[0].startswith(f"| {name} | {main[3]} | {main[4]} | ")
        assert rows[1] == f"| {name} | {' | '.join(by_category[1:])} |"
