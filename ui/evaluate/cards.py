"""What the Evaluate tab says as HTML: values in, escaped text out."""

from collections.abc import Sequence
from html import escape

from training.evaluate.desk import Cost
from training.jobs.catalogue import RunEntry
from ui.runs.words import STATES, duration

NO_RESULTS = (
    '<p class="nothing">No evaluation yet. What is started here is watched, stopped and '
    "resumed in Runs; its tables come here too.</p>"
)


def render_cost(cost: Cost | None) -> str:
    """Draw what an evaluation would make."""
    if cost is None:
        return '<dl class="course" data-unknown></dl>'
    makes = "as many pictures as the data set has prompts, for each method and seed"
    runs = f"{cost.num_steps} steps for each picture"
    if cost.num_pictures is not None:
        makes = f"{cost.num_pictures:,} pictures of {cost.num_prompts:,} prompts"
        runs = f"{cost.num_forwards:,} predictions, {cost.num_steps} steps for each picture"
    time = "not known: nothing like it has run here yet"
    if cost.seconds is not None:
        time = f"about {duration(cost.seconds)}, at the speed of the last one"
    rows = [("It makes", makes), ("It runs", runs), ("Time", time)]
    if cost.fetched:
        rows.append(("It reads", f"{', '.join(cost.fetched)} from the Hub, if not here yet"))
    drawn = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows)
    return f'<dl class="course">{drawn}</dl>'


def render_obstacles(obstacles: Sequence[str]) -> str:
    """Say why Start is disabled."""
    return "".join(f"<p>{escape(each)}</p>" for each in obstacles)


def render_problem(problem: str) -> str:
    """Draw what is wrong with a setting that stands outside of the form."""
    return f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""


def render_evaluation(entry: RunEntry | None) -> str:
    """Say how a chosen evaluation stands, with the way to its run."""
    if entry is None:
        return NO_RESULTS
    summary = entry.summary
    done = f"{summary.step:,} of {summary.num_steps:,} pictures" if summary.num_steps else ""
    said = " · ".join(filter(None, [done, summary.error or summary.reason]))
    return (
        f'<p class="results-state"><span class="state" data-state="{summary.state}">'
        f'{STATES[summary.state]}</span> <span>{escape(said)}</span> <a href="?run={entry.id}" '
        f'data-run="{entry.id}">Open it in Runs</a></p>'
    )
