"""The scoreboard as HTML: ratings with their intervals, win rates, agreement; escaped text out."""

from collections.abc import Sequence
from html import escape

from chats.models.choices import ModelChoice
from chats.statistics import Agreement, NotEnoughVotes, Rating
from training.votes.standings import Duel
from ui.scoreboard.board import JUDGES, PEOPLE, Board

_WHAT = {"method": "Methods", "setting": "Settings", "run": "Runs"}
_MAX_RUNS = 8


def render_board(board: Board) -> str:
    """Draw ratings, or why there are none, then win rates and agreement."""
    found = board.standings
    if isinstance(found.ratings, NotEnoughVotes):
        ranking = f'<p class="not-enough" role="status">{escape(str(found.ratings))}</p>'
    else:
        ranking = _ratings(found.ratings.ratings)
    judge = "" if board.judge == PEOPLE else f", judged by {escape(JUDGES[board.judge])}"
    return (
        f'<div class="scoreboard"><section><h3>{_WHAT[found.level]}{judge}</h3>{ranking}</section>'
        f"{_duels(found.duels)}{_agreement(board.agreement)}</div>"
    )


def render_runs(models: Sequence[ModelChoice]) -> str:
    """Offer each finished run for a blind vote against what was there before."""
    runs = [model for model in models if model.run][:_MAX_RUNS]
    if not runs:
        return ""
    rows = "".join(
        f'<li><span>{escape(run.pair_title)}</span> <a href="?" data-vote-run="{escape(run.run)}">'
        "Vote before/after</a></li>"
        for run in runs
    )
    return f'<section class="runs-to-vote"><h3>Finished trainings</h3><ul>{rows}</ul></section>'


def _ratings(ratings: Sequence[Rating]) -> str:
    low = min(rating.elo[1] for rating in ratings)
    high = max(rating.elo[2] for rating in ratings)
    rows = "".join(_rating(rank, each, low=low, high=high) for rank, each in enumerate(ratings, 1))
    return (
        '<div class="scroll"><table class="ratings"><thead><tr><th></th><th>Name</th>'
        '<th class="number">Rating</th><th>95% interval</th><th class="number">Votes</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
        '<p class="fine">Bradley–Terry with ties, in Elo points around 1000; 400 points are odds '
        "of 10 to 1. Intervals are of a bootstrap over prompts. Where intervals overlap, the order "
        "is not sure.</p>"
    )


def _rating(rank: int, rating: Rating, *, low: float, high: float) -> str:
    value, start, end = rating.elo
    span = max(high - low, 1e-9)
    left, width, at = (100 * each / span for each in (start - low, end - start, value - low))
    return (
        f'<tr><td class="number">{rank}</td><td>{escape(rating.name)}</td>'
        f'<td class="number">{value:.0f}</td><td><span class="interval" '
        f'title="{start:.0f} to {end:.0f}">'
        f'<span style="left:{left:.1f}%;width:{width:.1f}%"></span>'
        f'<b style="left:{at:.1f}%"></b></span><span class="ends">{start:.0f} to {end:.0f}</span>'
        f'</td><td class="number">{rating.num_votes:,}</td></tr>'
    )


def _duels(duels: Sequence[Duel]) -> str:
    if not duels:
        return ""
    rows = "".join(
        f"<tr><td>{escape(duel.first)}</td><td>{escape(duel.second)}</td>"
        f'<td class="number">{100 * duel.rate.rate:.0f}%</td>'
        f'<td class="number">{100 * duel.rate.low:.0f} to {100 * duel.rate.high:.0f}%</td>'
        f'<td class="number">{duel.rate.num_votes:,}</td>'
        f'<td class="number">{duel.rate.num_ties:,}</td></tr>'
        for duel in duels
    )
    return (
        '<section><h3>Win rates</h3><div class="scroll"><table class="ratings"><thead><tr>'
        '<th>Preferred</th><th>to</th><th class="number">how often</th>'
        '<th class="number">95% interval</th><th class="number">n</th>'
        f'<th class="number">ties</th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="fine">Ties count half.</p></section>'
    )


def _agreement(found: Agreement | NotEnoughVotes | None) -> str:
    if found is None:
        return ""
    if isinstance(found, NotEnoughVotes):
        said = str(found)
    else:
        said = (
            f"Shown again, pictures got the same answer in {found.same}; Cohen's κ is "
            f"{found.kappa:.2f} [{found.low:.2f}, {found.high:.2f}]."
        )
    return f'<section><h3>Repeated votes</h3><p class="agreement">{escape(said)}</p></section>'
