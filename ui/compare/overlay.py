"""Two finished pictures laid over each other, with a slider between them."""

from typing import Any

import gradio as gr

from ui.compare.board import Board
from ui.compare.methods import METHODS
from ui.pictures import enlarge, open_uri

PREFERENCE = (("cfg", "chats"), ("standard", "chats"), ("standard", "cfg"))


def overlay_updates(board: Board) -> tuple[Any, Any, Any]:
    """Return what to change: whether the section shows, its words, and its two pictures."""
    if board.state != "done":
        return gr.skip(), gr.skip(), gr.skip()
    finished = {cell.method: cell for cell in reversed(board.cells) if cell.state == "final"}
    for left, right in PREFERENCE:
        if left in finished and right in finished:
            pictures = tuple(enlarge(open_uri(finished[name].file)) for name in (left, right))
            words = overlay_words(METHODS[left].title, METHODS[right].title)
            return gr.Row(visible=True), words, pictures
    return gr.Row(visible=False), gr.skip(), gr.skip()


def overlay_words(left: str, right: str) -> str:
    """Say what lies on which side."""
    return (
        f"<h3>{left} and {right}, one over the other</h3>"
        f"<p>Drag the handle: {left} is on the left of it, {right} on the right. Both started "
        "from the same noise, so what differs is the guidance alone.</p>"
    )
