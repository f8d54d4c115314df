"""The Train tab for programs: recipes, a preview of what a training comes to, and its start."""

import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gradio as gr

from chats.errors import UserError
from training.desk import TrainingDesk
from training.hardware import PlacedTraining
from training.recipe import OWN_TO_A_RUN
from ui.told import told
from ui.train.form import FIRST_RECIPE
from ui.train.handlers import start_training
from ui.train.preparing import Preparation, Prepared
from ui.train.starts import Start


class TrainEndpoints:
    """The functions behind the API; errors that a person can mend come as `gr.Error`."""

    def __init__(self, desk: TrainingDesk):
        self._desk = desk
        self._preparation = Preparation(desk)

    def recipes_list(self) -> list[dict[str, Any]]:
        """List the recipes, each with its settings; the rest is as in `python -m training`."""
        return [
            {"name": each.name, "summary": each.summary, "settings": each.settings}
            for each in self._desk.recipes
        ]

    def train_preview(
        self, data: str, recipe: str, settings: dict[str, Any], with_memory: bool
    ) -> dict[str, Any]:
        """Say what a training comes to, and all that stands in its way; nothing is started."""
        with told():
            prepared = self._prepare(data, recipe, settings)
            memory = None
            if with_memory and prepared.config:
                report = self._desk.estimate(prepared.config, prepared.place, threading.Event())
                memory = {
                    **asdict(report),
                    "remedies": list(report.remedies),
                    "total": report.total,
                    "fits": report.fits,
                }
            return {
                "can_start": not prepared.obstacles,
                "obstacles": list(prepared.obstacles),
                "problems": dict(prepared.problems),
                "settings": self._shown(prepared),
                "command": self._command(prepared, recipe),
                "course": asdict(prepared.course) if prepared.course else None,
                "memory": memory,
            }

    def train_start(self, data: str, recipe: str, settings: dict[str, Any]) -> dict[str, str]:
        """Put a training into the queue; gives the id of its run."""
        with told():
            prepared = self._prepare(data, recipe, settings)
            if prepared.problems:
                lines = [f"{name}: {text}" for name, text in prepared.problems.items()]
                raise UserError("\n".join(lines))
            return {"run": start_training(self._desk, prepared)}

    def _prepare(self, data: Any, recipe: Any, settings: Any) -> Prepared:
        start = Start(self._desk.find_recipe(recipe)).settings().model_dump(mode="json")
        return self._preparation.prepare(laid_over(start, settings), data_id=data)

    def _command(self, prepared: Prepared, recipe: str) -> list[str] | None:
        if prepared.config is None:
            return None
        start = self._desk.find_recipe(recipe)
        return self._desk.command(prepared.config, start, prepared.hardware)

    def _shown(self, prepared: Prepared) -> dict[str, Any] | None:
        if prepared.config is None:
            return None
        placed = PlacedTraining.of(prepared.config, prepared.hardware)
        settings = placed.model_dump(mode="json")
        for group, name in OWN_TO_A_RUN:
            settings[group].pop(name)
        return settings


def laid_over(start: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """Lay settings of unknown origin over others, group by group.

    Raises:
        UserError: They are no groups of settings, or say where a run reads or writes.
    """
    if settings is None:
        settings = {}
    if not isinstance(settings, Mapping):
        raise UserError("settings must be groups of settings, such as optimizer: {num_steps: 100}.")
    merged = {group: dict(values) for group, values in start.items()}
    for group, values in settings.items():
        if not isinstance(values, Mapping):
            raise UserError(f"settings.{group} must map names to values (given: {values!r:.80}).")
        for name in values:
            if (group, name) in OWN_TO_A_RUN:
                raise UserError(f"{group}.{name} is set by this server. Leave it out.")
        merged[group] = {**merged.get(group, {}), **values}
    return merged


def add_train_endpoints(desk: TrainingDesk) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = TrainEndpoints(desk)
    with gr.Column(visible=False):
        inputs = {
            "data": gr.Textbox("", label="Id of the data set"),
            "recipe": gr.Textbox(FIRST_RECIPE, label="Recipe"),
            "settings": gr.JSON({}, label="Settings that differ from the recipe, by group"),
        }
        with_memory = gr.Checkbox(False, label="Count the memory too")
        answer = gr.JSON()
    gr.on([], endpoints.recipes_list, None, answer, api_name="recipes_list")
    gr.on(
        [],
        endpoints.train_preview,
        outputs=answer,
        inputs_kwargs={**inputs, "with_memory": with_memory},
        api_name="train_preview",
        api_description="What a training would come to, and what stands in its way.",
        concurrency_id="estimates",
        concurrency_limit=4,
    )
    gr.on(
        [],
        endpoints.train_start,
        outputs=answer,
        inputs_kwargs=inputs,
        api_name="train_start",
        api_description="Put a training into the queue.",
        concurrency_id="train-start",
        concurrency_limit=1,
    )
