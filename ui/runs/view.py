"""What the Runs tab shows of the runs, part by part; a part that did not change is not drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import gradio as gr

from chats.errors import UserError
from training.jobs.catalogue import RunEntry
from training.jobs.summary import Action
from training.scoring.record import can_be_scored
from ui.evaluate.results import read_results, render_results
from ui.runs.cards import EMPTY, render_head, render_list
from ui.runs.curves import MAX_POINTS, MAX_RUNS, RunCurve, render_curves
from ui.runs.logs import TAIL_BYTES, render_matches, render_tail
from ui.runs.samples import SampleBook, nearest_step, steps_of
from ui.runs.settings import render_differences, render_settings
from ui.runs.words import short_title
from ui.services import RunServices

BUTTONS: tuple[Action | Literal["score"], ...] = (
    "resume",
    "stop",
    "kill",
    "score",
    "rerun",
    "delete",
)
"""What a person can press."""

STARTS = frozenset({"resume", "score"})
"""Those that start a process."""

LogFile = Literal["log", "output"]


@dataclass(frozen=True)
class Asked:
    """What a browser wants to see.

    Attributes:
        run: Id of the open run; empty for the list.
        others: Ids of the runs to lay over it.
        smoothing: Weight of the past in the smoothed curves.
        step: Step whose pictures are shown; none or the newest one follows the training.
        file: Which log.
        search: What to find in it; empty shows its end.
    """

    run: str = ""
    others: tuple[str, ...] = ()
    smoothing: float = 0.6
    step: int | None = None
    file: LogFile = "log"
    search: str = ""


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        key: Changes if and only if the part does.
        draw: Makes what is sent to the browser.
    """

    key: Any
    draw: Callable[[], Any]


