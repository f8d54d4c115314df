"""What happens when a person acts in the Alpha lab; values in, component updates out."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from chats.errors import UserError
from chats.models.choices import ModelChoice
from chats.pairs.recommended import keep_recommended, recommended_setting
from chats.sweeps.config import SweepConfig
from chats.sweeps.plan import Cell
from chats.sweeps.store import SweepEntry
from ui.compare.cards import Status, render_status
from ui.compare.form import ALPHA_RANGE, SCALE_RANGE
from ui.compare.values import find_model
from ui.forms.form import Marks
from ui.lab.cards import render_cell, render_cost, render_grid, render_verdict
from ui.lab.downloads import DOWNLOADS
from ui.lab.form import SHARED, LabForm, first_sweep
from ui.lab.plot import render_scores
from ui.lab.preparing import PreparedSweep, prepare
from ui.lab.shown import Shown, look_at
from ui.lab.sweeping import SweepView, follow_sweep
from ui.services import Services
from ui.stopping import StoppableRuns, session_of
from ui.told import told

NOTHING_CHOSEN = "Choose a cell first: one that has a picture."
_NUM_SHOWN = 8
SKIPPED = (gr.skip(),) * _NUM_SHOWN


class LabHandlers(StoppableRuns):
    """The tab's actions; the sweep itself is on the disk, so a reload loses nothing."""

    def __init__(self, services: Services, form: LabForm):
        self._services, self._lab, self._form = services, services.lab, form
        super().__init__()

    def preview(self, model: str, *values: Any) -> tuple[Any, ...]:
        """Answer a change of the form: what is wrong, and what it costs."""
        prepared = self.prepare(model, values)
        settings = self._form.settings
        marks = Marks(problems=prepared.problems, changed={})
        return (
            *settings.render_notes(marks),
            *settings.update_folds(marks),
            render_cost(prepared),
        )

    def prepare(self, model: str, values: Sequence[Any]) -> PreparedSweep:
        """Judge the form."""
        inputs = dict(zip(self._form.settings.inputs, values, strict=True))
        return prepare(self._services, self._form, inputs, model=model)

    def begin(self, request: gr.Request) -> tuple[Any, ...]:
        """Answer a press of Start at once, and open the way."""
        session = session_of(request)
        num_others = self._runs.num_others(session)
        self._runs.begin(session)
        detail = f"Sweeps before yours: {num_others}." if num_others else ""
        text = "In the queue…" if num_others else "Starting…"
        return render_status(Status("busy", text, detail)), gr.Button(interactive=True)

    def run(
        self, request: gr.Request, prompt: Any, seed: Any, model: str, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Make the sweep of the form; the outputs are opened, status, stop, saved, and shown."""
        session = session_of(request)
        ticket = self._runs.start(session)
        try:
            prepared = self.prepare(model, values)
            if prepared.config is None or prepared.obstacle:
                status = render_status(Status("error", prepared.all_problems))
                yield (gr.skip(), status, gr.Button(interactive=False), gr.skip(), *SKIPPED)
                return
            inputs = dict(zip(self._form.settings.inputs, values, strict=True))
            views = follow_sweep(self._services, prepared.config, ticket=ticket)
            for k, view in enumerate(views):
                name = view.folder.path.name if view.folder else ""
                saved = {"inputs": inputs, "model": model, "opened": name} if k == 0 else None
                yield self._update(view, saved=saved, prompt=prompt, seed=seed)
        finally:
            ticket.set()
            self._runs.finish(session, ticket)

    def reopen(self, opened: Any) -> tuple[Any, ...]:
        """Show again what a browser showed before a reload; nothing if it is gone."""
        try:
            return (opened, *drawn(look_at(self._lab.store.open(opened))))
        except UserError:
            return ("", *SKIPPED)

    def look(self, opened: str, prompt: Any, seed: Any, cell: Any) -> tuple[Any, ...]:
        """Show a sweep as it is now."""
        shown = self._look(opened, prompt, seed, cell)
        return SKIPPED if shown is None else drawn(shown)

    def entries(self) -> list[tuple[str, str]]:
        """Return the sweeps of the workspace for a menu."""
        return [(_title(entry), entry.name) for entry in self._lab.store.entries()]

    def open(self, name: str) -> tuple[Any, ...]:
        """Fill the form from an earlier sweep and show it."""
        with told(title="Not opened"):
            folder = self._lab.store.open(name)
        config = folder.config
        inputs = self._form.settings.show(config)
        model = self._id_of(config) or gr.skip()
        return (name, model, *inputs.values(), *drawn(look_at(folder)))

    def from_compare(self, model: str, compare: Mapping[str, Any]) -> list[Any]:
        """Fill the form from Compare's; α and s of Compare are among those that are tried."""
        with told():
            choice = find_model(model, self._services.models())
        inputs = self._form.settings.show(_from_compare(compare, choice))
        return [model, *inputs.values()]

    def use(self, opened: str, prompt: Any, seed: Any, cell: Any) -> dict[str, Any]:
        """Return what Compare's form shows for the chosen cell, by the name of its field."""
        with told(title="Not used"):
            shown = self._look(opened, prompt, seed, cell)
            chosen = _chosen(shown)
            _check_range("α", chosen.alpha, ALPHA_RANGE)
            _check_range("s", chosen.scale, SCALE_RANGE)
        config = shown.config
        values = {name: getattr(config, name) or 0 for name in ("width", "height")}
        values |= {
            "alpha": chosen.alpha,
            "scale": chosen.scale,
            "prompt": config.prompts[shown.prompt],
            "negative_prompt": config.negative_prompt,
            "seed": config.seeds[shown.seed],
            "scheduler": chosen.panel.scheduler,
            "interval_start": chosen.panel.interval[0],
            "interval_end": chosen.panel.interval[1],
            "locked": True,
        }
        if chosen.panel.num_steps:
            values["num_steps"] = chosen.panel.num_steps
        model = self._id_of(config)
        return values | ({"model": model} if model else {})

    def ask_to_keep(self, opened: str, prompt: Any, seed: Any, cell: Any) -> str:
        """Say what keeping would change; nothing is changed yet."""
        with told(title="Not kept"):
            shown = self._look(opened, prompt, seed, cell)
            chosen = _chosen(shown)
            folder = self._lab.pair_folder(shown.config.pair)
            before = recommended_setting(folder)
        now = (
            f" It recommends α = {before['alpha']:g}, s = {before['scale']:g} now."
            if len(before) == 2
            else ""
        )
        return (
            f"Keep α = {chosen.alpha:g}, s = {chosen.scale:g} as what the pair {folder.name} "
            f"recommends?{now}"
        )

    def keep(self, opened: str, prompt: Any, seed: Any, cell: Any) -> str:
        """Write the chosen setting into the pair's pair.json."""
        with told(title="Not kept"):
            shown = self._look(opened, prompt, seed, cell)
            chosen = _chosen(shown)
            folder = self._lab.pair_folder(shown.config.pair)
            keep_recommended(folder, scale=chosen.scale, alpha=chosen.alpha)
        return f"The pair recommends α = {chosen.alpha:g}, s = {chosen.scale:g} from now on."

    def download(self, name: str, opened: str, prompt: Any, seed: Any, cell: Any) -> Iterator[str]:
        """Give the sweep that is shown as a file."""
        with told(), tempfile.TemporaryDirectory() as folder:
            shown = self._look(opened, prompt, seed, cell)
            if shown is None:
                raise UserError("There is no sweep yet.")
            yield str(DOWNLOADS[name][1](shown, Path(folder)))

    def _id_of(self, config: SweepConfig) -> str:
        """Return what the page calls a sweep's model with its pair; empty if it is not on offer."""
        for each in self._services.models():
            if (each.name, each.pair) == (config.model, config.pair):
                return each.id
        return ""

    def _look(self, opened: str, prompt: Any, seed: Any, cell: Any) -> Shown | None:
        if not opened:
            return None
        with told(title="Not found"):
            return look_at(self._lab.store.open(opened), prompt=prompt, seed=seed, cell=cell)

    def _update(
        self, view: SweepView, *, saved: Mapping[str, Any] | None, prompt: Any, seed: Any
    ) -> tuple[Any, ...]:
        shown = SKIPPED
        if view.folder is not None:
            shown = drawn(look_at(view.folder, prompt=prompt, seed=seed))
        return (
            gr.skip() if view.folder is None else view.folder.path.name,
            render_status(view.status),
            gr.Button(interactive=view.is_running),
            gr.skip() if saved is None else saved,
            *shown,
        )


def drawn(shown: Shown) -> tuple[Any, ...]:
    """Return what changes on the page, in the order of the outputs."""
    config = shown.config
    prompts = [(prompt, k) for k, prompt in enumerate(config.prompts)]
    seeds = [(str(seed), k) for k, seed in enumerate(config.seeds)]
    return (
        gr.Column(visible=True),
        render_verdict(shown),
        render_scores(config, shown.results),
        gr.Dropdown(choices=prompts, value=shown.prompt, visible=len(prompts) > 1),
        gr.Dropdown(choices=seeds, value=shown.seed, visible=len(seeds) > 1),
        render_grid(shown),
        -1 if shown.cell is None else shown.cell,
        render_cell(shown),
    )


def _from_compare(compare: Mapping[str, Any], model: ModelChoice) -> dict[str, Any]:
    start = first_sweep(model)
    settings = start.model_dump(mode="json")
    for name in SHARED & compare.keys():
        is_own = compare[name] == getattr(model, name, None)
        settings[name] = None if is_own else compare[name] or None
    settings |= {
        "prompts": [compare["prompt"].strip()] if (compare.get("prompt") or "").strip() else [],
        "negative_prompt": compare.get("negative_prompt") or "",
        "seeds": [int(compare.get("seed") or 0) + k for k in range(len(start.seeds))],
        "alphas": sorted({*start.alphas, compare["alpha"]}),
        "scales": sorted({*start.scales, compare["scale"]}),
        "num_steps": [compare["num_steps"]] if compare.get("num_steps") else None,
        "schedulers": [compare.get("scheduler") or "default"],
        "intervals": [[compare.get("interval_start", 0), compare.get("interval_end", 1)]],
    }
    return settings


def _chosen(shown: Shown | None) -> Cell:
    if shown is None or shown.chosen is None:
        raise UserError(NOTHING_CHOSEN)
    return shown.chosen


def _check_range(name: str, value: float, ends: tuple[float, float]) -> None:
    low, high = ends
    if not low <= value <= high:
        raise UserError(
            f"Compare's slider for {name} goes from {low:g} to {high:g}; this cell has {value:g}."
        )


def _title(entry: SweepEntry) -> str:
    config = entry.config
    alphas, scales = config.alphas, config.scales
    more = f" and {len(config.prompts) - 1} more" if len(config.prompts) > 1 else ""
    prompt = config.prompts[0] if len(config.prompts[0]) <= 48 else f"{config.prompts[0][:47]}…"
    done = (
        ""
        if entry.num_done == config.num_pictures
        else f", {entry.num_done} of {config.num_pictures} pictures"
    )
    return (
        f"{prompt}{more}: α {min(alphas):g} to {max(alphas):g}, s {min(scales):g} to "
        f"{max(scales):g}{done}"
    )
