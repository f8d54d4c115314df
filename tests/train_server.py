"""The real page around fakes: `python -m tests.train_server --port 7860 --workspace FOLDER`."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from tests.page_fakes import FakeStudio
from tests.train_fakes import make_desk
from ui.blocks import build_ui
from ui.look import launch_options
from ui.server import LOGIN_VARIABLE, access, check_login, prepare_environment

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--workspace", type=Path)
    asked = parser.parse_args()
    prepare_environment(asked.workspace)
    page = build_ui(replace(FakeStudio().services(), desk=make_desk()))
    page.launch(
        server_port=asked.port,
        share=False,
        ssr_mode=False,
        quiet=True,
        **access("127.0.0.1", check_login("127.0.0.1", os.environ[LOGIN_VARIABLE])),
        **launch_options(),
    )
