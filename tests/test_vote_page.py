"""The whole loop in the real page, and what a voter's tabs, reloads and killed servers leave."""

import base64
import contextlib
import io
import json
import os
import re
import signal

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Page, expect

from chats.shapes.checker import keeps_promise, read, sharpness
from chats.shapes.grammar import parse_caption
from tests.browsing import MEDIUM, NARROW, WIDE, keep, visit
from tests.job_queue import nothing_left, wait_until
from tests.serving import serve
from tests.shapes_pair import pair_arguments
from tests.tiny_votes import open_store
from training.jobs.console import JobConsole, JobSettings

pytestmark = pytest.mark.browser

NUM_VOTES = 40
OPEN = ".arena[data-state=open]"


def open_tab(page: Page, name: str) -> None:
    page.locator("#chats-tabs button[role=tab]").get_by_text(name, exact=True).click()


def start_voting(page: Page, *, num_steps: int) -> None:
    open_tab(page, "Vote")
    for slot in page.locator(".slot:has([id^=vote-method])").all()[:2]:
        field = slot.get_by_label("Steps")
        field.fill(str(num_steps))
        field.press("Tab")
    page.locator("#vote-start").click()
    expect(page.locator(OPEN)).to_be_visible()


def shown(page: Page) -> str:
    expect(page.locator(OPEN)).to_be_visible()
    return page.locator(OPEN).get_attribute("data-match")


def press(page: Page, key: str) -> str:
    """Answer by keyboard, wait until the next match is there, and return the answered one."""
    match = shown(page)
    page.keyboard.press(key)
    page.wait_for_function(
        "([css, old]) => (document.querySelector(css)?.dataset.match ?? old) !== old",
        arg=[OPEN, match],
    )
    return match


def checkers_key(page: Page) -> str:
    """What the checker prefers: the picture that keeps its promise, then the sharper one."""
    shown(page)
    uris = page.locator(f"{OPEN} img").evaluate_all("images => images.map(i => i.src)")
    spec = parse_caption(page.locator(".arena-prompt").inner_text())
    scores = []
    for uri in uris:
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).resize((64, 64))
        scene = read(np.asarray(image.convert("RGB")))
        scores.append(keeps_promise(scene, spec) + 0.5 * sharpness(scene))
    if scores[0] == scores[1]:
        return "0"
    return "ArrowLeft" if scores[0] > scores[1] else "ArrowRight"


def vote(page: Page, number: int) -> list[str]:
    return [press(page, checkers_key(page)) for _ in range(number)]


def test_from_votes_to_a_pair_and_a_blind_vote_on_it(browser, tmp_path):
    """40 votes across a reload, a kill of the server and a second tab; then the loop is closed."""
    problems: list[str] = []
    arguments = ("--device", "cpu", *pair_arguments(tmp_path / "pair"))
    with nothing_left(tmp_path / "work"), contextlib.ExitStack() as stack:
        with serve(tmp_path, *arguments) as first:
            page = stack.enter_context(visit(browser, first.url, problems))
            start_voting(page, num_steps=2)
            voted = vote(page, 10)
            before = shown(page)
            page.reload()
            open_tab(page, "Vote")
            assert shown(page) == before
            voted += vote(page, 5)
            os.kill(first.pid, signal.SIGKILL)
            page.goto("about:blank")  # or the page comes back by itself, at a time of its own
        port = int(first.url.rpartition(":")[2])
        with serve(tmp_path, *arguments, port=port) as second:
            page.goto(second.url)
            problems.clear()  # of the time without a server
            open_tab(page, "Vote")
            voted += vote(page, 10)
            other = page.context.new_page()
            other.goto(second.url)
            open_tab(other, "Vote")
            voted += vote(other, 5)
            assert shown(other) != shown(page)
            other.close()
            voted += vote(page, NUM_VOTES - len(voted))
            collection = open_store(tmp_path / "work").named("Votes")
            assert list(collection.tally().votes) == voted
            winners = collection.tally().num_winners
            assert len(collection.dataset().rows()) == winners
            keep(page, "vote-1440")

            page.get_by_text(f"Train on these votes ({winners} preferences)").click()
            steps = page.locator("#train-optimizer-num_steps input").first
            expect(steps).to_have_value("60")
            expect(page.locator("#train-data input")).to_have_value(re.compile("Votes · "))
            for name, value in (("num_steps", "3"), ("batch_size", "2"), ("warmup_steps", "1")):
                field = page.locator(f"#train-optimizer-{name} input").first
                if not field.is_visible():
                    page.locator("#train-optimizer > button").click()
                field.fill(value)
                field.press("Tab")
            expect(page.locator("#train-start")).to_be_enabled()
            page.locator("#train-start").click()
            expect(page.locator("#train-result")).to_contain_text("Run ")
            console = JobConsole(JobSettings(workspace=second.workspace))
            run = console.list()[0].id
            wait_until(console, run, "succeeded", seconds=240)

            page.goto(f"{second.url}/?run={run}")
            problems.clear()  # of streams that leaving cut off
            page.locator(".run-head [data-vote-run]").click()
            expect(page.locator(OPEN)).to_be_visible()
            match = press(page, "1")
            expect(page.locator("#vote-told")).to_contain_text(f"({run[-6:]})")
            collection = open_store(tmp_path / "work").find(match)
            sides = collection.tally().matches[match]
            assert {sides.left.settings.pair, sides.right.settings.pair} == {None, run}
            assert collection.tally().votes[match].choice == "left"

            open_tab(page, "Scoreboard")
            page.locator("#board-level").get_by_text("Runs").click()
            expect(page.locator("#board")).to_contain_text(f"({run[-6:]})")
            keep(page, "scoreboard-1440")
            open_tab(page, "Compare")
            page.locator("#chats-pair input").click()
            expect(page.locator("[role=option]")).to_have_count(2)
            assert problems == []


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("fake"), program=("-m", "tests.vote_server")) as running:
        yield running