class RunsView:
    """Draws the list of runs and a run's page."""

    def __init__(
        self, services: RunServices, *, is_offered: Callable[[str], bool], can_rerun: bool
    ) -> None:
        self._is_offered, self._can_rerun = is_offered, can_rerun
        self._console, self._catalogue = services.console, services.catalogue
        self._can_start = not services.refusal
        self._book = SampleBook()

    def parts(self, asked: Asked) -> dict[str, Part]:
        """Return the parts of what is asked for.

        Raises:
            UserError: There is no such run.
        """
        return self._page(asked) if asked.run else self._list()

    def choices(self, run_id: str) -> list[tuple[str, str]]:
        """Return the runs that can be laid over one."""
        entries = self._catalogue.entries()
        return [(short_title(each), each.id) for each in entries if each.id != run_id]

    def _list(self) -> dict[str, Part]:
        entries = self._catalogue.entries()
        active = [entry for entry in reversed(entries) if entry.is_active]  # as they will run
        ended = [entry for entry in entries if not entry.is_active]
        return {
            "active": _text(render_list(active, title="Now") if entries else EMPTY),
            "ended": Part(
                tuple((each.id, each.summary, tuple(each.newest.items())) for each in ended),
                lambda: render_list(ended, title="Ended"),
            ),
        }

    def _page(self, asked: Asked) -> dict[str, Part]:
        entry = self._catalogue.get(asked.run)
        others = self._others(asked)
        is_training = entry.summary.kind == "training"
        return {
            "head": _text(render_head(entry)),
            "buttons": Part(
                (asked.run, entry.summary.state, entry.has_pair, can_score(entry)),
                lambda: self._buttons(entry),
            ),
            "dials": Part(is_training, lambda: gr.Row(visible=is_training)),
            "curves": self._curves(asked, others) if is_training else self._results(entry),
            **self._samples(asked),
            "log": self._log(asked),
            "settings": Part(
                (asked.run, tuple(each.id for each in others)),
                lambda: self._settings(entry, others),
            ),
        }

    def _others(self, asked: Asked) -> list[RunEntry]:
        found = []
        for run_id in dict.fromkeys(asked.others[: MAX_RUNS - 1]):
            try:
                found.append(self._catalogue.get(run_id))
            except UserError:
                continue  # deleted meanwhile
        return [each for each in found if each.id != asked.run]

    def _curves(self, asked: Asked, others: Sequence[RunEntry]) -> Part:
        labels = {asked.run: "this run"} | {each.id: short_title(each) for each in others}
        files = [self._console.directory(run_id).metrics for run_id in labels]
        sizes = tuple(path.stat().st_size if path.exists() else 0 for path in files)

        def draw() -> str:
            curves = [
                RunCurve(label, self._console.metrics(run_id, max_points=MAX_POINTS).rows)
                for run_id, label in labels.items()
            ]
            return render_curves(curves, smoothing=asked.smoothing)

        return Part((tuple(labels), sizes, asked.smoothing), draw)

    def _results(self, entry: RunEntry) -> Part:
        folder = self._console.directory(entry.id).path
        return Part(
            (entry.id, entry.summary.state),
            lambda: render_results(read_results(folder, entry.evaluation)),
        )

    def _samples(self, asked: Asked) -> dict[str, Part]:
        run = self._console.directory(asked.run)
        samples = self._book.samples(run)
        steps = steps_of(samples)
        if not samples:
            return {
                "sample_box": Part(0, lambda: gr.Column(visible=False)),
                "step": Part(None, gr.skip),
                "samples": _text(""),
            }
        newest = steps[-1] if steps else 0
        shown = nearest_step(samples, newest if asked.step is None else asked.step)
        has_choice = len(steps) > 1
        return {
            "sample_box": Part(1, lambda: gr.Column(visible=True)),
            "step": Part(
                (asked.run, tuple(steps)),
                lambda: gr.Slider(
                    minimum=steps[0] if steps else 0,
                    maximum=newest if has_choice else newest + 1,
                    value=shown,
                    visible=has_choice,
                ),
            ),
            "samples": Part(
                (asked.run, len(samples), shown), lambda: self._book.render(run, samples, shown)
            ),
        }

    def _log(self, asked: Asked) -> Part:
        if asked.file == "log" and not self._console.log_path(asked.run).exists():
            asked = replace(asked, file="output")  # it ended before it could say anything itself
        if asked.search.strip():
            return Part(
                (asked.run, asked.file, asked.search),
                lambda: render_matches(
                    self._console.search_log(asked.run, asked.search, file=asked.file),
                    asked.search,
                ),
            )
        path = self._console.log_path(asked.run, file=asked.file)
        size = path.stat().st_size if path.exists() else 0
        return Part(
            (asked.run, asked.file, size),
            lambda: render_tail(
                self._console.log(asked.run, file=asked.file, max_bytes=TAIL_BYTES)
            ),
        )

    def _settings(self, entry: RunEntry, others: Sequence[RunEntry]) -> str:
        if not others:
            return render_settings(entry)
        titles = {each.id: short_title(each) for each in others}
        return render_differences(self._console, entry.id, titles)

    def _buttons(self, entry: RunEntry) -> list[Any]:
        """Return what is there: use its pair, the others in the order of BUTTONS, push its pair."""
        possible: set[str] = set(entry.summary.actions)
        if can_score(entry):
            possible.add("score")
        if not self._can_rerun or entry.config is None:  # only trainings have a form to fill
            possible.discard("rerun")
        if not self._can_start:
            possible -= STARTS
        pressed = [gr.Button(visible=name in possible) for name in BUTTONS]
        can_use = entry.has_pair and self._is_offered(entry.id)
        return [gr.Button(visible=can_use), *pressed, gr.Accordion(visible=entry.has_pair)]


def can_score(entry: RunEntry) -> bool:
    """Whether its pair can be scored now."""
    is_busy = entry.score is not None and entry.score.state == "running"
    return entry.has_pair and not is_busy and can_be_scored(entry.config)


def _text(content: str) -> Part:
    return Part(content, lambda: content)
