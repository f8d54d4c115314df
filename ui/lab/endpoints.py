"""The Alpha lab for programs: what a sweep costs, the sweep itself, and keeping its setting."""

import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from chats.config import parse_generation_config
from chats.errors import UserError
from chats.pairs.recommended import keep_recommended, recommended_setting
from chats.scoring import SCORERS
from chats.sweeps.config import NO_SCORER, SweepConfig, parse_sweep_config
from chats.sweeps.plan import cost
from chats.sweeps.run import SweepEvent, run_sweep
from chats.sweeps.words import verdict
from ui.compare.values import find_model
from ui.lab.downloads import DOWNLOADS
from ui.lab.form import CHOSEN_ELSEWHERE, first_sweep
from ui.lab.preparing import NO_PAIR
from ui.lab.shown import Shown, look_at
from ui.lab.tab import SWEEPS
from ui.services import Services
from ui.told import told

_MODELS_OWN = tuple(
    name
    for name, field in SweepConfig.model_fields.items()
    if field.default is None and name not in CHOSEN_ELSEWHERE
)
"""Settings that may be none: a program leaves them out, or says 0."""


class LabEndpoints:
    """The functions behind the API; errors that a person can mend come as `gr.Error`."""

    def __init__(self, services: Services):
        self._services, self._lab = services, services.lab

    def alpha_preview(self, model: str, **settings: Any) -> dict[str, Any]:
        """Say what a sweep would cost, and how much of it is there; nothing is started."""
        with told():
            config = self._config(model, settings)
            choice = find_model(model, self._services.models())
            found = cost(config, default_num_steps=choice.num_steps)
            pace = self._lab.store.seconds_per_prediction(config)
            return {
                **asdict(found),
                "num_done": self._lab.store.num_done(config),
                "seconds": None if pace is None else pace * found.num_predictions,
            }

    def alpha_sweep(self, model: str, **settings: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Make a sweep or go on with it; tell each call, then give files and the scores.

        The files are the scores as CSV, the contact sheet, and the pictures as a zip.
        """
        ticket = threading.Event()
        try:
            with told():
                config = self._config(model, settings)
                folder = self._lab.store.create(config)
                judge = self._judge(config)
                events = run_sweep(
                    folder, generate=self._services.generate, judge=judge, cancel=ticket
                )
                for event in events:
                    if event.call is not None:
                        yield [], _progress(event)
                shown = look_at(folder)
                with tempfile.TemporaryDirectory() as place:
                    files = [str(save(shown, Path(place))) for _, save in DOWNLOADS.values()]
                    yield files, _details(shown)
        finally:
            ticket.set()

    def pair_recommend(
        self, model: str, alpha: float, scale: float, is_sure: bool
    ) -> dict[str, Any]:
        """Keep a setting in a pair's pair.json; without is_sure, say what would change."""
        with told():
            row = parse_generation_config({"rows": [{"alpha": alpha, "scale": scale}]}).rows[0]
            choice = find_model(model, self._services.models())
            folder = self._lab.pair_folder(choice.pair)
            before = recommended_setting(folder)
            if is_sure:
                keep_recommended(folder, scale=row.scale, alpha=row.alpha)
            return {
                "kept": bool(is_sure),
                "before": before,
                "after": {"scale": row.scale, "alpha": row.alpha},
            }

    def _config(self, model: str, settings: dict[str, Any]) -> SweepConfig:
        choice = find_model(model, self._services.models())
        own = {name: settings[name] or None for name in _MODELS_OWN if name in settings}
        config = parse_sweep_config({**settings, **own, "model": choice.name, "pair": choice.pair})
        if not choice.has_pair:
            raise UserError(NO_PAIR)
        if config.scorer not in (*SCORERS, NO_SCORER):
            # Other names of scorers run code of their own: they are for the command line.
            known = ", ".join((*SCORERS, NO_SCORER))
            raise UserError(f"Unknown scorer {config.scorer!r:.80}. There are: {known}.")
        return config

    def _judge(self, config: SweepConfig) -> Any:
        return None if config.scorer == NO_SCORER else self._lab.judge(config.scorer)


def add_lab_endpoints(services: Services) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = LabEndpoints(services)
    with gr.Column(visible=False):
        settings = _inputs(services)
        alpha, scale = gr.Number(0.5, label="Proxy strength α"), gr.Number(5, label="Scale s")
        is_sure = gr.Checkbox(False, label="Write it; without, it is only told what would change")
        files, answer = gr.Files(), gr.JSON()
    gr.on(
        [],
        endpoints.alpha_preview,
        outputs=answer,
        inputs_kwargs=settings,
        api_name="alpha_preview",
        api_description=LabEndpoints.alpha_preview.__doc__,
        concurrency_limit=None,
    )
    gr.on(
        [],
        endpoints.alpha_sweep,
        outputs=[files, answer],
        inputs_kwargs=settings,
        api_name="alpha_sweep",
        api_description=LabEndpoints.alpha_sweep.__doc__,
        concurrency_id=SWEEPS,
        concurrency_limit=1,
    )
    gr.on(
        [],
        endpoints.pair_recommend,
        outputs=answer,
        inputs_kwargs={
            "model": settings["model"],
            "alpha": alpha,
            "scale": scale,
            "is_sure": is_sure,
        },
        api_name="pair_recommend",
        api_description=LabEndpoints.pair_recommend.__doc__,
        concurrency_limit=1,
    )


def _inputs(services: Services) -> dict[str, Component]:
    """Make an input for each setting of a sweep, with the start that suits the model."""
    model = services.models()[0]
    start = first_sweep(model).model_dump(mode="json", exclude=set(CHOSEN_ELSEWHERE))
    inputs: dict[str, Component] = {"model": gr.Textbox(model.id, label="Model or run")}
    for name, value in start.items():
        label = SweepConfig.model_fields[name].description
        if name in _MODELS_OWN:
            inputs[name] = gr.JSON(0, label=f"{label} 0 stands for none.")
        elif isinstance(value, str):
            inputs[name] = gr.Textbox(value, label=label)
        elif isinstance(value, int):
            inputs[name] = gr.Number(value, precision=0, label=label)
        else:
            inputs[name] = gr.JSON(value, label=label)
    return inputs


def _progress(event: SweepEvent) -> dict[str, Any]:
    return {
        "num_done": event.num_done,
        "num_pictures": event.num_pictures,
        "eta_seconds": event.eta_seconds,
    }


def _details(shown: Shown) -> dict[str, Any]:
    found = shown.results
    return {
        "sweep": shown.folder.path.name,
        "num_done": shown.num_done,
        "num_pictures": shown.config.num_pictures,
        "num_calls": len(shown.calls),
        "seconds": sum(call.seconds for call in shown.calls),
        "cells": [asdict(score) for score in found.cells],
        "best": found.best,
        "within_one_standard_error": list(found.within),
        "verdict": verdict(shown.config, found),
        "notices": list(dict.fromkeys(text for call in shown.calls for text in call.notices)),
        "settings": shown.config.model_dump(mode="json"),
    }
