"""What is different on a Hugging Face Space: who may come, what is kept, what is told."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chats.devices import Device
from chats.errors import UserError
from chats.models.choices import model_title
from chats.shapes import SHAPES_MODEL
from ui.server import prepare_environment
from ui.zerogpu import is_zerogpu

MODEL_VARIABLE = "CHATS_MODEL"
"""Names the model that is loaded if the command line names none."""

ZEROGPU_MODEL = "AIDC-AI/CHATS"
MAX_UPLOAD_MB = 64
PERSISTENT = Path("/data")
"""Where a Space with storage keeps it."""

NOT_KEPT = "The disk of this Space can't be written to: what is made here is gone when it sleeps."
NO_GPU = (
    "This Space has no GPU, so it shows the small Shapes model. For larger ones duplicate it, "
    f"choose a GPU in its settings, and set {MODEL_VARIABLE} to a Hub id."
)


@dataclass(frozen=True)
class Space:
    """The Space that the server runs in.

    Attributes:
        host: The name of the host that its page comes from; empty if it is not told.
        has_zerogpu: Whether it borrows a GPU for each request.
    """

    host: str
    has_zerogpu: bool

    def default_model(self) -> str:
        """Return the model that suits the hardware."""
        return ZEROGPU_MODEL if self.has_zerogpu else SHAPES_MODEL


def find_space(environment: Mapping[str, str]) -> Space | None:
    """Return the Space that the environment tells of; none on any other machine."""
    if environment.get("SYSTEM") != "spaces" or not environment.get("SPACE_ID"):
        return None
    return Space(host=environment.get("SPACE_HOST", ""), has_zerogpu=is_zerogpu(environment))


def default_workspace(persistent: Path = PERSISTENT) -> Path:
    """Return the folder that outlives a Space's sleep, if it has one."""
    return persistent / "workspace" if persistent.is_dir() else Path("workspace")


def open_workspace(wanted: Path) -> tuple[Path, str]:
    """Prepare a folder to write to: the wanted one, or a temporary one if the disk is read-only.

    Returns:
        The folder, and what visitors should know of it.

    Raises:
        UserError: nothing can be written anywhere, and gradio can't do without.
    """
    try:
        prepare_environment(wanted)
        return wanted, ""
    except UserError:
        pass
    try:
        folder = Path(tempfile.mkdtemp(prefix="chats-"))
    except OSError as error:
        raise UserError(
            f"Neither {wanted} nor the folder for temporary files can be written to: "
            f"{error.strerror or error}. Give the Space a writable /tmp."
        ) from None
    prepare_environment(folder)
    return folder, NOT_KEPT


def hardware_notice(model: str, devices: Sequence[Device]) -> str:
    """Return what visitors should know where no GPU is; empty where one is."""
    if any((device.torch_name or "").startswith("cuda") for device in devices):
        return ""
    if model == SHAPES_MODEL:
        return NO_GPU
    return (
        f"This Space has no GPU: a picture of {model_title(model)} may take an hour. Choose a GPU "
        f"in its settings, or set {MODEL_VARIABLE}={SHAPES_MODEL}."
    )
