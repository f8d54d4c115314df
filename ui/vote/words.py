"""What the line below the pictures says."""

from chats.generation.events import StepEvent
from ui.compare.cards import Status

IDLE = Status("idle", "", "")
READY = Status("done", "", "The next match is ready.")
FULL = Status(
    "error", "The server is busy: its queue is full.", "Your votes are kept. Try again in a moment."
)
STOPPED = Status("stopped", "Stopped.", "Press Start voting to go on.")


def making(event: StepEvent | None, *, is_ahead: bool) -> Status:
    """Say how far the next two pictures are."""
    what = "The next match is being made" if is_ahead else "Making two pictures"
    if event is None:
        return Status("busy", f"{what}…", "")
    detail = f"step {event.step} of {event.num_steps}"
    return Status("busy", what, detail, fraction=event.step / event.num_steps)
