"""The list of runs and the head of a run's page as HTML: values in, escaped text out."""

from collections.abc import Sequence
from html import escape

from training.jobs.catalogue import RunEntry
from training.jobs.kinds import KINDS
from training.jobs.summary import JobSummary
from training.scoring.record import RunScore
from ui.runs.words import STATES, accuracy, advice, duration, title_of, when

MAX_LISTED = 50
"""Older runs are folded away."""

EMPTY = (
    '<p class="nothing">No run yet. A training or an evaluation that is started here, or with '
    "<code>python -m training submit</code> in this workspace, appears at once.</p>"
)


def render_list(entries: Sequence[RunEntry], *, title: str) -> str:
    """Draw runs as rows, each of which opens its page; nothing where there is none."""
    if not entries:
        return ""
    shown = "".join(_row(entry) for entry in entries[:MAX_LISTED])
    older = entries[MAX_LISTED:]
    folded = "".join(_row(entry) for entry in older)
    rest = f"<details><summary>{len(older)} older</summary>{folded}</details>" if older else ""
    return f'<section class="runs"><h2>{escape(title)}</h2>{shown}{rest}</section>'


def render_head(entry: RunEntry) -> str:
    """Draw the head of a run's page: what went wrong first, then what it is and how far."""
    summary = entry.summary
    return (
        f'<header class="run-head"><h2>{escape(title_of(entry))}</h2>{_facts(entry)}'
        f"{_vote(entry)}</header>"
        f"{_alarm(summary)}"
        f'<div class="run-now" data-state="{summary.state}" role="status">'
        f'<p class="run-line">{_state(summary)}<span class="numbers">{_progress(entry)}</span></p>'
        f"{_bar(summary)}{_reason(summary)}{_scored(entry.score)}</div>"
    )


def _vote(entry: RunEntry) -> str:
    if not entry.has_pair:
        return ""
    return f'<p><a href="?" data-vote-run="{entry.id}">Vote before/after, blind</a></p>'


def _scored(score: RunScore | None) -> str:
    if score is None:
        return ""
    if score.state == "failed":
        text = f"Its pair could not be scored: {score.message}"
    elif score.chats is None:
        text = f"Its pair is being scored: {score.num_done} of {score.num_pictures} pictures."
    else:
        text = (
            f"Promises kept on {score.num_prompts} held-out prompts: CHATS {score.chats}%, CFG on "
            f"the base {score.cfg}%; paired difference {score.difference} points "
            f"(s = {score.scale:g}, α = {score.alpha:g}, ± standard error)."
        )
    return f'<p class="reason" data-score="{score.state}">{escape(text)}</p>'


def _row(entry: RunEntry) -> str:
    summary = entry.summary
    said = summary.error or (summary.reason if summary.state == "waiting_for_device" else "")
    return (
        f'<a class="run-row" href="?run={summary.id}" data-run="{summary.id}" '
        f'data-state="{summary.state}">'
        f'<span class="run-what"><strong>{escape(title_of(entry))}</strong>'
        f"<span>{escape(said.partition(chr(10))[0]) or _short_facts(entry)}</span></span>"
        f"{_state(summary)}"
        f'<span class="run-progress">{_bar(summary)}<span>{_row_progress(summary)}</span></span>'
        f'<span class="run-score">{_score(entry)}</span></a>'
    )


def _score(entry: RunEntry) -> str:
    """Draw what its pair scored, or else how well it told pairs apart."""
    if entry.score is not None and entry.score.chats is not None:
        return f"{entry.score.chats}% <span>kept, CFG {entry.score.cfg.mean:.1f}%</span>"
    found = accuracy(entry)
    if found is None:
        return ""
    held_out = " held out" if found[1] else ""
    return f"{100 * found[0]:.0f}% <span>accuracy{held_out}</span>"


def _state(summary: JobSummary) -> str:
    return f'<span class="state" data-state="{summary.state}">{STATES[summary.state]}</span>'


def _bar(summary: JobSummary) -> str:
    return (
        f'<span class="track"><span class="bar" style="width:{100 * summary.progress:.1f}%">'
        "</span></span>"
    )


def _row_progress(summary: JobSummary) -> str:
    if summary.eta_seconds is not None:
        return f"{duration(summary.eta_seconds)} left"
    return _steps(summary)


def _steps(summary: JobSummary) -> str:
    unit = KINDS[summary.kind].unit
    return f"{summary.step:,} of {summary.num_steps:,} {unit}s" if summary.num_steps else ""


def _progress(entry: RunEntry) -> str:
    summary, newest = entry.summary, entry.newest
    parts = [_steps(summary)]
    if summary.eta_seconds is not None:
        parts.append(f"about {duration(summary.eta_seconds)} left")
    if summary.state == "running" and newest.get("pairs_per_second"):
        parts.append(f"{newest['pairs_per_second']:.3g} pairs/s")
    if summary.state == "running" and newest.get("pictures_per_second"):
        parts.append(f"{newest['pictures_per_second']:.3g} pictures/s")
    if summary.state == "running" and newest.get("memory_gb"):
        parts.append(f"{newest['memory_gb']:.1f} GB")
    if summary.ended and summary.started and summary.state == "succeeded":
        parts.append(f"in {duration((summary.ended - summary.started).total_seconds())}")
    return escape(" · ".join(filter(None, parts)))


def _facts(entry: RunEntry) -> str:
    summary = entry.summary
    parts = [summary.id, _data(entry), " ".join(map(_device, summary.devices))]
    if summary.submitted:
        parts.append(f"submitted {when(summary.submitted)}")
    if summary.ended:
        parts.append(f"ended {when(summary.ended)}")
    return f"<p>{escape(' · '.join(filter(None, parts)))}</p>"


def _short_facts(entry: RunEntry) -> str:
    parts = [when(entry.summary.submitted), _data(entry)]
    return escape(" · ".join(filter(None, parts)))


def _data(entry: RunEntry) -> str:
    return f"data {entry.data}" if entry.data else ""


def _device(name: str) -> str:
    return "CPU" if name == "cpu" else name.partition("-")[0].replace("cuda:", "")


def _alarm(summary: JobSummary) -> str:
    if summary.state != "failed":
        return ""
    error = summary.error or "It ended without a word."
    rest = summary.reason.strip()
    more = ""
    if rest and rest != error:
        more = f"<details><summary>All it said</summary><pre>{escape(rest)}</pre></details>"
    return (
        f'<div class="alarm" role="alert"><p><strong>{escape(error)}</strong></p>'
        f"<p>{escape(advice(rest or error, summary.kind))}</p>{more}</div>"
    )


def _reason(summary: JobSummary) -> str:
    if summary.state == "failed" or not summary.reason:
        return ""
    return f'<p class="reason">{escape(summary.reason)}</p>'
