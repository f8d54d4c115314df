"""How a tab's work ends early: Stop, a closed page, a queue that was full."""

from typing import Any

import gradio as gr

from ui.compare.cards import Status, render_status
from ui.tickets import Tickets

STOPPED = "Stopped."


class StoppableRuns:
    """The handlers that end a tab's runs; each answers a status and the Stop button."""

    def __init__(self):
        self._runs = Tickets()

    def halt(self, request: gr.Request) -> tuple[Any, ...]:
        """End this tab's run: at once if it waits, within one step if it runs.

        A run that runs has the last word on its end, and may have said it before this answer is
        there; the page itself says "Stopping" until then.
        """
        is_running = self._runs.stop(session_of(request))
        status = gr.skip() if is_running else render_status(Status("stopped", STOPPED))
        return status, gr.Button(interactive=False)

    def leave(self, request: gr.Request) -> None:
        """End what a tab that is closed or reloaded was doing."""
        self._runs.leave(session_of(request))

    def refuse(self, request: gr.Request) -> tuple[Any, ...]:
        """Say that the request never reached the queue."""
        self._runs.leave(session_of(request))
        text = "The server is busy: its queue is full."
        status = Status("error", text, "Your settings are kept. Try again in a moment.")
        return render_status(status), gr.Button(interactive=False)


def session_of(request: gr.Request) -> str:
    """Return which browser tab asks."""
    return request.session_hash or ""
