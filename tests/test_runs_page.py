"""The life of real trainings in the real page: watched, stopped, killed, resumed, used."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Locator, Page, expect

from chats.generation.png import read_png
from tests.browsing import MEDIUM, NARROW, WIDE, keep, visit
from tests.job_queue import make_config, nothing_left, wait_for, wait_until
from tests.run_gallery import write_run, write_samples
from tests.serving import ROOT, serve
from tests.test_data_page import shapes_zip
from tests.test_page import generate
from tests.tiny_preferences import write_preferences
from training.config import TrainingConfig
from training.jobs.console import JobConsole, JobSettings
from training.run import RunDirectory

NUM_STEPS = 60
SETTINGS = {
    "optimizer.num_steps": NUM_STEPS,
    "optimizer.batch_size": 1,
    "model.rank": 2,
    "optimizer.warmup_steps": 0,
    "samples.num_prompts": 1,
    "samples.num_steps": 2,
}
HOSTILE = (
    "",
    "..",
    "/etc/passwd",
    "../../etc/passwd",
    "20260101-000000-abcdef",
    "20260101-000000-abcdef/../..",
    "; rm -rf /",
    "\x00",
    "a" * 100_000,
)
CHANGING = ("train_stop", "train_kill", "train_resume", "train_score", "train_delete")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with nothing_left(folder / "work"), serve(folder, "--device", "cpu") as running:
        yield running


@pytest.fixture(scope="module")
def console(server) -> JobConsole:
    return JobConsole(JobSettings(workspace=server.workspace))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainingConfig:
    """A real training on Shapes: too long to be over before it is killed, quick steps."""
    data = write_preferences(tmp_path_factory.mktemp("data") / "pairs")
    return TrainingConfig.model_validate(
        {
            "data": {"path": data},
            "model": {"rank": 2},
            "optimizer": {"num_steps": 2000, "batch_size": 1},
            "run": {"output": "unused", "log_every": 2, "save_every": 1000},
        }
    )


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    made = Client(server.url, download_files=str(tmp_path_factory.mktemp("files")), verbose=False)
    yield made
    made.close()


@pytest.fixture
def page(browser, server):
    with visit(browser, server.url) as opened:
        yield opened


def open_tab(page: Page, name: str) -> None:
    page.locator("#chats-tabs button[role=tab]").filter(has_text=name).click()


def open_run(page: Page, run_id: str) -> None:
    open_tab(page, "Runs")
    page.locator(f'[data-run="{run_id}"]').click()
    expect(page.locator(".run-head")).to_contain_text(run_id)


def state(page: Page, name: str) -> None:
    expect(page.locator(f".run-now[data-state={name}]")).to_be_visible()


@pytest.mark.browser
def test_a_newcomer_goes_from_a_zip_to_pictures_of_their_own_pair(page, server, console, tmp_path):
    """All of it in the page: bring data, train, look, stop, resume, use the pair, do it again."""
    open_tab(page, "Runs")
    expect(page.locator("#runs-page")).to_contain_text("No run yet")
    bring_data(page, shapes_zip(tmp_path / "my shapes.zip", num_pairs=14))

    open_tab(page, "Train")
    expect(page.locator("#train-data input")).to_have_value("my shapes · 15 pairs")
    for name, value in SETTINGS.items():
        fill(page, name, value)
    expect(page.locator("#train-command textarea")).to_have_value(
        re.compile(f"--optimizer.num-steps {NUM_STEPS} .*--samples.num-steps 2")
    )
    expect(page.locator("#train-memory")).to_contain_text("of main memory")
    page.locator("#train-start").click()
    run_id = started(page)
    page.locator("#train-start").click()
    second = started(page, unless=run_id)
    page.get_by_text("Watch it in Runs").click()
    state(page, "waiting_for_device")
    expect(page.locator(".reason")).to_contain_text(f"Waiting for the CPU: {run_id} trains on it.")
    page.locator("#runs-stop").click()
    state(page, "cancelled")
    page.locator(".back a").click()
    expect(page.locator(f'.run-row[data-run="{second}"]')).to_contain_text("data my shapes")
    page.locator(f'.run-row[data-run="{run_id}"]').click()
    expect(page.locator(".run-head")).to_contain_text(run_id)
    state(page, "running")
    for hidden in ("resume", "delete"):
        expect(page.locator(f"#runs-{hidden}")).not_to_be_visible()
    expect(page.locator(".plot").first).to_be_visible()
    page.locator("#runs-stop").click()
    state(page, "interrupted")
    expect(page.locator(".reason")).to_contain_text("Stopped as asked")
    assert console.get(run_id).step < NUM_STEPS
    page.locator("#runs-resume").click()
    state(page, "running")
    page.reload()
    expect(page.locator(".run-head")).to_contain_text(run_id)
    expect(page.locator(".plot").first).to_be_visible()
    state(page, "succeeded")
    expect(page.locator(".run-line")).to_contain_text(f"{NUM_STEPS} of {NUM_STEPS} steps")
    expect(page.locator(".sample-row img").first).to_be_visible()

    use_pair(page, run_id, tmp_path / "used.png")
    rerun(page, run_id)
    from_terminal = train_alone(console, run_id, tmp_path / "alone")
    assert losses(console.directory(run_id)) == losses(from_terminal)


def bring_data(page: Page, path: Path) -> None:
    open_tab(page, "Data")
    page.locator("#chats-data-file input[type=file]").set_input_files(path)
    expect(page.locator("#chats-data-file")).to_contain_text("my shapes")
    page.locator("#chats-import").click()
    expect(page.locator("#chats-data-status")).to_contain_text("15 of 16 rows kept")


def fill(page: Page, name: str, value: object) -> None:
    fold = page.locator(f"#train-{name.partition('.')[0]} > button")
    field = field_of(page, name)
    if not field.is_visible():
        fold.click()
    field.fill(str(value))
    field.press("Tab")


def field_of(page: Page, name: str) -> Locator:
    return page.locator(f"#train-{name.replace('.', '-')}").locator("input, textarea").first


def started(page: Page, *, unless: str = "") -> str:
    said = page.locator("#train-result code")
    if unless:
        expect(said).not_to_have_text(unless)
    return said.inner_text()


def use_pair(page: Page, run_id: str, path: Path) -> None:
    page.locator("#runs-use").click()
    expect(page.locator("#chats-pair input")).to_have_value(
        re.compile("CHATS, LoRA pair on shapes")
    )
    generate(page, num_steps=2)
    with page.expect_download() as download:
        page.locator("[data-method=chats] .save").click()
    download.value.save_as(path)
    assert read_png(path).pair == run_id


def rerun(page: Page, run_id: str) -> None:
    """Back on the run's page: its settings fill the form, and what is changed there is marked."""
    open_tab(page, "Runs")
    page.locator("#runs-rerun").click()
    expect(page.get_by_text(f"As run {run_id} did it")).to_be_visible()
    expect(field_of(page, "optimizer.num_steps")).to_have_value(str(NUM_STEPS))
    expect(page.locator("#train-data input")).to_have_value("my shapes · 15 pairs")
    expect(page.locator(".changed")).to_have_count(0)
    fill(page, "model.rank", 3)
    expect(page.locator(".changed")).to_have_text("changed, was 2 reset")
    expect(page.locator("#train-start")).to_be_enabled()


