"""The columns and the status line as HTML: values in, escaped text out."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from chats.wording import combination
from ui.compare.board import Board, Cell
from ui.compare.methods import METHODS
from ui.services import ModelStatus

HOW_TO_GET_A_PAIR = (
    "CHATS needs a preference pair: one copy of the model tuned on pictures that people liked, one "
    "on those they did not. None is loaded. Train one with <code>python -m training</code>, then "
    "start the page with <code>--pair FOLDER</code>."
)


_CPU_OFFER = (
    '<p class="offers"><button type="button" data-click="chats-use-cpu">Use the CPU</button>'
    '<button type="button" data-open-tab="Runs">Open Runs</button></p>'
)


@dataclass(frozen=True)
class Status:
    """The line above the pictures: what is going on, how far it is, what went wrong."""

    kind: Literal["idle", "busy", "done", "stopped", "error"]
    text: str
    detail: str = ""
    fraction: float | None = None
    notices: tuple[str, ...] = ()
    offers_cpu: bool = False
    """Whether the CPU can do what the GPU, which a training uses, can't now."""


IDLE = Status("idle", "", "Pick an example or write a prompt, then press Generate.")


def render_status(status: Status) -> str:
    """Draw the status line; its height does not change while a run goes on."""
    role = "alert" if status.kind == "error" else "status"
    percent = 100 * (status.fraction if status.fraction is not None else status.kind == "done")
    waiting = " data-waiting" if status.kind == "busy" and status.fraction is None else ""
    notices = "".join(f"<li>{escape(text)}</li>" for text in status.notices)
    return (
        f'<div class="status" data-kind="{status.kind}" role="{role}">'
        f'<div class="track"{waiting}><div class="bar" style="width:{percent:.1f}%"></div></div>'
        f'<p class="status-line"><strong>{_lines(status.text)}</strong>'
        f"<span>{escape(status.detail)}</span></p>"
        + (_CPU_OFFER if status.offers_cpu else "")
        + (f'<ul class="notices">{notices}</ul>' if notices else "")
        + "</div>"
    )


def render_model_status(status: ModelStatus) -> str:
    """Draw the small pill in the header."""
    return f'<p class="pill" data-state="{status.state}" role="status">{escape(status.text)}</p>'


def render_board(board: Board) -> str:
    """Draw one column for each method, with boxes that keep their shape while pictures arrive."""
    columns = "".join(_column(board.of_method(method)) for method in board.methods())
    return (
        f'<div class="board" data-state="{board.state}" data-columns="{len(board.methods())}" '
        f'style="--ratio:{board.width or 1}/{board.height or 1}">{columns}</div>'
    )


def _column(cells: Sequence[Cell]) -> str:
    method, text = cells[0].method, METHODS[cells[0].method]
    several = " data-several" if len(cells) > 1 else ""
    frames = "".join(_frame(cell, title=text.title) for cell in cells)
    if cells[0].state == "missing":
        several, frames = "", f'<div class="frame note"><p>{HOW_TO_GET_A_PAIR}</p></div>'
    return (
        f'<article class="method" data-method="{method}">'
        f'<header class="method-head"><h3>{escape(text.title)}</h3>'
        f"<p>{escape(text.line)}</p></header>"
        f'<div class="pictures"{several}>{frames}</div>'
        f'<footer class="method-foot">{_combined(cells[0])}{_downloads(cells)}</footer></article>'
    )


def _frame(cell: Cell, *, title: str) -> str:
    if not cell.shown:
        return '<div class="frame" data-state="waiting"></div>'
    about = f"seed {cell.seed}: {cell.config.prompt}" if cell.state == "final" else "unfinished"
    return (
        f'<div class="frame" data-state="{cell.state}">'
        f'<img src="{cell.shown}" alt="{escape(f"{title}, {about}"[:300])}" decoding="sync"></div>'
    )


def _combined(cell: Cell) -> str:
    formula, _, proxy = combination(cell.config.rows[0]).partition(", ")
    second = f"<span>{escape(proxy)}</span>" if proxy else ""
    return f'<p class="combined"><span>{escape(formula)}</span>{second}</p>'


def _downloads(cells: Sequence[Cell]) -> str:
    links = "".join(
        f'<a class="save" download="chats_{cell.method}_seed{cell.seed}.png" href="{cell.file}" '
        f'title="Download the picture as a PNG with its settings inside">'
        f"{'Download PNG' if len(cells) == 1 else f'PNG of seed {cell.seed}'}</a>"
        for cell in cells
        if cell.state == "final"
    )
    return f'<p class="saves">{links}</p>'


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in text.splitlines())
