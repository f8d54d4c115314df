"""The Vote tab's handlers and what they draw, without a browser and without torch."""

import base64
import json
import random
import re
import struct
from dataclasses import replace

import pytest

from chats.errors import UserError
from chats.generation.png import read_png
from chats.shapes.prompts import pair_specs
from chats.shapes.world import caption
from tests.page_fakes import MODEL, FakeStudio, Visitor, without_pair
from tests.tiny_votes import open_store
from training.votes.pairing import repeated_fields
from ui.vote.cards import MIN_WINNERS, render_match
from ui.vote.desk import VoteDesk
from ui.vote.handlers import View, VoteHandlers
from ui.vote.values import before_after, default_kept, read_asked, read_contestants

RUN = replace(
    MODEL, run="20260101-000000-abcdef", run_title="New pair", pair="20260101-000000-abcdef"
)
KEPT = {**default_kept((MODEL,)), "voter": "Ada"}
TAB, OTHER = Visitor("one"), Visitor("two")


class Page:
    """Handlers around fakes, as a browser's tabs use them."""

    def __init__(self, folder, *, model=MODEL, models=None, repeat_rate=0.0):
        self.studio = FakeStudio(model=model)
        self.store = open_store(folder)
        services = replace(self.studio.services(), votes=self.store)
        self.services = replace(services, models=lambda: models or (model,))
        self.open(repeat_rate)

    def open(self, repeat_rate=0.0):
        """Forget what is in memory, as a server does that is killed."""
        self.desk = VoteDesk(self.services, rng=random.Random(1), repeat_rate=repeat_rate)
        self.handlers = VoteHandlers(self.services, self.store, self.desk)

    def start(self, tab=TAB, kept=KEPT):
        first = self.handlers.begin(kept, tab)
        return [first, *self.fill(tab, kept)]

    def fill(self, tab=TAB, kept=KEPT, seen=""):
        return list(self.handlers.fill(kept, tab, seen=seen))

    def cast(self, match, choice="left", tab=TAB):
        return self.handlers.cast(json.dumps({"match": match, "choice": choice}), KEPT, tab)

    @property
    def collection(self):
        return self.store.named("Votes")


@pytest.fixture
def page(tmp_path):
    return Page(tmp_path)


def match_of(view):
    return re.search('data-match="([0-9a-f]{32})"', view.arena)[1]


def shown(views):
    """The last match that was shown."""
    return [match_of(view) for view in views if view.arena and "data-match" in view.arena][-1]


def sources(html):
    return re.findall('src="data:image/png;base64,([^"]+)"', html)


def chunks(png):
    at, found = 8, []
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append(png[at + 4 : at + 8])
        at += length + 12
    return set(found)


# What is wrong is said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"contestants": "all"}, "contestants must be a list"),
        ({"contestants": [{"method": "cfg"}]}, "at least 2 items"),
        ({"contestants": [{"method": "cfg"}, {"method": "cfg"}]}, "two contestants are the same"),
        ({"contestants": [{"method": "magic"}] * 2}, "Contestant 1: Unknown method 'magic'"),
        ({"contestants": [{"model": "../x"}] * 2}, r"Contestant 1: Unknown model '../x'"),
        ({"contestants": [{"seed": 1}] * 2}, "'seed' is no setting of it"),
        ({"contestants": [{"scale": -1}] * 2}, "scale: .*given: -1"),
        ({"contestants": [{"scale": "much"}] * 2}, "scale: .*given: 'much'"),
        ({"source": "own", "prompts": " \n\x00"}, "Write at least one prompt"),
        ({"source": "own", "prompts": "x" * 3000}, "more than 2,000 characters"),
        ({"source": "own", "prompts": "\n".join(map(str, range(1001)))}, "1,001 prompts"),
    ],
)
def test_a_wrong_question_is_refused_with_what_is_wrong(page, changed, message):
    (view, after) = page.start(kept={**KEPT, **changed})
    for each in (view, after):
        assert each.status.kind == "error"
        assert re.search(message, each.status.text)
    assert page.studio.asked == []


def test_chats_without_a_pair_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="Contestant 2: CHATS needs a preference pair"):
        read_contestants([{"method": "cfg"}, {"method": "chats"}], (without_pair(),))
    assert [each.row.method for each in read_contestants([], (without_pair(),))] == [
        "standard",
        "cfg",
    ]


def test_a_browser_that_kept_nothing_is_told_to_start(page):
    with pytest.raises(UserError, match="press Start voting"):
        read_asked(None, (MODEL,))


def test_a_tab_where_nobody_has_started_stays_as_it_is(page):
    assert page.fill(kept=None) == [View()]
    assert page.studio.asked == []


