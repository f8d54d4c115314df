"""What the scoreboard says: who judges, over which votes, telling what apart."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from chats.errors import UserError
from chats.scoring.registry import SCORERS
from chats.statistics import Agreement, NotEnoughVotes
from training.votes import Collection, VoteStore
from training.votes.records import Level
from training.votes.scores import missing_scores, scored_outcomes
from training.votes.standings import Standings, agreement_of, outcomes_of, standings

LEVELS: tuple[Level, ...] = get_args(Level)
PEOPLE = "people"
JUDGES: dict[str, str] = {PEOPLE: "People", **{name: each.label for name, each in SCORERS.items()}}
ALL = ""


@dataclass(frozen=True)
class Board:
    """One view of the votes.

    Attributes:
        standings: ratings and win rates.
        agreement: of votes that were repeated; only people are asked again.
        num_missing: pictures of so many matches that the scorer has not seen yet.
        judge: who judges.
    """

    standings: Standings
    agreement: Agreement | NotEnoughVotes | None
    num_missing: int
    judge: str


def read_board(store: VoteStore, *, level: Any, judge: Any, collection: Any) -> Board:
    """Work out a scoreboard.

    Raises:
        UserError: there is no such level, judge or collection.
    """
    if not isinstance(level, str) or level not in LEVELS:
        raise UserError(f"There is no level {level!r:.60}. There are: {', '.join(LEVELS)}.")
    if not isinstance(judge, str) or judge not in JUDGES:
        raise UserError(f"There is no judge {judge!r:.60}. There are: {', '.join(JUDGES)}.")
    chosen = find_collections(store, collection)
    tallies = [each.tally() for each in chosen]
    judged, num_missing = [], 0
    for each, tally in zip(chosen, tallies, strict=True):
        outcomes = outcomes_of(tally) if judge == PEOPLE else scored_outcomes(each, judge)
        judged += [(tally.matches[match_id], outcome) for match_id, outcome in outcomes.items()]
        num_missing += 0 if judge == PEOPLE else len(missing_scores(each, judge))
    agreed = agreement_of(tallies) if judge == PEOPLE else None
    return Board(standings(judged, level), agreed, num_missing, judge)


def find_collections(store: VoteStore, collection: Any) -> Sequence[Collection]:
    """Return the collection of an id, or all of them for an empty one.

    Raises:
        UserError: there is none.
    """
    known = store.collections()
    if collection in (ALL, None):
        return known
    found = [each for each in known if each.id == collection]
    if not found:
        raise UserError(f"There is no collection of votes {collection!r:.60}.")
    return found


def plain(board: Board) -> dict[str, Any]:
    """Return a scoreboard as plain values for programs."""
    ratings, agreed = board.standings.ratings, board.agreement
    listed = None
    if not isinstance(ratings, NotEnoughVotes):
        listed = [
            {**asdict(each), "elo": dict(zip(("rating", "low", "high"), each.elo, strict=True))}
            for each in ratings.ratings
        ]
    return {
        "level": board.standings.level,
        "judge": board.judge,
        "num_votes": board.standings.num_votes,
        "ratings": listed,
        "not_enough": str(ratings) if listed is None else "",
        "win_rates": [asdict(duel) for duel in board.standings.duels],
        "agreement": asdict(agreed) if isinstance(agreed, Agreement) else None,
        "agreement_not_enough": str(agreed) if isinstance(agreed, NotEnoughVotes) else "",
        "num_not_scored": board.num_missing,
    }
