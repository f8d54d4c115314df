"""The Models tab: what is loaded, loading and unloading, and the settings inside a PNG."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from chats.errors import UserError
from chats.generation.png import describe, read_png
from ui.html import plain_html
from ui.models.cards import loaded_names, render_answer, render_devices, size
from ui.services import ModelServices
from ui.working import followed

REFRESH_SECONDS = 3.0
NO_NAME = "Write a Hub id such as owner/name, or pick a folder."


class ModelsHandlers:
    """What happens when a person acts; values in, component updates out."""

    def __init__(self, shelf: ModelServices):
        self._shelf = shelf

    def look(self, chosen: str | None) -> tuple[str, gr.Dropdown]:
        """Show what is on the devices now."""
        reports = self._shelf.report()
        names = loaded_names(reports)
        value = chosen if chosen in names else (names or [None])[0]
        return render_devices(reports), gr.Dropdown(choices=names, value=value)

    def load(self, name: str | None, pair: str | None) -> Iterator[str]:
        """Load a model, and say so before and after."""
        name, pair = (name or "").strip(), (pair or "").strip()
        if not name:
            yield render_answer(NO_NAME, kind="error")
            return
        if self._shelf.refusal:
            yield render_answer(self._shelf.refusal, kind="error")
            return
        yield render_answer(f"Loading {name}… What is not on this machine is fetched first.")
        stream = followed(
            lambda tell: self._shelf.load(name, pair or None, lambda *sizes: tell(sizes))
        )
        try:
            while True:
                done, total = next(stream)
                yield render_answer(f"Fetching {name}: {size(done)} of {size(total)}")
        except StopIteration as end:
            yield render_answer(end.value)
        except UserError as error:
            yield render_answer(str(error), kind="error")
        finally:
            stream.close()

    def unload(self, name: str | None) -> str:
        """Drop what was chosen."""
        if not name:
            return render_answer("Nothing is chosen.", kind="error")
        return _told(lambda: self._shelf.unload(name))

    def read(self, path: str) -> tuple[str, str]:
        """Say the settings inside a PNG."""
        try:
            return describe(read_png(path)), ""
        except UserError as error:
            return "", render_answer(str(error), kind="error")


def build_models(shelf: ModelServices, *, tab: gr.Tab) -> None:
    """Lay out the tab and connect its handlers."""
    handlers = ModelsHandlers(shelf)
    devices = plain_html("", elem_id="models-devices")
    with gr.Row(elem_classes="models-row"):
        name = gr.Dropdown(
            list(shelf.folders()),
            value=None,
            label="Model",
            info="A Hub id (owner/name), or a folder of the workspace's models folder",
            allow_custom_value=True,
            elem_id="models-name",
        )
        pair = gr.Textbox(
            label="Preference pair",
            info="A Hub id or a folder there; empty: its own, if any",
            elem_id="models-pair",
            max_lines=1,
        )
        load = gr.Button("Load", variant="primary", elem_id="models-load", min_width=0)
    with gr.Row(elem_classes="models-row"):
        chosen = gr.Dropdown([], value=None, label="Loaded", elem_id="models-loaded")
        unload = gr.Button("Unload", elem_id="models-unload", min_width=0)
    answer = plain_html("", elem_id="models-answer-box")
    with gr.Row(elem_classes="models-png"):
        upload = gr.UploadButton(
            "Read the settings in a PNG", file_types=[".png"], size="sm", elem_id="models-png"
        )
        words = plain_html("")
    settings = gr.Textbox(
        label="Settings", lines=3, max_lines=8, interactive=False, elem_id="models-settings"
    )
    _connect(handlers, tab, [devices, chosen], (name, pair, load), (chosen, unload), answer)
    upload.upload(handlers.read, upload, [settings, words], api_visibility="private")


def _connect(
    handlers: ModelsHandlers,
    tab: gr.Tab,
    shown: list[Any],
    loading: tuple[Any, Any, gr.Button],
    unloading: tuple[Any, gr.Button],
    answer: gr.HTML,
) -> None:
    quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    name, pair, load = loading
    chosen, unload = unloading

    def look_after(event: Callable[..., Any]) -> None:
        event(handlers.look, chosen, shown, **quiet)

    look_after(tab.select)
    loaded = load.click(handlers.load, [name, pair], answer, **{**quiet, "concurrency_limit": 1})
    look_after(loaded.then)
    unloaded = unload.click(handlers.unload, chosen, answer, **quiet)
    look_after(unloaded.then)
    timer = gr.Timer(REFRESH_SECONDS, active=False)
    tab.select(lambda: gr.Timer(active=True), None, timer, **quiet)
    look_after(timer.tick)


def _told(act: Callable[[], str]) -> str:
    try:
        return render_answer(act())
    except UserError as error:
        return render_answer(str(error), kind="error")
