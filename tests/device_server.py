"""The real server on a GPU that is none: `python -m tests.device_server --port 7860 …`."""

import tyro

import app
from chats.devices import Device

PRETENDED = Device(name="cuda:GPU-pretended", title="the GPU", torch_name="cpu")
"""What the programs of this machine take for a GPU, with the CPU behind it."""

if __name__ == "__main__":
    app.main(tyro.cli(app.Settings), devices=(PRETENDED,))