@pytest.fixture(scope="module")
def client(fake, tmp_path_factory):
    made = Client(fake.url, download_files=str(tmp_path_factory.mktemp("got")), verbose=False)
    yield made
    made.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_and_the_look_is_kept_for_people(browser, fake, theme):
    problems: list[str] = []
    with visit(browser, f"{fake.url}/?__theme={theme}", problems) as page:
        open_tab(page, "Vote")
        for size in (WIDE, MEDIUM, NARROW):
            page.set_viewport_size(size)
            keep(page, f"vote-setup-{size['width']}-{theme}")
        page.locator("#vote-start").click()
        press(page, "2")
        for size in (WIDE, MEDIUM, NARROW):
            page.set_viewport_size(size)
            keep(page, f"vote-match-{size['width']}-{theme}")
        open_tab(page, "Scoreboard")
        expect(page.locator(".scoreboard")).to_be_visible()
        for size in (WIDE, MEDIUM, NARROW):
            page.set_viewport_size(size)
            keep(page, f"scoreboard-{size['width']}-{theme}")
        problems.clear()


def test_keys_and_buttons_answer_and_typing_does_not(browser, fake):
    with visit(browser, fake.url) as page:
        open_tab(page, "Vote")
        page.locator("#vote-voter input, #vote-voter textarea").fill("Ada 10s")
        page.locator("#vote-start").click()
        first = shown(page)
        page.get_by_text("What is compared").click()
        field = page.locator("#vote-voter input, #vote-voter textarea")
        field.press("1")
        field.press("s")
        assert shown(page) == first
        page.locator(".arena-prompt").click()
        assert press(page, "0") == first
        expect(page.locator("#vote-told")).to_contain_text("Last match: you chose neither")
        page.keyboard.press("u")
        expect(page.locator("#vote-told")).to_contain_text("Taken back: neither")
        assert shown(page) == first
        page.locator(f"{OPEN} img").first.click()
        expect(page.locator("#vote-told")).to_contain_text("Last match: you chose left")
        press(page, "s")
        expect(page.locator("#vote-told")).to_contain_text("Last match: skipped")
        tally = open_store(fake.workspace).named("Votes").tally()
        assert (tally.votes[first].choice, tally.votes[first].voter) == ("left", "Ada 10s")


def test_programs_vote_blind_by_named_endpoints(client, fake):
    contestants = [{"method": "cfg"}, {"method": "chats", "alpha": 0.9}]
    asked = {"contestants": contestants, "collection": "By programs", "voter": "robot"}
    left, right, told = client.predict(**asked, api_name="/vote_next")
    assert set(told) == {"match", "prompt"}
    with Image.open(left) as one, Image.open(right) as other:
        assert not one.info.keys() & {"chats", "parameters"}
        assert one.tobytes() != other.tobytes()
    answer = client.predict(match=told["match"], choice="left", api_name="/vote")
    assert (answer["counted"], answer["num_preferences"], answer["num_missing"]) == (True, 1, 19)
    again = client.predict(match=told["match"], choice="right", api_name="/vote")
    assert (again["counted"], again["choice"]) == (False, "left")
    assert client.predict(match=told["match"], api_name="/vote_undo")["num_preferences"] == 0
    names = [each["name"] for each in client.predict(api_name="/votes_list")]
    assert "By programs" in names
    board = client.predict(api_name="/leaderboard")
    assert "Not enough votes" in board["not_enough"]
    assert json.dumps(board)


@pytest.mark.parametrize(
    ("endpoint", "arguments", "message"),
    [
        ("vote", {"match": "../x", "choice": "left"}, "There is no match '../x'."),
        ("vote", {"match": "0" * 32, "choice": "left"}, "There is no match"),
        ("vote", {"match": "0" * 32, "choice": "both"}, "given: 'both'"),
        ("vote_undo", {"match": ""}, "There is no match ''."),
        ("vote_next", {"contestants": [{"method": "x"}] * 2}, "Unknown method 'x'"),
        ("leaderboard", {"level": "seed"}, "There is no level 'seed'"),
        ("leaderboard", {"judge": "os:system"}, "There is no judge 'os:system'"),
        ("leaderboard", {"collection": "../.."}, "There is no collection of votes '../..'"),
    ],
)
def test_a_mistake_gets_a_clear_message(client, endpoint, arguments, message):
    with pytest.raises(AppError, match=re.escape(message)):
        client.predict(**arguments, api_name=f"/{endpoint}")
