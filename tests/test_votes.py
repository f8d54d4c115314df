"""The store of votes: what is refused, what is kept, and what a kill may not take."""

import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from tests.tiny_votes import BALLOT, CFG, CHATS, add_match, make_contestant, open_store
from training.preferences import read_pairs
from training.votes import Contestant
from training.votes.pairing import Ballot, next_pairing, next_repeat, repeated_fields

ROOT = Path(__file__).parents[1]
HOSTILE = ["", "x", "..", "../../etc/passwd", "0" * 31, "g" * 32, "0" * 32 + "\n", None, 7, ["x"]]


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


@pytest.fixture
def collection(store):
    return store.named("Votes")


@pytest.fixture
def match(collection):
    return add_match(collection)


def rows(collection):
    dataset = collection.dataset()
    return dataset.rows() if dataset else []


# What is refused


@pytest.mark.parametrize("match_id", [*HOSTILE, "0" * 32])
def test_the_vote_of_an_unknown_match_is_refused_in_one_line(store, match, match_id):
    with pytest.raises(UserError, match="There is no match") as refused:
        store.find(match_id)
    assert "\n" not in str(refused.value)


def test_a_match_of_another_collection_is_no_match_here(store, match):
    other = store.named("Others")
    for act in (lambda: other.vote(match.id, "left"), lambda: other.undo(match.id)):
        with pytest.raises(UserError, match="There is no match"):
            act()


def test_what_is_no_answer_is_refused_and_leaves_nothing(collection, match):
    with pytest.raises(ValueError, match="choice"):
        collection.vote(match.id, "both")
    assert collection.tally().votes == {}


def test_a_vote_is_taken_back_once(collection, match):
    with pytest.raises(UserError, match="taken back already"):
        collection.undo(match.id)
    collection.vote(match.id, "left")
    collection.undo(match.id)
    with pytest.raises(UserError, match="taken back already"):
        collection.undo(match.id)


def test_contestants_that_would_paint_the_same_are_refused():
    twin = make_contestant("cfg", alpha=0.9)  # CFG has no α
    with pytest.raises(ValueError, match="two contestants are the same: CFG"):
        Ballot(contestants=(CFG, twin))


def test_a_damaged_file_is_named_and_left_alone(store, collection, match):
    path = collection.folder / "votes.jsonl"
    damaged = path.read_bytes() + b'{"kind": "vote"}\n'
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"votes.jsonl is damaged at byte \d+"):
        collection.vote(match.id, "left")
    assert path.read_bytes() == damaged


def test_a_collection_that_was_deleted_takes_no_votes(collection, match):
    (collection.folder / "collection.json").unlink()
    with pytest.raises(UserError, match="no collection of votes"):
        collection.vote(match.id, "left")


