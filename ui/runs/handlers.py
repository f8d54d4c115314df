"""What happens when a person acts in the Runs tab; values in, parts of the page out."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from chats.errors import UserError
from training.scoring.record import start_score
from ui.compare.cards import Status, render_status
from ui.runs.view import STARTS, Asked, LogFile, Part, RunsView
from ui.services import RunServices
from ui.told import told
from ui.working import followed, rendered

Seen = Mapping[str, Any]
"""The keys of the parts that a browser shows."""


class RunsHandlers:
    """Answers the tab; nothing is kept here, so any number of tabs may be open."""

    def __init__(
        self, services: RunServices, *, is_offered: Callable[[str], bool], can_rerun: bool = True
    ) -> None:
        """Take the runs.

        Args:
            services: The runs.
            is_offered: Whether Compare can use the pair of a run.
            can_rerun: Whether trainings can be prepared here.
        """
        self._services = services
        self._view = RunsView(services, is_offered=is_offered, can_rerun=can_rerun)

    def open(self, run: str) -> tuple[Asked, dict[str, Any], Seen]:
        """Show a run from its newest state, or the list if there is no such run."""
        asked = Asked(run=run or "")
        changes, seen = self.changes(asked, {})
        return asked, changes, seen

    def changes(self, asked: Asked, seen: Seen) -> tuple[dict[str, Any], Seen]:
        """Return the parts that are not as a browser shows them, and what it shows then."""
        try:
            parts = self._view.parts(asked)
            gone = ""
        except UserError as error:
            parts, gone = self._view.parts(Asked()), str(error)
        parts["place"] = _place(asked.run if gone else "", gone)
        is_page = bool(asked.run and not gone)
        parts["views"] = Part(is_page, lambda: is_page)
        changed = {name: part for name, part in parts.items() if seen.get(name, seen) != part.key}
        known = {**seen, **{name: part.key for name, part in parts.items()}}
        return {name: part.draw() for name, part in changed.items()}, known

    def choices(self, run: str) -> list[tuple[str, str]]:
        """Return the runs that can be laid over one."""
        return self._view.choices(run)

    def act(self, action: str, run: str) -> None:
        """Stop, kill, resume, delete or score a run; a mistake is one line in the corner."""
        console = self._services.console
        doing = {
            "stop": console.stop,
            "kill": console.kill,
            "resume": console.resume,
            "delete": console.delete,
            "score": lambda run: start_score(console.directory(run)),
        }
        with told():
            if action in STARTS and self._services.refusal:
                raise UserError(self._services.refusal)
            doing[action](run)

    def push(self, run: str, repo_id: str, private: bool) -> Iterator[str]:
        """Push a run's pair to the Hub: tell how far it is, then where; a closed page ends nothing.

        The pair is exported first, which takes a while for a large one.
        """
        name = (repo_id or "").strip()
        if not name:
            text = "Write the name of the repository, like owner/name."
            yield render_status(Status("error", text))
            return
        yield render_status(Status("busy", "Exporting the pair…", name))
        try:
            said = yield from rendered(
                followed(
                    lambda on_progress: self._services.push(run, name, bool(private), on_progress),
                    outlives_page=True,
                )
            )
            yield render_status(Status("done", "Pushed.", said))
        except UserError as error:
            yield render_status(Status("error", str(error)))

    def download(self, run: str, file: LogFile) -> Iterator[str]:
        """Give a whole log as a file."""
        with told(), tempfile.TemporaryDirectory() as folder:
            source = self._services.console.log_path(run, file=file)
            copy = Path(folder) / f"{source.parent.name}-{source.name}"
            if not source.is_file():
                raise UserError("There is no log yet.")
            shutil.copyfile(source, copy)
            yield str(copy)


def _place(run: str, error: str) -> Part:
    """Tell the browser that the run it shows is gone."""
    note = f'<p class="run-gone" role="alert">{escape(error)}</p>' if error else ""
    content = f'<span data-gone="{escape(run)}"></span>{note}'
    return Part(content, lambda: content)

