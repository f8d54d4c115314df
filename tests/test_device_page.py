"""A training and pictures on one device, in the real page; a GPU is pretended."""

import re
import shutil

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

from chats.config import GenerationConfig
from chats.generation.png import save_png
from chats.shapes import BASE
from tests.browsing import MEDIUM, NARROW, WIDE, keep, visit
from tests.device_server import PRETENDED
from tests.job_queue import make_config
from tests.serving import serve
from tests.shapes_pair import pair_arguments
from training.jobs.turn import turn
from training.jobs.workspace import Workspace, new_job

pytestmark = pytest.mark.browser

DONE = ".board[data-state=done]"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    program = ("-m", "tests.device_server")
    with serve(folder, *pair_arguments(folder / "pair"), program=program) as running:
        yield running


@pytest.fixture(scope="module")
def page(browser, server):
    with visit(browser, server.url, []) as opened:
        expect(opened.locator(".pill[data-state=ready]")).to_be_visible()
        yield opened


@pytest.fixture
def run(server):
    """A training of ten steps that waits for the pretended GPU."""
    job = new_job(directory=server.workspace, devices=(PRETENDED.name,), ticket=1)
    workspace = Workspace(server.workspace)
    folder = workspace.create(make_config(num_steps=10), job)
    yield folder.run
    workspace.remove(folder)


def keep_all(page, name: str) -> None:
    """Keep the look for people in all widths and themes; nothing may overflow."""
    for size in (NARROW, MEDIUM, WIDE):
        page.set_viewport_size(size)
        for theme in ("dark", "light"):
            page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
            keep(page, f"{name}-{size['width']}-{theme}")


def test_models_are_loaded_shown_unloaded_and_offered_in_compare(page, server, tmp_path):
    shutil.copytree(BASE, server.workspace / "models" / "second")
    page.get_by_role("tab", name="Models").click()
    expect(page.locator(".on-device")).to_contain_text("shapes")
    expect(page.locator(".device").first).to_contain_text("may take")
    name = page.get_by_label("Model", exact=True)
    name.fill("second")
    name.press("Enter")
    page.locator("#models-load").click()
    expect(page.locator(".models-answer")).to_contain_text("second is loaded on CPU.")
    expect(page.locator(".on-device")).to_contain_text("second")
    page.get_by_label("Loaded", exact=True).click()
    page.get_by_role("option", name="second").click()
    page.locator("#models-unload").click()
    expect(page.locator(".device")).to_contain_text("unloaded by hand")
    path = tmp_path / "picture.png"
    config = GenerationConfig(prompt="a red star", num_steps=7)
    save_png(Image.new("RGB", (8, 8)), path, config=config)
    with page.expect_file_chooser() as chooser:
        page.locator("#models-png").click()
    chooser.value.set_files(path)
    expect(page.get_by_label("Settings", exact=True)).to_have_value(re.compile("a red star"))
    keep_all(page, "models")


def test_programs_load_and_unload(server):
    client = Client(server.url, verbose=False)
    [device] = client.predict(api_name="/devices_list")
    assert device["total_gb"] > device["room_gb"] > 0
    answer = client.predict(name="shapes", pair="", api_name="/model_load")
    assert answer == {"message": "Shapes model is loaded on CPU."}
    for name, words in (("/etc", "neither a Hub id"), ("a/b", "Hub cannot be reached")):
        with pytest.raises(AppError, match=words):
            client.predict(name=name, pair="", api_name="/model_load")
    with pytest.raises(AppError, match="Nothing with the name 'x' is loaded"):
        client.predict(name="x", api_name="/model_unload")
    client.close()


def test_while_a_training_has_the_gpu_the_page_says_so_and_the_cpu_paints(page, run):
    page.get_by_role("tab", name="Compare").click()
    page.locator(".chip").first.click()
    with turn(run.path):
        run.update_status(step=3)
        page.locator("#chats-generate").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text(f"The GPU is used by run {run.path.name} (started ")
        expect(alert).to_contain_text(
            "step 3 of 10). Wait until it has ended, stop it in Runs, or use the CPU."
        )
        keep_all(page, "device-busy")
        alert.get_by_role("button", name="Use the CPU").click()
        expect(page.locator(DONE)).to_be_visible()
        expect(page.get_by_label("On the CPU").first).to_be_checked()
    page.get_by_label("On the CPU").first.uncheck()
    page.locator("#chats-generate").click()
    expect(page.locator(".status[data-kind=busy]")).to_be_visible()
    expect(page.locator(DONE)).to_be_visible()
