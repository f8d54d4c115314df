"""What the Train tab says as HTML: values in, escaped text out."""

import base64
from collections.abc import Sequence
from html import escape

from training.jobs.speeds import Speed
from training.planning.estimate import MemoryReport
from training.recipe import Recipe
from ui.train.preparing import Course, Prepared

_GB = 1e9
HOW_TO_GET_DATA = (
    "There is no data set yet. Bring pairs of pictures in the Data tab, or vote on pictures."
)
COUNTING = "Counting the memory…"
NOT_COUNTED = "The memory is counted once the settings are right."


def recipe_title(name: str) -> str:
    """Name a recipe for people: `Shapes demo`."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def render_recipe(recipe: Recipe, *, left_out: Sequence[str] = ()) -> str:
    """Say what a recipe is for, and what of an uploaded one is not used."""
    if recipe.path is not None:
        return f"<p>{escape(recipe.summary)}</p>"
    text = f"<p>From {escape(recipe.name)}.</p>"
    if left_out:
        names = escape(", ".join(left_out))
        text += f"<p>Not used: {names}. Data is chosen above; a run gets its own folder.</p>"
    return text


def render_rerun(run_id: str, *, has_data: bool) -> str:
    """Say what the form was filled from, and what to do."""
    text = f"<p>As run <code>{escape(run_id)}</code> did it: change what should differ.</p>"
    if not has_data:
        text += '<p class="problem">Its data set is not here. Choose one above.</p>'
    return text


def render_data_note(prepared: Prepared, *, num_data_sets: int) -> str:
    """Say how to get data where there is none."""
    return "" if num_data_sets or prepared.data else f"<p>{escape(HOW_TO_GET_DATA)}</p>"


def render_course(course: Course | None, *, speed: Speed | None) -> str:
    """Draw how far the training goes and how long it takes."""
    if course is None:
        return '<dl class="course" data-unknown></dl>'
    seen = f"{course.num_pairs:,} pairs in {course.num_steps:,} steps of {course.pairs_per_step:,}"
    epochs = "choose a data set first"
    if course.epochs is not None:
        epochs = f"{course.epochs:,.1f} times each of {course.num_different:,} pairs"
    time = "not known: nothing like it has run here yet"
    if course.seconds is not None and speed is not None:
        rate = f"{speed.pairs_per_second:.3g} pairs a second"
        time = f"about {duration(course.seconds)}, at {rate} as in run {speed.run_id}"
    rows = (("It sees", seen), ("That is", epochs), ("Time", time))
    drawn = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows)
    return f'<dl class="course">{drawn}</dl>'


def render_memory(report: MemoryReport, *, num_processes: int = 1) -> str:
    """Draw the memory of one process against what its device has."""
    total, there = gigabytes(report.total), ""
    percent = 0.0
    if report.device_bytes:
        percent = min(100 * report.total / report.device_bytes, 100)
        there = f" of the {gigabytes(report.device_bytes)} of {escape(report.device)}"
    if num_processes > 1:
        there += f", for each of {num_processes} processes"
    advice = ""
    if not report.fits:
        helps = escape(", ".join(report.remedies))
        advice = f'<p class="problem" role="alert">It does not fit. What helps: {helps}.</p>'
    parts = "".join(
        f"<div><dt>{escape(name[:1].upper() + name[1:])}</dt><dd>{gigabytes(size)}</dd></div>"
        for name, size in report.parts.items()
    )
    if report.encoding_bytes:
        size = gigabytes(report.encoding_bytes)
        parts += f"<div><dt>Before that, to encode the data</dt><dd>{size}</dd></div>"
    fits = "true" if report.fits else "false"
    return (
        f'<div class="memory" data-fits="{fits}"><p><strong>{total}</strong>{there}, '
        f"{report.num_trained:,} trained parameters</p>"
        f'<div class="track"><div class="bar" style="width:{percent:.1f}%"></div></div>{advice}'
        f'<details><summary>By part</summary><dl class="parts">{parts}</dl>'
        "<p>What kernels need to work in, and gaps between tensors, come on top.</p>"
        "</details></div>"
    )


def render_memory_line(text: str, *, is_problem: bool = False) -> str:
    """Stand in for the memory while it is not known."""
    kind = ' class="problem" role="alert"' if is_problem else ' class="subdued"'
    return f'<div class="memory"><p{kind}>{escape(text)}</p></div>'


def render_reason(prepared: Prepared) -> str:
    """Say why Start is disabled."""
    return "".join(f"<p>{escape(reason)}</p>" for reason in prepared.obstacles)


def render_files(recipe: str | None) -> str:
    """Offer the recipe for download; it travels inside the page, no file is left here."""
    if recipe is None:
        return '<p class="saves"></p>'
    content = base64.b64encode(recipe.encode("utf-8")).decode("ascii")
    return (
        '<p class="saves"><a class="save" download="recipe.yaml" '
        f'href="data:application/yaml;base64,{content}">Download as a recipe (YAML)</a></p>'
    )


def render_started(run_id: str) -> str:
    """Say what was started and where it is watched."""
    run = escape(run_id)
    link = f'<a href="#" data-open-tab="Runs" data-run="{run}">Watch it in Runs</a>'
    return (
        f'<div class="started" role="status"><p>Run <code>{run}</code> is in the queue. '
        f"{link}</p></div>"
    )


def render_refused(message: str) -> str:
    """Say why a start was refused."""
    return f'<div class="started"><p class="problem" role="alert">{escape(message)}</p></div>'


def gigabytes(num_bytes: int) -> str:
    """Say a size, such as `3.2 GB` (10⁹ bytes)."""
    size = num_bytes / _GB
    return f"{size:.0f} GB" if size >= 100 else f"{size:.1f} GB" if size >= 1 else f"{size:.2f} GB"


def duration(seconds: float) -> str:
    """Say a time, such as `12 minutes` or `3.5 hours`."""
    if seconds < 90:
        return "a minute"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