def test_a_full_disk_is_told_and_the_vote_does_not_count(collection, match, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.votes.collection.append_line", refuse)
    with pytest.raises(UserError, match=r"No space left on device\. Free some space"):
        collection.vote(match.id, "left")
    assert collection.tally().votes == {}


# What a vote leaves


def test_a_vote_with_a_winner_is_a_preference_at_once(collection, match):
    cast = collection.vote(match.id, "right", voter="Ada")
    assert (cast.is_new, cast.vote.choice) == (True, "right")
    (row,) = rows(collection)
    dataset = collection.dataset()
    assert dataset.picture(row.chosen_file_name).read_bytes() == (
        collection.picture(match.right_picture).read_bytes()
    )
    told = json.loads(row.provenance)
    assert Contestant.model_validate(told["chosen"]) == match.right
    assert Contestant.model_validate(told["rejected"]) == match.left
    assert (told["voter"], told["seed"], told["match"]) == ("Ada", match.seed, match.id)
    assert dataset.record().origin.startswith("votes")


def test_training_reads_what_was_voted(collection):
    for _ in range(3):
        collection.vote(add_match(collection).id, "left")
    pairs = read_pairs(collection.dataset().folder)
    assert len(pairs) == 3


@pytest.mark.parametrize("choice", ["tie", "skip"])
def test_an_answer_without_a_winner_is_kept_and_no_preference(store, collection, match, choice):
    collection.vote(match.id, choice)
    assert rows(collection) == []
    assert open_store(store.folder.parent).find(match.id).tally().votes[match.id].choice == choice


def test_the_first_of_two_answers_counts_and_the_second_learns_which(collection, match):
    collection.vote(match.id, "left", voter="one tab")
    second = collection.vote(match.id, "right", voter="another")
    assert (second.is_new, second.vote.choice, second.vote.voter) == (False, "left", "one tab")
    assert len(rows(collection)) == 1


def test_undo_takes_the_preference_out_and_the_match_is_open_again(collection, match):
    collection.vote(match.id, "left")
    collection.undo(match.id)
    assert rows(collection) == []
    assert collection.tally().open_matches(BALLOT.key) == [match]
    collection.vote(match.id, "right")
    (row,) = rows(collection)
    assert json.loads(row.provenance)["side"] == "right"
    lines = (collection.folder / "votes.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == ["match", "vote", "stored", "undo", "stored", "vote", "stored"]


def test_a_repeated_match_is_no_second_preference(collection, match):
    collection.vote(match.id, "left")
    again = collection.add_match(**repeated_fields(match, random.Random(1)))
    collection.vote(again.id, "left")
    assert len(rows(collection)) == 1
    assert collection.tally().num_winners == 1


def test_a_deleted_data_set_comes_back_whole_with_the_next_vote_and_not_before(store, collection):
    datasets = collection._datasets
    for _ in range(2):
        collection.vote(add_match(collection).id, "left")
    datasets.delete(collection.dataset().id)
    collection.mend()
    assert collection.dataset() is None
    collection.vote(add_match(collection).id, "left")
    assert len(rows(collection)) == 3


def test_a_row_that_a_person_dropped_stays_out(collection):
    first, second = (add_match(collection) for _ in range(2))
    for match in (first, second):
        collection.vote(match.id, "left")
    collection.dataset().edit("drop", rows=[1])
    collection.mend()
    assert [row.row for row in rows(collection)] == [2]
    collection.undo(first.id)
    assert [row.row for row in rows(collection)] == [2]


def test_a_name_finds_its_collection_again_whatever_its_case(store, collection):
    assert store.named("  votes ").id == collection.id
    assert store.named("").id == collection.id
    assert store.named("Other\x00 ones").record().name == "Other ones"


# What is asked next


def draw(collection, number, *, seed=0, ballot=BALLOT):
    rng = random.Random(seed)
    tally = collection.tally()
    return [next_pairing(tally, ballot, rng) for _ in range(number)]


def test_sides_are_a_fair_coin_that_forgets(collection):
    """Of 4000 draws 2000 ± 4·√1000 show CFG on the left; so do runs change side."""
    lefts = [pairing.left == CFG for pairing in draw(collection, 4000)]
    assert abs(sum(lefts) - 2000) < 4 * 1000**0.5
    changes = sum(one != other for one, other in itertools.pairwise(lefts))
    assert abs(changes - 2000) < 4 * 1000**0.5


def test_a_repeat_draws_its_sides_anew(match):
    rng = random.Random(3)
    kept = sum(repeated_fields(match, rng)["left"] == match.left for _ in range(1000))
    assert abs(kept - 500) < 4 * 250**0.5


def test_those_who_met_least_often_meet_next(collection):
    third = make_contestant("chats", alpha=1.0)
    ballot = Ballot(contestants=(CFG, CHATS, third))
    rng = random.Random(0)
    matches = [add_match(collection, ballot=ballot, rng=rng) for _ in range(9)]
    met = [frozenset((match.left.title, match.right.title)) for match in matches]
    assert sorted(met.count(each) for each in set(met)) == [3, 3, 3]


def test_prompts_of_the_grammar_never_come_twice_and_those_of_a_list_in_turn(collection):
    grammar = Ballot(contestants=(CFG, CHATS))
    drawn = [add_match(collection, ballot=grammar).prompt for _ in range(20)]
    assert len(set(drawn)) > 15  # the grammar says few things in two ways
    listed = [add_match(collection).prompt for _ in range(4)]
    assert listed == [*BALLOT.prompts, *BALLOT.prompts]


def test_pictures_are_shown_again_later_and_once(collection):
    rng = random.Random(0)
    for _ in range(8):
        collection.vote(add_match(collection).id, "left")
    tally = collection.tally()
    early = list(tally.matches)[:3]
    drawn = {next_repeat(tally, BALLOT, rng, rate=1.0).id for _ in range(50)}
    assert drawn == set(early)
    collection.add_match(**repeated_fields(tally.matches[early[0]], rng))
    again = collection.tally()
    assert early[0] not in {next_repeat(again, BALLOT, rng, rate=1.0).id for _ in range(50)}
    assert next_repeat(again, BALLOT, rng, rate=0.0) is None


def test_a_contestant_without_a_pair_has_none_whatever_it_was_chosen_with():
    config = GenerationConfig(rows=(Row(method="cfg"),), pair="20260101-000000-abcdef")
    made = Contestant.of(config, pair_title="Run of yesterday")
    assert (made.settings.pair, made.name("run")) == (None, "Base model")


# Kills and crowds


def test_a_kill_between_touches_of_the_disk_loses_no_vote_that_was_answered(tmp_path):
    workspace, folder = tmp_path / "workspace", tmp_path / "children"
    folder.mkdir()
    collection = open_store(workspace).named("Votes")
    first, second = (add_match(collection) for _ in range(2))
    command = [sys.executable, "-m", "tests.kill_votes", str(workspace), str(folder)]
    subprocess.run([*command, first.id, second.id], check=True, cwd=ROOT, timeout=120)
    children = [each for each in folder.iterdir() if each.is_dir()]
    assert len(children) > 10
    for child in children:
        said = (folder / f"{child.name}.said").read_text().split()
        found = open_store(child).find(first.id)
        found.mend()
        votes = found.tally().votes
        assert ("second" in said) <= (second.id in votes)
        assert ("first" in said and "second" not in said) <= (first.id in votes)
        assert ("undone" in said) <= (first.id not in votes)
        named = [json.loads(row.provenance)["match"] for row in rows(found)]
        assert sorted(named) == sorted(votes), child.name
        stores = found._datasets.summaries()
        assert len(stores) <= 1


def test_two_processes_vote_at_once_and_every_match_counts_once(tmp_path, collection):
    matches = [add_match(collection).id for _ in range(12)]
    context = multiprocessing.get_context("spawn")
    voters = [
        context.Process(target=_vote_all, args=(tmp_path, matches, who)) for who in ("one", "two")
    ]
    for voter in voters:
        voter.start()
    for voter in voters:
        voter.join(60)
    assert [voter.exitcode for voter in voters] == [0, 0]
    assert set(collection.tally().votes) == set(matches)
    named = [json.loads(row.provenance)["match"] for row in rows(collection)]
    assert sorted(named) == sorted(matches)


def test_a_line_that_a_power_cut_left_unfinished_is_cut_off(collection, match):
    with (collection.folder / "votes.jsonl").open("a") as file:
        file.write('{"kind": "vo')
    assert collection.tally().votes == {}
    collection.vote(match.id, "left")
    assert len(open_store(collection.folder.parents[1]).find(match.id).tally().votes) == 1


def test_a_thousand_votes_leave_a_vote_fast(collection, match):
    lines = "".join(
        match.model_copy(update={"id": f"{k:032x}"}).model_dump_json()
        + "\n"
        + f'{{"kind":"vote","match":"{k:032x}","choice":"tie","voter":"",'
        + '"when":"2026-01-01T00:00:00Z"}\n'
        for k in range(1000)
    )
    with (collection.folder / "votes.jsonl").open("a") as file:
        file.write(lines)
    collection.tally()
    started = time.process_time()
    collection.vote(match.id, "left")
    assert time.process_time() - started < 0.5


def _vote_all(workspace: Path, matches: list[str], who: str) -> None:
    os.nice(5)
    store = open_store(workspace)
    for match_id in matches:
        store.find(match_id).vote(match_id, "left", voter=who)
