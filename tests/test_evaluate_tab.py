"""The Evaluate tab without a browser: what is refused, what it would make, and its tables."""

import base64
import json
import re
from dataclasses import replace

import gradio as gr
import pytest

from chats.errors import UserError
from tests.job_queue import Cluster
from tests.page_fakes import MODEL, without_pair
from tests.run_gallery import write_run
from training.evaluate.desk import EvaluationDesk
from training.evaluate.report import write_report
from training.jobs.catalogue import RunCatalogue
from training.jobs.console import JobConsole, JobSettings
from ui.evaluate.endpoints import EvaluateEndpoints
from ui.evaluate.preparing import Preparation
from ui.evaluate.results import read_results, render_results
from ui.runs.endpoints import RunEndpoints
from ui.runs.handlers import RunsHandlers
from ui.runs.view import BUTTONS
from ui.services import RunServices

HOSTILE = ("", "..", "/etc/passwd", "../../x", "20260101-000000-abcdef", "\x00", "a" * 10_000)
OTHER = replace(without_pair(), name="owner/base", title="Base", num_steps=30)


class Desk:
    """A desk whose queue starts nothing."""

    def __init__(self, workspace, *, refusal=""):
        self.cluster = Cluster()
        self.console = JobConsole(
            JobSettings(workspace=workspace), launchers={"here": self.cluster}
        )
        catalogue = RunCatalogue(self.console)
        self.runs = RunServices(console=self.console, catalogue=catalogue, push=lambda *asked: "")
        self.models = [MODEL, OTHER]
        self.desk = EvaluationDesk(
            console=self.console,
            catalogue=catalogue,
            workspace=workspace,
            models=lambda: self.models,
            devices={"cpu": "the CPU"},
            refusal=refusal,
        )
        self.endpoints = EvaluateEndpoints(self.desk, self.runs)

    def drawn(self, run):
        folder = self.console.directory(run).path
        return render_results(read_results(folder, self.console.evaluation(run)))

    def problems(self, **settings):
        return Preparation(self.desk).prepare(settings).problems


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        ({"prompts": "gone.txt"}, "prompts", r"no prompts 'gone.txt' here.*Hub data set"),
        ({"prompts": "../x"}, "prompts", "no prompts"),
        ({"prompts": "tests/tiny.py"}, "prompts", "no prompts"),  # a path, though like a Hub id
        ({"methods": []}, "methods", "at least 1"),
        ({"methods": ["cgf"]}, "methods", "cgf: method"),
        ({"methods": ["cfg", "chats,pair=/etc"]}, "methods", "'/etc' is no finished run"),
        ({"methods": ["cfg,model=/etc"]}, "methods", "'/etc' is not on offer"),
        ({"model": "owner/base"}, "methods", "chats-s4-a0 needs a preference pair, and Base has"),
        ({"model": "/etc"}, "model", "'/etc' is not on offer here"),
        ({"pair": "/etc"}, "pair", "'/etc' is no finished run with a pair for Shapes"),
        ({"scorers": []}, "scorers", "at least 1"),
        ({"scorers": ["os:system"]}, "scorers", "'os:system' is not offered here: shapes,"),
        ({"scorers": ["0.5*clip + 2*os:system"]}, "scorers", "'os:system' is not offered"),
        ({"seeds": [1, 1]}, "seeds", "seeds must differ"),
        ({"hardware": {"device": "cuda:9"}}, "hardware.device", "not on offer"),
        ({"hardware": {"engine": "fsdp"}}, "hardware.engine", "not on offer"),
        ({"hardware": {"engine": "ddp", "num_processes": 2}}, "hardware.engine", "GPU each"),
    ],
)
def test_what_is_not_on_offer_is_told_where_it_is_wrong(desk, settings, name, message):
    problems = desk.problems(**settings)
    assert list(problems) == [name]
    assert re.search(message, problems[name])
    with pytest.raises(gr.Error, match=name):
        desk.endpoints.evaluate_start(settings)
    assert desk.console.ids() == ()