@pytest.mark.parametrize(
    "pressed",
    ["", "null", "[]", '{"choice": "left"}', '{"match": 7, "choice": "left"}', "[" * 9999],
)
def test_an_answer_that_is_none_is_refused_in_one_line(page, pressed):
    view = page.handlers.cast(pressed, KEPT, TAB)
    assert 'role="alert"' in view.told
    assert view.arena is None


def test_the_answer_to_an_unknown_match_is_refused(page):
    assert "There is no match" in page.cast("0" * 32).told


def test_what_fails_while_pictures_are_made_is_told_and_the_next_try_works(page):
    page.studio.error = RuntimeError("the device is gone")
    assert "the device is gone" in page.start()[-1].status.text
    page.studio.error = None
    assert shown(page.start())


def test_contestants_that_make_the_same_picture_are_told_apart_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.page_fakes.color_of", lambda row: (1, 2, 3))
    page = Page(tmp_path)
    assert "make the same picture" in page.start()[-1].status.text
    assert page.collection.tally().matches == {}


def test_pictures_that_were_stopped_leave_no_match(page):
    page.studio.stop_after = 2
    assert page.start()[-1].status.kind == "stopped"
    assert page.collection.tally().matches == {}


# Blind


def test_nothing_on_the_page_depends_on_the_sides_but_the_pixels(page):
    """A match and its mirror: the same page, with the two pictures exchanged."""
    page.start()
    match = next(iter(page.collection.tally().matches.values()))
    mirrored = match.model_copy(
        update={
            "left": match.right,
            "right": match.left,
            "left_picture": match.right_picture,
            "right_picture": match.left_picture,
        }
    )
    one, other = (render_match(each, page.collection) for each in (match, mirrored))
    left, right = sources(one)
    assert left != right
    assert other == one.replace(left, "*").replace(right, left).replace("*", right)
    relabelled = match.model_copy(update={"left": match.right, "right": match.left})
    assert render_match(relabelled, page.collection) == one


def test_served_pictures_are_pixels_alone_and_kept_ones_hold_their_settings(page):
    page.start()
    match = next(iter(page.collection.tally().matches.values()))
    for source in sources(render_match(match, page.collection)):
        assert chunks(base64.b64decode(source)) <= {b"IHDR", b"IDAT", b"IEND"}
    for side in ("left", "right"):
        config = read_png(page.collection.picture(getattr(match, f"{side}_picture")))
        assert config.rows[0].method == getattr(match, side).row.method
        assert config.rows[0].seed == match.seed
        assert config.prompt == match.prompt


def test_both_pictures_of_one_base_come_from_one_call(page):
    page.start()
    assert {len(config.rows) for config in page.studio.asked} == {2}
    assert len({row.seed for row in page.studio.asked[0].rows}) == 1


def test_pictures_of_two_pairs_are_both_there_before_either_is_shown(tmp_path):
    models = (MODEL, RUN)
    page = Page(tmp_path, models=models)
    old, new = before_after(RUN.run, models)
    kept = {**KEPT, "contestants": [old, {**new, "alpha": 0.9}]}  # the fakes paint by α
    views = [page.handlers.begin(kept, TAB)]
    for view in page.handlers.fill(kept, TAB):
        views.append(view)
        if view.arena and "data-match" in view.arena:
            assert len(page.studio.asked) == 2
    assert {config.pair for config in page.studio.asked} == {None, RUN.run}
    match = next(iter(page.collection.tally().matches.values()))
    assert {match.left.name("run"), match.right.name("run")} == {"Embedded", "New pair (abcdef)"}


def test_the_side_of_a_method_is_a_fair_coin(tmp_path):
    """Of 40 matches made through the page, CFG is left in 20 ± 4·√10."""
    page = Page(tmp_path)
    asked = read_asked({**KEPT, "source": "own", "prompts": "a star"}, (MODEL,))
    for _ in range(40):
        list(page.desk.make(page.collection, asked.ballot, Ticket()))
    matches = page.collection.tally().matches.values()
    lefts = sum(match.left.row.method == "cfg" for match in matches)
    assert abs(lefts - 20) < 4 * 10**0.5


class Ticket:
    """A ticket that nobody sets."""

    def is_set(self):
        return False


# Voting


def test_an_answer_is_kept_at_once_and_the_next_match_is_there(page):
    first = shown(page.start())
    view = page.cast(first, "right")
    assert match_of(view) != first
    assert "Last match: you chose right" in view.told
    assert "CFG" in view.told
    assert "CHATS" in view.told
    assert page.collection.tally().votes[first].voter == "Ada"
    assert len(page.collection.dataset().rows()) == 1


def test_one_match_is_made_ahead_and_no_more(page):
    page.start()
    for _ in range(3):
        page.fill()
    assert len(page.studio.asked) == 2
    page.start(tab=OTHER)
    assert len(page.collection.tally().matches) == 3


def test_a_match_that_the_tab_shows_is_not_sent_again(page):
    match = shown(page.start())
    assert [view.arena for view in page.fill(seen=match)] == [None, None]