def train_alone(console: JobConsole, run_id: str, folder: Path) -> RunDirectory:
    """Train by a run's own YAML from the command line, without a queue and without a stop."""
    config = console.directory(run_id).path / "config.yaml"
    command = ["-m", "training", "--config", str(config), "--run.output", str(folder)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    return RunDirectory(folder)


def losses(run: RunDirectory) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in run.read_metrics() if "loss" in row]


@pytest.mark.browser
def test_a_run_outlives_its_server_and_is_resumed_after_its_trainer_was_killed(
    browser, config, tmp_path
):
    """Both killed with -9: the next server shows the run live, and what died within 10 s."""
    with nothing_left(tmp_path / "work"):
        with serve(tmp_path, "--device", "cpu") as first:
            console = JobConsole(JobSettings(workspace=first.workspace))
            run_id = console.submit(config)
            wait_until(console, run_id, "running", seconds=120)
            os.kill(first.pid, signal.SIGKILL)
        with (
            serve(tmp_path, "--device", "cpu") as second,
            visit(browser, second.url) as page,
        ):
            open_run(page, run_id)
            state(page, "running")
            seen = console.get(run_id).step
            wait_for(lambda: console.get(run_id).step > seen, what="another step")
            expect(page.locator(".plot").first).to_be_visible()
            kill_and_resume(page, console, run_id)


