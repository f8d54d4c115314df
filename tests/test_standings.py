"""What votes say of methods, settings and runs: counted by hand; and what scorers add."""

import numpy as np
import pytest

from chats.errors import UserError
from chats.statistics import NotEnoughVotes
from tests.tiny_votes import CFG, CHATS, add_match, make_contestant, open_store
from training.votes.records import Match
from training.votes.scores import missing_scores, score_matches, scored_outcomes
from training.votes.standings import agreement_of, outcomes_of, standings
from ui.scoreboard.board import Board, plain, read_board
from ui.scoreboard.cards import render_board

NEW = make_contestant("chats", pair_title="New <pair>")


def make_match(number: int, *, left=CFG, right=CHATS, prompt: str | None = None) -> Match:
    return Match(
        id=f"{number:032x}",
        made="2026-01-01T00:00:00Z",
        ballot="b",
        prompt=prompt or f"prompt {number}",
        seed=0,
        left=left,
        right=right,
        left_picture="a",
        right_picture="b",
    )


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


@pytest.fixture
def voted(store):
    """Left, right, tie, skip, and a repetition of the first that is answered on the other side."""
    collection = store.named("Votes")
    matches = [add_match(collection) for _ in range(4)]
    for match, choice in zip(matches, ("left", "right", "tie", "skip"), strict=True):
        collection.vote(match.id, choice)
    first = matches[0]
    again = collection.add_match(
        **{
            **{name: getattr(first, name) for name in ("ballot", "prompt", "seed")},
            "left": first.right,
            "right": first.left,
            "left_picture": first.right_picture,
            "right_picture": first.left_picture,
            "repeats": first.id,
        }
    )
    collection.vote(again.id, "right")
    return collection, matches


def test_too_few_votes_get_a_reason_and_no_ranking():
    found = standings([(make_match(k), 1.0) for k in range(3)], "method")
    assert isinstance(found.ratings, NotEnoughVotes)
    assert "they are on 3 prompts; ratings need 20" in str(found.ratings)


def test_a_prompt_counts_once_however_often_it_is_voted_on():
    many = [(make_match(k, prompt="A  Star" if k % 2 else "a star"), k % 2) for k in range(40)]
    found = standings(many, "method")
    assert "they are on 1 prompts" in str(found.ratings)


def test_a_clear_winner_is_first_and_the_win_rate_is_counted():
    judged = [(make_match(k), 0.0 if k % 10 else 1.0) for k in range(40)]
    found = standings(judged, "method")
    assert [each.name for each in found.ratings.ratings] == ["CHATS", "CFG"]
    (duel,) = found.duels
    assert (duel.first, duel.rate.rate, duel.rate.num_votes) == ("CFG", 0.1, 40)
    assert duel.rate.low < 0.1 < duel.rate.high


def test_each_level_tells_apart_what_it_is_about():
    """CHATS of two pairs: one method and one setting, but two runs."""
    judged = [(make_match(k, left=CHATS, right=NEW), k % 2) for k in range(24)]
    for level in ("method", "setting"):
        assert standings(judged, level).num_votes == 0
    runs = standings(judged, "run")
    assert {each.name for each in runs.ratings.ratings} == {"Embedded", "New <pair>"}


def test_skips_and_repetitions_are_no_votes_of_their_own(voted):
    collection, matches = voted
    assert outcomes_of(collection.tally()) == dict(
        zip([match.id for match in matches], (1.0, 0.0, 0.5), strict=False)
    )


def test_agreement_knows_that_the_sides_were_exchanged(voted):
    """Left, then the same picture on the right: the same answer."""
    collection, _ = voted
    tally = collection.tally()
    found = agreement_of([tally] * 12)
    assert "all answers are the same" in str(found)
    assert "needs 10" in str(agreement_of([tally]))


def test_a_scorer_judges_each_voted_match_once_and_what_it_said_stays(voted):
    collection, matches = voted
    asked = []

    def judge(images, prompts):
        asked.extend(prompts)
        return np.array([image.getpixel((0, 0))[0] for image in images], float)

    assert [match.id for match in missing_scores(collection, "clip")] == [
        match.id for match in matches[:3]
    ]
    assert list(score_matches(collection, "clip", judge))[-1] == (3, 3)
    assert len(asked) == 6
    assert scored_outcomes(collection, "clip") == dict.fromkeys([m.id for m in matches[:3]], 0.0)
    assert scored_outcomes(collection, "hps") == {}
    assert list(score_matches(collection, "clip", judge)) == [(0, 0)]


def test_a_board_is_told_to_programs_and_to_people(store, voted):
    board = read_board(store, level="method", judge="people", collection="")
    told = plain(board)
    assert (told["num_votes"], told["ratings"]) == (3, None)
    assert "Not enough votes" in told["not_enough"]
    assert told["win_rates"][0]["rate"]["num_votes"] == 3
    assert "Not enough votes" in render_board(board)
    assert read_board(store, level="run", judge="shapes", collection="").num_missing == 3


@pytest.mark.parametrize(
    "wrong",
    [{"level": "seed"}, {"judge": "os:system"}, {"collection": "../x"}, {"level": ["method"]}],
)
def test_what_is_no_board_is_refused(store, voted, wrong):
    with pytest.raises(UserError, match="There is no"):
        read_board(store, **{"level": "method", "judge": "people", "collection": "", **wrong})


def test_names_are_shown_as_text_and_no_order_where_it_is_not_known(store):
    judged = [(make_match(k, left=CHATS, right=NEW), k % 2) for k in range(24)]
    html = render_board(Board(standings(judged, "run"), None, 0, "people"))
    assert "New &lt;pair&gt;" in html
    assert "<pair>" not in html
    assert html.count('class="interval"') == 2