def test_two_tabs_see_two_matches_and_a_double_answer_counts_once(page):
    first = shown(page.start())
    second = shown(page.start(tab=OTHER))
    assert first != second
    page.cast(first, "left")
    again = page.cast(first, "right", tab=OTHER)
    assert "had been answered already: left" in again.told
    assert match_of(again) == second
    assert page.collection.tally().votes[first].choice == "left"


def test_a_reload_shows_the_same_match_and_makes_nothing_anew(page):
    match = shown(page.start())
    page.handlers.leave(TAB)
    view = page.handlers.resume(KEPT, OTHER, wanted=match)
    assert match_of(view) == match
    page.fill(tab=OTHER)
    assert len(page.studio.asked) == 2


def test_a_killed_server_takes_the_answer_to_what_it_had_shown(page):
    match = shown(page.start())
    page.open()
    view = page.cast(match)
    assert "Last match: you chose left" in view.told
    assert match_of(view) != match
    assert len(page.studio.asked) == 2


def test_undo_brings_the_match_back_and_takes_its_preference_out(page):
    match = shown(page.start())
    page.cast(match)
    view = page.handlers.undo(json.dumps({"cast": match}), KEPT, TAB)
    assert match_of(view) == match
    assert "Taken back: left" in view.told
    assert page.collection.dataset().rows() == []
    assert "no vote of yours" in page.handlers.undo("", KEPT, TAB).told


def test_undo_after_a_reload_is_about_the_last_vote_of_the_same_person(page):
    first = shown(page.start())
    page.cast(first)
    other = {**KEPT, "voter": "Bob"}
    assert "no vote of yours" in page.handlers.undo("{}", other, OTHER).told
    assert match_of(page.handlers.undo("{}", KEPT, OTHER)) == first


def test_a_repetition_is_said_after_the_answer(page):
    first = shown(page.start())
    page.cast(first, "left")
    match = page.collection.tally().matches[first]
    for choice, said in (("left", "answered the same"), ("tie", "answered otherwise")):
        fields = repeated_fields(match, random.Random(0))
        again = page.collection.add_match(**fields)
        mirrored = again.left_picture != match.left_picture
        answer = {"left": "right" if mirrored else "left"}.get(choice, choice)
        assert said in page.cast(again.id, answer).told
    assert len(page.collection.dataset().rows()) == 1


def test_repetitions_come_at_their_rate(tmp_path):
    page = Page(tmp_path, repeat_rate=1.0)
    match = shown(page.start())
    for _ in range(12):
        view = page.cast(match)
        match = match_of(view) if "data-match" in view.arena else shown(page.fill())
    repeats = [each.repeats for each in page.collection.tally().matches.values() if each.repeats]
    assert len(repeats) > 1
    assert len(set(repeats)) == len(repeats)


def test_the_grammar_gives_prompts_that_no_test_uses(page):
    page.start()
    specs = pair_specs()
    expected = {caption(next(specs)) for _ in range(2)}
    assert {match.prompt for match in page.collection.tally().matches.values()} == expected


def test_the_button_says_how_many_votes_a_training_lacks(page, monkeypatch):
    with pytest.raises(UserError, match=f"{MIN_WINNERS} more preferences needed"):
        page.handlers.data_to_train(KEPT, TAB)
    for module in ("cards", "handlers"):
        monkeypatch.setattr(f"ui.vote.{module}.MIN_WINNERS", 3)
    match = shown(page.start())
    for k in range(3):
        view = page.cast(match, "left" if k % 2 else "right")
        match = match_of(view) if "data-match" in view.arena else shown(page.fill())
    *_, count, train = view.updates()
    assert (train.interactive, train.value) == (
        True,
        "Train on these votes (3 preferences)",
    )
    assert "3 votes" in count
    assert page.handlers.data_to_train(KEPT, TAB) == page.collection.dataset().id


def test_before_and_after_is_the_old_pair_against_the_new_one():
    old, new = before_after(RUN.run, (MODEL, RUN))
    assert (old["method"], old["model"], new["model"]) == ("chats", MODEL.id, RUN.run)
    old, _ = before_after(RUN.run, (without_pair(), RUN))
    assert old["method"] == "cfg"
    for wrong in (MODEL.id, "../x"):
        with pytest.raises(UserError):
            before_after(wrong, (MODEL, RUN))


def test_markup_in_prompts_and_names_is_shown_as_text(tmp_path):
    page = Page(tmp_path, model=replace(MODEL, pair="<i>pair</i>"))
    kept = {**KEPT, "source": "own", "prompts": "<b>bold</b>"}
    match = shown(page.start(kept=kept))
    view = page.handlers.cast(json.dumps({"match": match, "choice": "left"}), kept, TAB)
    assert "<b>bold" not in view.arena
    assert "&lt;b&gt;bold" in view.arena
    assert "<i>" not in view.told
