"""The Train tab in chromium and by its endpoints, around a queue that only remembers."""

import re

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from tests.browsing import keep, visit
from tests.serving import serve
from tests.test_access import call
from tests.train_fakes import COURSE, NUM_STEPS, START, FakeDataSet

pytestmark = pytest.mark.browser

DATA = FakeDataSet().id


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server"), program=("-m", "tests.train_server")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    made = Client(server.url, verbose=False)
    yield made
    made.close()


@pytest.fixture
def problems():
    """What the page logged as an error; a test that cuts off streams by leaving it clears that."""
    return []


@pytest.fixture
def page(browser, server, problems):
    with visit(browser, server.url, problems) as opened:
        opened.get_by_role("tab", name="Train").click()
        expect(opened.locator(".course")).to_contain_text(COURSE)
        yield opened


def fill(page, label: str, value: str) -> None:
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Tab")


def test_from_data_to_a_started_run(page):
    expect(page.locator("#train-memory")).to_contain_text("of main memory")
    fill(page, "Steps", "50")
    expect(page.locator(".course")).to_contain_text("1,600 pairs in 50 steps of 32")
    expect(page.locator("#train-command textarea")).to_have_value(
        re.compile(r"--config training/recipes/shapes_demo\.yaml .*--optimizer\.num-steps 50")
    )
    expect(page.locator("#train-optimizer-num_steps .changed")).to_contain_text(f"was {NUM_STEPS}")
    page.locator("#train-start").click()
    expect(page.locator("#train-result")).to_contain_text("Run 20260101-00000")
    expect(page.get_by_text("Watch it in Runs")).to_be_visible()


def test_a_fault_stands_at_its_setting_and_is_taken_back_there(page):
    fill(page, "Steps", "10")
    expect(page.locator("#train-optimizer")).to_contain_text("1 wrong")
    fault = page.locator("#train-optimizer-warmup_steps .problem")
    expect(fault).to_contain_text(
        f"warmup_steps {START.warmup_steps} must be less than num_steps 10"
    )
    expect(page.locator("#train-start")).to_be_disabled()
    expect(page.locator("#train-reason")).to_contain_text("wrong: Warmup steps")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("10")
    page.locator("#train-optimizer-num_steps [data-reset]").click()
    expect(page.get_by_label("Steps", exact=True)).to_have_value(str(NUM_STEPS))
    expect(page.locator(".problem")).to_have_count(0)
    expect(page.locator("#train-start")).to_be_enabled()


def test_a_recipe_goes_out_and_in_and_a_reload_keeps_the_form(page, problems, tmp_path):
    fill(page, "Rank", "4")
    expect(page.locator("#train-model-rank .changed")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_text("Download as a recipe").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    page.locator("#train-reset").click()
    expect(page.get_by_label("Rank", exact=True)).to_have_value("32")
    with page.expect_file_chooser() as chooser:
        page.locator("#train-read-yaml").click()
    chooser.value.set_files(path)
    expect(page.get_by_label("Rank", exact=True)).to_have_value("4")
    expect(page.get_by_text("From recipe.yaml.")).to_be_visible()
    expect(page.locator("#train-command textarea")).to_have_value(re.compile("--model.rank 4"))
    page.reload()
    problems.clear()
    page.get_by_role("tab", name="Train").click()
    expect(page.get_by_label("Rank", exact=True)).to_have_value("4")
    expect(page.get_by_text("From recipe.yaml.")).to_be_visible()


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (1024, "dark"), (390, "light")])
def test_nothing_overflows_and_the_look_is_kept_for_people(page, server, problems, width, theme):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{server.url}/?__theme={theme}")
    problems.clear()
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#train-memory .track")).to_be_visible()
    for fold in page.locator(".fold > button").all():
        fold.click()
    fill(page, "LoRA alpha", "0")
    expect(page.locator("#train-model-lora_alpha .problem")).to_be_visible()
    keep(page, f"train-{width}-{theme}")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_starts_nothing_on_an_open_server(server, origin):
    assert call(server, "train_start", Origin=origin) == 403
    assert call(server, "recipes_list", Origin=server.url) == 200


def test_the_endpoints_answer_programs(client):
    names = {each["name"] for each in client.predict(api_name="/recipes_list")}
    assert "shapes_demo" in names
    settings = {"optimizer": {"num_steps": 50}}
    told = client.predict(
        data=DATA, recipe="shapes_demo", settings=settings, api_name="/train_preview"
    )
    assert (told["can_start"], told["course"]["num_pairs"]) == (True, 1600)
    run = client.predict(data=DATA, settings=settings, api_name="/train_start")["run"]
    assert run.startswith("20260101-")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data": "../../etc"}, "This data set is gone"),
        ({"recipe": "../x"}, "no recipe '../x'"),
        ({"settings": {"data": {"path": "/etc"}}}, "data.path is set by this server"),
        ({"settings": {"model": {"base": "/etc"}}}, "model.base: '/etc' is not on offer"),
        ({"settings": {"optimizer": {"num_steps": 0}}}, "optimizer.num_steps: "),
    ],
)
def test_a_wrong_start_is_refused_with_the_reason(client, wrong, message):
    asked = {"data": DATA, "recipe": "shapes_demo", "settings": {}, **wrong}
    with pytest.raises(AppError, match=re.escape(message)):
        client.predict(**asked, api_name="/train_start")