def kill_and_resume(page: Page, console: JobConsole, run_id: str) -> None:
    os.kill(console.directory(run_id).status().pid, signal.SIGKILL)
    killed = time.monotonic()
    state(page, "interrupted")
    assert time.monotonic() - killed <= 10
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#runs-delete").click()
    expect(page.locator("#runs-resume")).to_be_visible()
    page.locator("#runs-resume").click()
    state(page, "running")
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#runs-kill").click()
    state(page, "cancelled")
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#runs-delete").click()
    expect(page.locator(".run-head")).not_to_be_visible()
    page.wait_for_function("!location.search.includes('run=')")
    with pytest.raises(ValueError, match="There is no run"):
        console.get(run_id)


@pytest.mark.browser
def test_the_log_is_read_searched_and_downloaded_and_stays_where_it_is_read(page, server):
    run = write_run(server.workspace, state="interrupted", step=20)
    run.log.write_text("".join(f"line {number}\n" for number in range(5000)))
    page.goto(f"{server.url}/?run={run.path.name}")
    log = page.locator(".log-lines")
    expect(log).to_contain_text("line 4999")
    log.evaluate("log => log.scrollTop -= 200")
    before = log.evaluate("log => log.scrollTop")
    page.wait_for_timeout(300)
    with run.log.open("a") as file:
        file.write("a new line\n")
    expect(log).to_contain_text("a new line")
    assert abs(log.evaluate("log => log.scrollTop") - before) < 60
    page.locator("#runs-search").locator("input, textarea").fill("line 123")
    page.keyboard.press("Enter")
    expect(page.locator(".log-note")).to_contain_text("11 lines with")
    with page.expect_download() as download:
        page.locator("#runs-download").click()
    assert download.value.path().stat().st_size == run.log.stat().st_size


@pytest.fixture(scope="module")
def gallery(server) -> tuple[RunDirectory, RunDirectory, RunDirectory]:
    """A run with pictures, another one, and one that failed."""
    one, two = (write_run(server.workspace, age_minutes=age) for age in (5, 10))
    write_samples(one, [0, 50, 100])
    failed = write_run(server.workspace, state="failed", message="CUDA out of memory", step=50)
    return one, two, failed


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_and_the_look_is_kept_for_people(page, server, gallery, theme):
    one, two, failed = gallery
    page.goto(f"{server.url}/?__theme={theme}&run={one.path.name}")
    expect(page.locator(".sample-row img").first).to_be_visible()
    page.locator("#runs-others input").click()
    page.locator("[role=option]").filter(has_text="CHATS").nth(1).click()
    expect(page.locator(".legend li")).to_have_count(2)
    page.keyboard.press("Escape")
    keep_all(page, f"run-{theme}")
    page.locator(".back a").click()
    expect(page.locator(f'.run-row[data-run="{two.path.name}"]')).to_be_visible()
    keep_all(page, f"list-{theme}")
    page.locator(f'.run-row[data-run="{failed.path.name}"]').click()
    expect(page.get_by_role("alert").first).to_contain_text("CUDA out of memory")
    keep_all(page, f"failed-{theme}")


@pytest.mark.browser
def test_nothing_jumps_while_the_page_asks_for_news(page, server, gallery):
    page.goto(f"{server.url}/?run={gallery[0].path.name}")
    expect(page.locator(".sample-row img").first).to_be_visible()
    tops = "plots => plots.map(p => Math.round(p.getBoundingClientRect().top + scrollY))"
    before = page.locator(".plot").evaluate_all(tops)
    page.wait_for_timeout(2500)
    assert before == page.locator(".plot").evaluate_all(tops)


def keep_all(page: Page, name: str) -> None:
    for size in (WIDE, MEDIUM, NARROW):
        page.set_viewport_size(size)
        keep(page, f"runs-{name}-{size['width']}")


def test_an_id_that_does_not_exist_is_refused_in_one_line(client):
    for endpoint in (*CHANGING, "train_status"):  # all at once would be more than the queue takes
        jobs = [(run, client.submit(run=run, api_name=f"/{endpoint}")) for run in HOSTILE]
        for run, job in jobs:
            said = str(job.exception())
            assert "There is no run" in said, run
            assert "\n" not in said


def test_what_is_no_text_is_no_id_either(client):
    wrong = (None, 7, True, ["x"], {"path": "/etc/passwd"})
    jobs = [client.submit(run=run, api_name=f"/{name}") for name in CHANGING for run in wrong]
    assert all(isinstance(job.exception(), AppError) for job in jobs)


