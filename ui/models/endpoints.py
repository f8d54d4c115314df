"""The Models tab for programs: every action as a named endpoint with named parameters."""

from dataclasses import asdict
from typing import Any

import gradio as gr

from chats.errors import UserError
from ui.services import ModelServices
from ui.told import told


class ModelEndpoints:
    """The functions behind the API; names may come from anybody, and none becomes a path."""

    def __init__(self, shelf: ModelServices):
        self._shelf = shelf

    def devices_list(self) -> list[dict[str, Any]]:
        """List the devices: memory, what is loaded, what was unloaded and why."""
        return [asdict(report) for report in self._shelf.report()]

    def model_load(self, name: str, pair: str) -> dict[str, str]:
        """Load a model by Hub id or by the name of a folder in the workspace's models folder."""
        with told():
            if self._shelf.refusal:
                raise UserError(self._shelf.refusal)
            return {"message": self._shelf.load(name, pair.strip() or None, None)}

    def model_unload(self, name: str) -> dict[str, str]:
        """Drop a model or a pair from the devices."""
        with told():
            return {"message": self._shelf.unload(name)}


def add_model_endpoints(shelf: ModelServices) -> None:
    """Add the endpoints to the page that is being built; they have no visible parts."""
    endpoints = ModelEndpoints(shelf)
    with gr.Column(visible=False):
        name = gr.Textbox(label="Model")
        pair = gr.Textbox("", label="Preference pair; empty is the model's own")
        answer = gr.JSON()
    table = {
        "devices_list": {},
        "model_load": {"name": name, "pair": pair},
        "model_unload": {"name": name},
    }
    for api_name, inputs in table.items():
        function = getattr(endpoints, api_name)
        gr.on(
            [],
            function,
            outputs=answer,
            inputs_kwargs=inputs,
            api_name=api_name,
            api_description=function.__doc__,
        )
