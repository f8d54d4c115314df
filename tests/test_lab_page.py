"""The Alpha lab on the real page and by gradio_client, with the embedded model."""

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect

from chats.generation.png import read_png
from tests.browsing import MEDIUM, NARROW, WIDE, keep, visit
from tests.serving import serve
from tests.shapes_pair import pair_arguments

pytestmark = pytest.mark.browser

DONE = "#lab-status .status[data-kind=done]"
PROMPT = "three red stars on a black background"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, *pair_arguments(folder / "pair")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    made = Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))
    yield made
    made.close()


def write(page: Page, name: str, text: str) -> None:
    field = page.locator(f"#lab-{name}").locator("textarea, input").first
    field.fill(text)
    field.blur()


def test_a_sweep_by_the_api_gives_scores_and_files(client):
    settings = {
        "prompts": [PROMPT],
        "alphas": [0, 0.5],
        "scales": [2],
        "seeds": [0, 1],
        "num_steps": [3],
    }
    cost = client.predict(api_name="/alpha_preview", **settings)
    assert (cost["num_pictures"], cost["num_calls"], cost["num_done"]) == (4, 1, 0)
    assert cost["num_predictions"] == 4 * 3 * 2
    files, details = client.predict(api_name="/alpha_sweep", **settings)
    assert [file.rpartition(".")[2] for file in files] == ["csv", "png", "zip"]
    assert details["num_done"] == 4
    assert [cell["num_pictures"] for cell in details["cells"]] == [2, 2]
    assert all(cell["mean"] in (0, 0.5, 1) for cell in details["cells"])
    assert "between seeds" in details["verdict"]
    again = client.predict(api_name="/alpha_preview", **settings)
    assert again["num_done"] == 4
    assert again["seconds"] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alphas": []}, "alphas: the list is empty"),
        ({"alphas": [9]}, "alphas.0: Input should be less than or equal to 2"),
        ({"model": "../../etc"}, "Unknown model"),
        ({"scorer": "os:system"}, "Unknown scorer 'os:system'"),
        ({"prompts": ["three dogs"], "scorer": "shapes"}, "'three dogs' is no caption"),
    ],
)
def test_what_the_api_refuses_is_told_in_words(client, settings, words):
    with pytest.raises(AppError, match=words):
        client.predict(api_name="/alpha_sweep", **{"num_steps": [2], "alphas": [0], **settings})


def test_the_embedded_pair_keeps_its_setting(client):
    with pytest.raises(AppError, match="The embedded pair is part of this program"):
        client.predict(alpha=0.1, scale=2, is_sure=True, api_name="/pair_recommend")


def test_a_person_sweeps_stops_goes_on_looks_and_uses_the_best_cell(browser, server):
    problems: list[str] = []
    with visit(browser, server.url, problems) as page:
        expect(page.locator(".pill[data-state=ready]")).to_be_visible()
        page.locator("#chats-prompt textarea").fill(PROMPT)
        page.get_by_text("Sweep from here").click()
        expect(page.locator("#lab-cost")).to_contain_text("42 pictures: 7 α × 3 s × 1 prompt")
        write(page, "alphas", "1 to 0 by 0.5")
        expect(page.locator("#lab-alphas .problem")).to_contain_text("a range goes up")
        write(page, "alphas", "-0.5 to 1 by 0.5")
        write(page, "scales", "1, 2")
        expect(page.locator("#lab-cost")).to_contain_text("16 pictures: 4 α × 2 s")
        page.get_by_text("More", exact=True).click()
        write(page, "num_steps", "5")
        write(page, "seeds", "0 to 3")
        expect(page.locator("#lab-cost")).to_contain_text("32 pictures")
        page.locator("#lab-start").click()
        expect(page.locator(".lab-cell img").first).to_be_visible()
        page.locator("#lab-stop").click()
        expect(page.locator("#lab-status .status[data-kind=stopped]")).to_contain_text(
            "Start goes on from there"
        )
        expect(page.locator("#lab-cost")).to_contain_text("are there already")
        page.locator("#lab-start").click()
        expect(page.locator(DONE)).to_contain_text("32 pictures")
        expect(page.locator(".lab-cell img")).to_have_count(8)
        expect(page.locator("#lab-plot polyline")).to_have_count(2)
        expect(page.locator("#lab-verdict")).to_contain_text("Best: α = ")

        page.locator("[data-lab-cell='5']").click()
        expect(page.locator("#lab-detail h3")).to_have_text("α = 0, s = 2")
        expect(page.locator("#lab-detail figure")).to_have_count(4)
        with page.expect_download() as downloading:
            page.locator("#lab-detail .save").nth(2).click()
        config = read_png(downloading.value.path())
        assert (config.prompt, config.rows[0].alpha, config.rows[0].seed) == (PROMPT, 0, 2)
        with page.expect_download() as downloading:
            page.locator("#lab-table").click()
        assert downloading.value.path().read_text().count("\n") == 9

        page.locator("#lab-keep").click()
        expect(page.get_by_text("The embedded pair is part of this program")).to_be_visible()
        page.locator("#lab-use").click()
        expect(page.locator("#chats-alpha input[type=number]")).to_have_value("0")
        expect(page.locator("#chats-scale input[type=number]")).to_have_value("2")
        assert page.locator("#chats-prompt textarea").input_value() == PROMPT

        page.reload()
        problems.clear()
        expect(page.locator(".pill[data-state=ready]")).to_be_visible()
        page.get_by_role("tab", name="Alpha lab").click()
        expect(page.locator(".lab-cell img")).to_have_count(8)
        expect(page.locator("#lab-cost")).to_contain_text("All of them are there")
        for theme in ("light", "dark"):
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
            for size in (WIDE, MEDIUM, NARROW):
                page.set_viewport_size(size)
                page.wait_for_timeout(200)
                keep(page, f"lab-{size['width']}-{theme}")