def test_a_program_may_not_say_where_it_is_written(desk):
    with pytest.raises(gr.Error, match="output is set by this server"):
        desk.endpoints.evaluate_start({"output": "/etc"})
    with pytest.raises(gr.Error, match="settings must map"):
        desk.endpoints.evaluate_start(["output"])


def test_a_server_that_starts_nothing_says_so(tmp_path):
    desk = Desk(tmp_path, refusal="Not here.")
    assert desk.endpoints.evaluate_preview({})["obstacles"] == ["Not here."]
    with pytest.raises(gr.Error, match="Not here"):
        desk.endpoints.evaluate_start({})


def test_prompts_are_brought_checked_and_counted(desk, tmp_path):
    """3 prompts × 2 seeds × (1 + 2 + 3 predictions) × 4 steps = 144; standard needs no second."""
    mine = tmp_path / "upload" / "my prompts.txt"
    mine.parent.mkdir()
    mine.write_text("a photo of a red star\na photo of a blue circle\na cat\n")
    name = desk.desk.add_prompts(mine, name="../my prompts.txt")
    assert name == "my prompts.txt"
    assert desk.endpoints.prompts_list()[-1] == {"name": name, "title": name}
    assert "'a cat' is no caption" in desk.problems(prompts=name)["prompts"]
    asked = {
        "prompts": name,
        "scorers": ["clip"],
        "methods": ["standard", "cfg,s=4", "chats-exact,s=4"],
        "seeds": [0, 1],
        "num_steps": 4,
    }
    cost = desk.endpoints.evaluate_preview(asked)["cost"]
    assert (cost["num_prompts"], cost["num_pictures"], cost["num_forwards"]) == (3, 18, 144)
    assert list(cost["fetched"]) == ["openai/clip-vit-large-patch14"]
    mine.write_text("other")
    for source, wrong, message in (
        (mine, "my prompts.txt", "There is another prompt set called"),
        (mine, "x.exe", "Prompts come as .txt"),
        (mine, "..", "Prompts come as"),
    ):
        with pytest.raises(UserError, match=message):
            desk.desk.add_prompts(source, name=wrong)
    mine.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        desk.desk.add_prompts(mine, name="b.txt")


def test_a_hub_data_set_is_counted_when_it_starts(desk):
    preview = desk.endpoints.evaluate_preview({"prompts": "owner/prompts", "scorers": ["clip"]})
    assert preview["can_start"]
    assert preview["cost"]["num_pictures"] is None


def test_a_start_names_runs_and_the_queue_gets_their_folders(desk, tmp_path):
    trained = write_run(tmp_path)
    run = trained.path.name
    desk.models.append(replace(MODEL, run=run, run_title="Mine"))
    methods = ["cfg,s=4", f"chats,s=4,alpha=0.5,pair={run}", "chats,s=4,alpha=0"]
    started = desk.endpoints.evaluate_start({"methods": methods, "hardware": {"device": "cpu"}})
    config = desk.console.evaluation(started["run"])
    assert [each.pair for each in config.contestants] == [None, str(trained.pair), None]
    assert config.contestants[1].name == f"chats-s4-a0.5-{run}"
    assert config.output == desk.console.directory(started["run"]).path
    assert desk.console.get(started["run"]).kind == "evaluation"


@pytest.mark.parametrize("run", HOSTILE)
def test_bad_ids_are_refused_in_one_line(desk, run):
    for answer in (
        desk.endpoints.evaluate_report,
        lambda run: desk.endpoints.evaluate_wins(run, ""),
    ):
        with pytest.raises(gr.Error) as refused:
            answer(run)
        assert len(str(refused.value)) < 200