@pytest.mark.parametrize(
    ("endpoint", "arguments", "message"),
    [
        ("train_log", {"file": "../status.json"}, "file must be log or output"),
        ("train_log", {"offset": -5}, "offset must be a whole number from 0"),
        ("train_metrics", {"max_points": 10**9}, "max_points must be a whole number from 2"),
        ("train_diff", {"other": "../.."}, "There is no run '../..'."),
        ("train_rerun", {"changes": {"no.such": 1}}, "There is no setting 'no.such'."),
        ("train_rerun", {"changes": [1]}, "changes must map"),
        ("train_rerun", {"changes": {"optimizer.learning_rate": -1}}, "optimizer.learning_rate"),
        ("train_push", {"repo_id": "../x"}, "no name of a repository"),
        ("train_push", {"repo_id": "someone/pair"}, "Can't push to someone/pair"),
        ("train_stop", {}, "it can't be stopped"),
    ],
)
def test_a_mistake_gets_a_clear_message(client, server, endpoint, arguments, message):
    run = write_run(server.workspace)
    with pytest.raises(AppError, match=message):
        client.predict(run=run.path.name, **arguments, api_name=f"/{endpoint}")


@pytest.mark.browser
def test_an_evaluation_is_prepared_started_watched_and_read(page, server, console):
    """Three prompts, three methods: a mistake is told where it is, then tables and a curve come."""
    open_tab(page, "Evaluate")
    start, methods = page.locator("#evaluate-start"), page.locator("#evaluate-methods textarea")
    expect(page.locator("#evaluate-cost")).to_contain_text("1,200 pictures of 600 prompts")
    methods.fill("cgf,s=2")  # at once, as a text that is pasted
    expect(page.locator("#evaluate-methods .problem")).to_contain_text("cgf,s=2: method")
    expect(start).to_be_disabled()
    methods.fill("cfg,s=2\nchats,s=2,alpha=0\nchats,s=2,alpha=0.5")
    prompts = b"a photo of a red star\na photo of a blue circle\na photo of a green square\n"
    page.locator("input[type=file][accept*='.tsv']").set_input_files(
        {"name": "mine.txt", "mimeType": "text/plain", "buffer": prompts}
    )
    expect(page.locator("#evaluate-cost")).to_contain_text("9 pictures of 3 prompts")
    expect(page.locator("#evaluate-cost")).to_contain_text("360 predictions")
    start.click()
    page.locator("#evaluate-result [data-run]").click()
    expect(page.locator(".run-head")).to_contain_text("chats-s2-a0.5 on mine.txt")
    state(page, "succeeded")
    expect(page.locator("#runs-curves .results-table").first).to_contain_text("chats-s2-a0.5")
    expect(page.locator("#runs-curves .plot polyline.smooth")).to_be_attached()
    open_tab(page, "Evaluate")
    expect(page.locator("#evaluate-results .results-table").first).to_contain_text("win rate")
    with page.expect_download() as file:
        page.locator("#evaluate-results a[download='report.csv']").click()
    assert file.value.path().read_text().startswith("scorer,category,method,")
    for size in (WIDE, MEDIUM, NARROW):
        page.set_viewport_size(size)
        keep(page, f"evaluate-{size['width']}")
    page.evaluate("document.body.classList.add('dark')")
    keep(page, "evaluate-dark")


def test_programs_list_read_compare_and_delete_runs(client, server):
    one = write_run(server.workspace, state="interrupted", step=50)
    two = write_run(server.workspace, config=make_config(num_steps=100, learning_rate=0.25))
    ids = [each["id"] for each in client.predict(api_name="/runs_list")]
    name = one.path.name
    assert {name, two.path.name} <= set(ids)
    status = client.predict(run=name, api_name="/train_status")
    assert (status["state"], status["step"], status["progress"]) == ("interrupted", 50, 0.5)
    assert status["actions"] == ["delete", "rerun", "resume"]
    rows = client.predict(run=name, since_step=40, api_name="/train_metrics")["rows"]
    assert [row["step"] for row in rows] == [45, 50]
    one.log.write_text("one\ntwo\n")
    piece = client.predict(run=name, offset=4, api_name="/train_log")
    assert (piece["text"], piece["end"], piece["size"]) == ("two\n", 8, 8)
    differences = client.predict(run=name, other=two.path.name, api_name="/train_diff")
    assert differences == {"optimizer.learning_rate": [5e-5, 0.25]}
    changes = {"optimizer.num_steps": 7}
    again = client.predict(run=name, changes=changes, api_name="/train_rerun")
    assert again["optimizer.num_steps"] == 7
    assert "run.output" not in again
    assert client.predict(run=name, api_name="/train_delete") == {"deleted": name}
    assert not one.path.exists()
