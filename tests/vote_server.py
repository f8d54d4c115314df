"""The page with votes, around fakes: `python -m tests.vote_server --port N --workspace FOLDER`."""

import argparse
from dataclasses import replace
from pathlib import Path

from tests.page_fakes import MODEL, FakeStudio
from tests.tiny_votes import open_store
from ui.blocks import build_ui
from ui.look import launch_options
from ui.server import prepare_environment

RUN = replace(MODEL, run="20260101-000000-abcdef", run_title="1 Jan 00:00  New", pair="new")

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--workspace", type=Path)
    asked = parser.parse_args()
    prepare_environment(asked.workspace)
    services = FakeStudio().services()
    offered = replace(services, models=lambda: (MODEL, RUN), votes=open_store(asked.workspace))
    page = build_ui(offered)
    page.launch(server_port=asked.port, share=False, ssr_mode=False, quiet=True, **launch_options())