def finished(desk, *, alphas=(0, 0.5, 1)) -> str:
    """A finished evaluation in which CHATS is the better the higher α is, as its folder tells."""
    methods = ("cfg,s=4,name=base",)
    methods += tuple(f"chats,s=4,alpha={alpha}" for alpha in alphas)
    started = desk.endpoints.evaluate_start({"methods": list(methods), "scorers": ["clip"]})
    run = desk.console.directory(started["run"])
    config = desk.console.evaluation(run.path.name)
    rows = [
        {
            "method": each.name,
            "seed": 0,
            "number": number,
            "prompt": f"prompt {number}",
            "category": ("x", "<i>")[number % 2],
            "scores": {"clip": number + place},
        }
        for place, each in enumerate(config.contestants)
        for number in range(4)
    ]
    write_report(rows, config, categories=["x", "<i>"], folder=run.path)
    (run.path / "scores.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run.update_status(state="succeeded", step=len(rows), num_steps=len(rows))
    return run.path.name


def test_the_tables_have_errors_win_rates_categories_a_curve_and_files(desk):
    """CFG scores 0, 1, 2, 3: mean 1.5, error √(5/3/4) = 0.645; each α adds 1."""
    run = finished(desk)
    drawn = render_results(
        read_results(desk.console.directory(run).path, desk.console.evaluation(run))
    )
    assert "<td>1.500 ± 0.645</td><td>–</td><td>–</td>" in drawn
    assert "<td>2.500 ± 0.645</td><td>+1.000 ± 0.000</td><td>100.0% [" in drawn
    assert "&lt;i&gt;" in drawn
    assert "<i>" not in drawn
    assert drawn.count('class="bar-of-error"') == 3
    assert "CLIP score against α" in drawn
    (content,) = re.findall(r'download="report.json" href="data:[^,]+,([^"]+)"', drawn)
    assert json.loads(base64.b64decode(content)) == desk.endpoints.evaluate_report(run)
    assert len(desk.endpoints.evaluate_wins(run, "clip")) == 4 * 6
    with pytest.raises(gr.Error, match="no scorer 'hps'; it has clip"):
        desk.endpoints.evaluate_wins(run, "hps")


def test_one_alpha_is_no_curve(desk):
    run = finished(desk, alphas=(0.5,))
    drawn = render_results(
        read_results(desk.console.directory(run).path, desk.console.evaluation(run))
    )
    assert "<svg" not in drawn


def test_an_evaluation_that_is_not_done_has_no_tables(desk):
    run = desk.endpoints.evaluate_start({})["run"]
    with pytest.raises(gr.Error, match=f"{run} has no tables yet: it is queued"):
        desk.endpoints.evaluate_report(run)


def test_its_page_in_runs_shows_tables_instead_of_curves(desk):
    run = finished(desk)
    handlers = RunsHandlers(desk.runs, is_offered=lambda run: True)
    _, parts, _ = handlers.open(run)
    assert "CLIP score" in parts["curves"]
    assert not parts["dials"].visible
    assert "16 of 16 pictures" in parts["head"]
    assert "chats-s4-a0, chats-s4-a0.5 and 1 more on shapes" in parts["head"]
    visible = dict(zip(("use", *BUTTONS, "push"), parts["buttons"], strict=True))
    assert [name for name, each in visible.items() if each.visible] == ["delete"]


def test_a_failed_one_says_what_to_do_in_the_words_of_an_evaluation(desk):
    run = desk.endpoints.evaluate_start({})["run"]
    folder = desk.console.directory(run)
    folder.update_status(state="failed", message="Out of memory: lower batch_size (now 60).")
    _, parts, _ = RunsHandlers(desk.runs, is_offered=lambda run: True).open(run)
    assert "Lower batch_size or size_px." in parts["head"]
    folder.update_status(message="Something broke.")
    _, parts, _ = RunsHandlers(desk.runs, is_offered=lambda run: True).open(run)
    assert "Resume goes on with the pictures that are missing" in parts["head"]
    with pytest.raises(gr.Error, match="is of another kind: evaluation"):
        RunEndpoints(desk.runs).train_score(run)
