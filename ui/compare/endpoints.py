"""The public API: every action of the page as a named endpoint with named parameters."""

import dataclasses
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from chats.config import GenerationConfig
from chats.denoising.methods import needs_pair
from chats.errors import UserError
from chats.generation.events import ImagesEvent, StepEvent
from chats.generation.png import config_of_row, read_png, save_png
from ui.compare.form import shaping_fields
from ui.compare.methods import METHODS, SHOWN_FIRST
from ui.compare.values import build_config, find_model
from ui.services import ModelChoice, Services
from ui.tickets import QUEUE


class Endpoints:
    """The functions behind the API; errors that a person can mend come as `gr.Error`."""

    def __init__(self, services: Services):
        self._services = services

    def compare(self, **settings: Any) -> Iterator[tuple[list[Any], dict[str, Any]]]:
        """Make one picture for each method and seed; tell each step, then give the pictures."""
        yield from self._pictures(settings)

    def generate(self, method: str, **settings: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Make one picture; tell each step, then give it."""
        for files, details in self._pictures({**settings, "methods": [method]}):
            yield (files[0][0] if files else None), details

    def png_info(self, file: str) -> dict[str, Any]:
        """Read the settings inside a PNG."""
        try:
            return read_png(file).model_dump(mode="json")
        except UserError as error:
            raise _shown(error) from None

    def models_list(self) -> list[dict[str, Any]]:
        """List the models on offer, the default one first."""
        return [dataclasses.asdict(model) for model in self._services.models()]

    def _pictures(self, settings: dict[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
        ticket = threading.Event()
        on_cpu = settings.pop("on_cpu", False)
        generate = (on_cpu and self._services.generate_on_cpu) or self._services.generate
        try:
            config = self._config(**settings)
            for event in generate(config, ticket):
                if isinstance(event, StepEvent):
                    yield [], _progress(event)
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    yield _save(event, Path(folder)), _details(event)
        except UserError as error:
            raise _shown(error) from None
        finally:
            ticket.set()

    def _config(self, *, model: str, **settings: Any) -> GenerationConfig:
        choice = find_model(model, self._services.models())
        config = build_config(model=choice, **settings)
        return config.model_copy(update={"preview_every": 0, "missing_pair": "refuse"})


def add_endpoints(services: Services) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = Endpoints(services)
    with gr.Column(visible=False):
        inputs = _inputs(services.models())
        method = gr.Textbox("chats", label="Method")
        methods = gr.JSON(_runnable(services.models()[0]), label="Methods")
        file = gr.File(label="PNG")
        gallery, picture = gr.Gallery(format="png"), gr.Image(format="png", type="filepath")
        details = gr.JSON()
    queue = {"concurrency_id": QUEUE, "concurrency_limit": services.num_at_once}
    gr.on(
        [],
        endpoints.compare,
        outputs=[gallery, details],
        inputs_kwargs={**inputs, "methods": methods},
        api_name="compare",
        api_description="One picture for each method and seed, denoised in lockstep.",
        **queue,
    )
    gr.on(
        [],
        endpoints.generate,
        outputs=[picture, details],
        inputs_kwargs={"method": method, **inputs},
        api_name="generate",
        api_description="One picture.",
        **queue,
    )
    gr.on([], endpoints.png_info, file, details, api_name="png_info")
    gr.on([], endpoints.models_list, None, details, api_name="models_list")


def _inputs(models: Sequence[ModelChoice]) -> dict[str, Component]:
    """The settings that `compare` and `generate` share; 0 stands for the model's own value."""
    default = models[0]
    return {
        "prompt": gr.Textbox(label="Prompt"),
        "alpha": gr.Number(default.alpha, label="Proxy strength α"),
        "scale": gr.Number(default.scale, label="Guidance scale s"),
        "seed": gr.Number(0, precision=0, label="Seed"),
        "negative_prompt": gr.Textbox("", label="Negative prompt"),
        "num_steps": gr.Number(0, precision=0, label="Steps; 0 is the model's own"),
        "width": gr.Number(0, precision=0, label="Width in pixels; 0 is the model's own"),
        "height": gr.Number(0, precision=0, label="Height in pixels; 0 is the model's own"),
        "scheduler": gr.Textbox("default", label="Scheduler"),
        "batch": gr.Number(1, precision=0, label="Seeds in a row"),
        "interval_start": gr.Number(0.0, label="Guidance from this fraction of the steps"),
        "interval_end": gr.Number(1.0, label="Guidance until this fraction of the steps"),
        **shaping_fields(),
        "model": gr.Textbox(default.name, label="Model"),
        "on_cpu": gr.Checkbox(False, label="On the CPU, beside a GPU that is in use"),
    }


def _runnable(model: ModelChoice) -> list[str]:
    return [name for name in SHOWN_FIRST if model.has_pair or not needs_pair(name)]


def _save(event: ImagesEvent, folder: Path) -> list[tuple[str, str]]:
    saved = []
    for k, (image, row) in enumerate(zip(event.images, event.config.rows, strict=True)):
        path = folder / f"chats_{row.method}_seed{row.seed}.png"
        save_png(image, path, config=config_of_row(event.config, k))
        saved.append((str(path), f"{METHODS[row.method].title}, seed {row.seed}"))
    return saved


def _progress(event: StepEvent) -> dict[str, Any]:
    return {"step": event.step, "num_steps": event.num_steps, "eta_seconds": event.eta_seconds}


def _details(event: ImagesEvent) -> dict[str, Any]:
    return {
        "config": event.config.model_dump(mode="json"),
        "combined": list(event.combined),
        "notices": list(event.notices),
        "seconds": event.seconds,
        "num_predictions": event.num_predictions,
    }


def _shown(error: UserError) -> gr.Error:
    return gr.Error(str(error), print_exception=False)
