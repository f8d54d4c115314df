"""What the Alpha lab shows as HTML: cost, verdict, grid, one cell; values in, escaped text out."""

import base64
from html import escape
from pathlib import Path

from PIL import Image

from chats.sweeps.plan import panels, pictures
from chats.sweeps.results import CellScore
from chats.sweeps.words import cell_label, panel_label, score_text, verdict
from ui.lab.preparing import PreparedSweep
from ui.lab.shown import Shown
from ui.pictures import display_uri

MAX_PICTURES = 24
"""So many pictures of one cell are shown; the zip has all."""
_THUMBNAIL_PX, _LARGE_PX = 128, 256


def render_cost(prepared: PreparedSweep) -> str:
    """Draw what a sweep comes to, before it is started."""
    if prepared.obstacle:
        return f'<p class="problem" role="alert">{escape(prepared.obstacle)}</p>'
    if prepared.config is None or prepared.cost is None:
        beside = prepared.problems.get("", "")
        text = beside or "Something above can't be used: see the marks."
        return f'<p class="problem" role="alert">{escape(text)}</p>'
    config, found = prepared.config, prepared.cost
    parts = " × ".join(
        part
        for part in (
            _count(len(panels(config)), "grid") if len(panels(config)) > 1 else "",
            f"{len(config.alphas)} α",
            f"{len(config.scales)} s",
            _count(len(config.prompts), "prompt"),
            _count(len(config.seeds), "seed"),
        )
        if part
    )
    text = f"<strong>{_count(found.num_pictures, 'picture')}</strong>: {parts}, in "
    text += f"{_count(found.num_calls, 'call')} of the model."
    if prepared.num_done == found.num_pictures:
        text += " All of them are there already."
    elif prepared.num_done:
        text += f" {prepared.num_done:,} of them are there already."
    if prepared.num_done < found.num_pictures:
        text += f" <span>{_time(prepared.seconds)}</span>"
    return f'<p class="lab-cost">{text}</p>'


def render_verdict(shown: Shown) -> str:
    """Draw which cell is best, in words."""
    what = f"{shown.num_done:,} of {shown.config.num_pictures:,} pictures are made. "
    before = what if shown.num_done < shown.config.num_pictures else ""
    text = escape(before + verdict(shown.config, shown.results))
    return f'<p class="verdict">{text.replace(" = ", "&nbsp;=&nbsp;")}</p>'


def render_grid(shown: Shown) -> str:
    """Draw the pictures of one prompt and seed, a grid of α and s for each panel."""
    images = _images(shown)
    per_panel = len(shown.config.alphas) * len(shown.config.scales)
    grids = []
    for first in range(0, len(shown.results.cells), per_panel):
        scores = shown.results.cells[first : first + per_panel]
        title = panel_label(scores[0].cell, shown.config)
        heading = f"<h3>{escape(title)}</h3>" if title else ""
        grids.append(heading + _grid(shown, scores, first=first, images=images))
    key = (
        '<p class="lab-key"><span data-mark="best">best</span>'
        '<span data-mark="within">within one standard error of it</span></p>'
        if shown.results.best is not None
        else ""
    )
    return "".join(grids) + key


def render_cell(shown: Shown) -> str:
    """Draw all pictures of the chosen cell, each to be downloaded with its settings inside."""
    if shown.cell is None:
        return '<p class="nothing">Choose a cell to see all of its pictures.</p>'
    score = shown.results.cells[shown.cell]
    made = [each for each in pictures(shown.config)[: shown.num_done] if each.cell == shown.cell]
    drawn = "".join(
        _picture(
            shown.folder.picture(each.index),
            f"{shown.config.prompts[each.prompt]}, seed {shown.config.seeds[each.seed]}",
        )
        for each in made[:MAX_PICTURES]
    )
    more = len(made) - MAX_PICTURES
    rest = f'<p class="lab-more">{more} more are in the zip.</p>' if more > 0 else ""
    heading = escape(cell_label(score.cell, shown.config))
    value = escape(score_text(score))
    return (
        f'<h3>{heading}</h3><p class="lab-score">{value}</p>'
        f'<div class="lab-pictures">{drawn}</div>{rest}'
    )


def thumbnail(path: Path, *, size_px: int = _THUMBNAIL_PX) -> str:
    """Write a picture for the eye, small."""
    with Image.open(path) as image:
        image.thumbnail((_LARGE_PX, _LARGE_PX))
        return display_uri(image.convert("RGB"), min_px=size_px)


def _grid(
    shown: Shown, scores: tuple[CellScore, ...], *, first: int, images: dict[int, Path]
) -> str:
    alphas, scales = shown.config.alphas, shown.config.scales
    head = "".join(f'<span class="lab-alpha">α = {alpha:g}</span>' for alpha in alphas)
    body = ""
    for row, scale in enumerate(scales):
        body += f'<span class="lab-scale">s = {scale:g}</span>'
        for column in range(len(alphas)):
            k = row * len(alphas) + column
            body += _cell(shown, scores[k], index=first + k, path=images.get(first + k))
    return (
        f'<div class="lab-scroll"><div class="lab-grid" style="--columns:{len(alphas)}">'
        f"<span></span>{head}{body}</div></div>"
    )


def _cell(shown: Shown, score: CellScore, *, index: int, path: Path | None) -> str:
    is_best, is_within = index == shown.results.best, index in shown.results.within
    mark = "best" if is_best else "within" if is_within else ""
    label = cell_label(score.cell, shown.config)
    text = score_text(score)
    about = ", ".join(part for part in (label, text, "best" if is_best else "") if part)
    image = (
        f'<img src="{thumbnail(path)}" alt="" decoding="sync">'
        if path
        else '<span class="lab-empty"></span>'
    )
    pressed = "true" if index == shown.cell else "false"
    return (
        f'<button type="button" class="lab-cell" data-lab-cell="{index}" data-mark="{mark}" '
        f'aria-pressed="{pressed}" aria-label="{escape(about)}">{image}'
        f"<span>{escape(text) or '&nbsp;'}</span></button>"
    )


def _images(shown: Shown) -> dict[int, Path]:
    wanted = (shown.prompt, shown.seed)
    return {
        each.cell: shown.folder.picture(each.index)
        for each in pictures(shown.config)[: shown.num_done]
        if (each.prompt, each.seed) == wanted
    }


def _picture(path: Path, about: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><img src="{thumbnail(path, size_px=_LARGE_PX)}" alt="{escape(about)}">'
        f'<figcaption>{escape(about)} <a class="save" download="{escape(path.name)}" '
        f'href="data:image/png;base64,{content}">PNG</a></figcaption></figure>'
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "The time is told after the first call."
    if seconds < 90:
        return f"About {max(1, round(seconds))} s, judged by the last sweep of this model."
    return f"About {seconds / 60:.0f} min, judged by the last sweep of this model."


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
