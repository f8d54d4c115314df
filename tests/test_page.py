"""The real page in chromium: what a visitor does, and what the page looks like meanwhile."""

import re
import time

import pytest
from playwright.sync_api import Page, expect

from chats.generation.png import read_png
from tests.browsing import NARROW, WIDE, keep, visit
from tests.serving import serve
from tests.shapes_pair import pair_arguments

pytestmark = pytest.mark.browser

DONE = ".board[data-state=done]"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, "--device", "cpu", *pair_arguments(folder / "pair")) as running:
        yield running


@pytest.fixture
def problems():
    """What the page logged as an error, or asked of others; a test that leaves it clears it."""
    return []


@pytest.fixture
def page(browser, server, problems):
    with visit(browser, server.url, problems) as opened:
        expect(opened.locator(".pill[data-state=ready]")).to_be_visible()
        yield opened


def generate(page: Page, *, num_steps: int = 4) -> None:
    page.locator(".chip").first.click()
    set_steps(page, num_steps)
    page.locator("#chats-generate").click()
    expect(page.locator(DONE)).to_be_visible()


def set_steps(page: Page, num_steps: int) -> None:
    steps = page.get_by_label("number input for Steps")
    if not steps.is_visible():
        page.get_by_text("Advanced").click()
    steps.fill(str(num_steps))
    steps.press("Tab")


def step_shown(page: Page) -> int:
    return int(re.search(r"step (\d+) of", page.locator(".status-line").inner_text(), re.I)[1])


def sources(page: Page) -> list[str]:
    return page.locator("#chats-board img").evaluate_all("images => images.map(i => i.src)")


def set_alpha(page: Page, value: float) -> None:
    field = page.get_by_label("number input for Proxy strength α")
    field.fill(str(value))
    field.press("Tab")


def test_generate_shows_three_pictures_that_differ(page):
    generate(page)
    assert len(set(sources(page))) == 3
    expect(page.locator("#chats-overlay")).to_be_visible()


def test_a_moved_alpha_changes_the_chats_picture_and_no_other(page):
    generate(page)
    before = sources(page)
    set_alpha(page, 1.0)
    page.wait_for_function(
        "old => document.querySelectorAll('#chats-board img')[2].src !== old", arg=before[2]
    )
    expect(page.locator("[data-method=chats] .frame[data-state=final]")).to_be_visible()
    expect(page.locator("[data-method=chats] .combined")).to_contain_text("2·null")
    after = sources(page)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_of_many_moves_the_newest_wins(page):
    generate(page, num_steps=10)
    for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        set_alpha(page, value)
        time.sleep(0.2)
    expect(page.locator("[data-method=chats] .combined")).to_contain_text("2·null")
    expect(page.locator(DONE)).to_be_visible()
    expect(page.locator("[data-method=chats] .frame[data-state=final]")).to_be_visible()


@pytest.mark.alone
def test_stop_in_mid_run_answers_within_a_second_and_ends_soon(page):
    """That a run ends within one step is tested without a browser, which takes its own time."""
    page.locator(".chip").first.click()
    set_steps(page, 200)
    page.locator("#chats-generate").click()
    expect(page.locator(".frame[data-state=preview]").first).to_be_visible()
    pressed = time.monotonic()
    page.locator("#chats-stop").click()
    expect(page.locator(".status[data-kind=stopped]")).to_be_visible()
    assert time.monotonic() - pressed <= 1
    expect(page.locator(".board[data-state=stopped]")).to_be_visible()
    assert time.monotonic() - pressed <= 3
    expect(page.locator(".status-line")).to_contain_text("as they were after step")
    assert step_shown(page) < 200
    generate(page)


def test_a_reload_in_mid_run_keeps_the_form_and_the_page_works(page, problems):
    generate(page)
    set_alpha(page, 0.8)
    page.locator("#chats-generate").click()
    expect(page.locator("[data-method=chats] .combined")).to_contain_text("1.8·null")
    page.reload()
    expect(page.locator(".pill[data-state=ready]")).to_be_visible()
    problems.clear()
    expect(page.locator("#chats-prompt textarea")).to_have_value(
        "three red stars on a black background"
    )
    expect(page.get_by_label("number input for Proxy strength α")).to_have_value("0.8")
    generate(page)


def test_control_enter_in_the_prompt_generates(page):
    set_steps(page, 3)
    page.locator("#chats-prompt textarea").fill("a blue circle")
    page.locator("#chats-prompt textarea").press("Control+Enter")
    expect(page.locator(DONE)).to_be_visible()


def test_an_empty_prompt_is_answered_in_the_page(page):
    page.locator("#chats-generate").click()
    expect(page.get_by_role("alert")).to_contain_text("Write what the pictures should show")


def test_the_download_carries_its_settings_and_fills_the_form_again(page, tmp_path):
    generate(page)
    with page.expect_download() as download:
        page.locator("[data-method=chats] .save").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert read_png(path).prompt == "three red stars on a black background"
    page.locator("#chats-prompt textarea").fill("something else")
    with page.expect_file_chooser() as chooser:
        page.locator("#chats-read-png").click()
    chooser.value.set_files(path)
    expect(page.locator("#chats-prompt textarea")).to_have_value(
        "three red stars on a black background"
    )


def test_pictures_that_arrive_move_nothing(page):
    """Tops of the frames before the first preview and after the last picture are the same."""
    tops = "frames => frames.map(f => Math.round(f.getBoundingClientRect().top + scrollY))"
    set_steps(page, 4)
    page.locator(".chip").first.click()
    before = page.locator("#chats-board .frame").evaluate_all(tops)
    page.locator("#chats-generate").click()
    expect(page.locator(".frame[data-state=preview]").first).to_be_visible()
    during = page.locator("#chats-board .frame").evaluate_all(tops)
    expect(page.locator(DONE)).to_be_visible()
    assert before == during == page.locator("#chats-board .frame").evaluate_all(tops)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nothing_overflows_and_the_look_is_kept_for_people(page, server, problems, size, theme):
    page.set_viewport_size(size)
    page.goto(f"{server.url}/?__theme={theme}")
    expect(page.locator(".pill[data-state=ready]")).to_be_visible()
    problems.clear()
    keep(page, f"compare-{size['width']}-{theme}-before")
    page.locator(".chip").first.click()
    page.locator("#chats-generate").click()
    expect(page.locator(".frame[data-state=preview]").first).to_be_visible()
    keep(page, f"compare-{size['width']}-{theme}-during")
    expect(page.locator(DONE)).to_be_visible()
    expect(page.locator("#chats-overlay")).to_be_visible()
    keep(page, f"compare-{size['width']}-{theme}-after")
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
