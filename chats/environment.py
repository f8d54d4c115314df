"""At start-up: say plainly when an installed torchvision breaks transformers and diffusers.

Both import torchvision as soon as they find it, and one that was built for another torch (or for
CUDA beside a CPU torch) fails there with messages that name everything but the cause. Nothing
here needs torchvision, so the cure is to remove it. It is judged by its metadata, never imported.
"""

import os
import re
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from chats.errors import UserError


def check_environment(*, search_path: Sequence[str] | None = None) -> None:
    """Refuse to start beside a torchvision that does not belong to the installed torch.

    Args:
        search_path: folders with installed packages; none means this interpreter's own.

    Raises:
        UserError: what does not fit and the command that mends it.
    """
    torch = _find("torch", search_path)
    torchvision = _find("torchvision", search_path)
    if torch is None or torchvision is None:
        return
    problem = _misfit(torch=torch, torchvision=torchvision)
    if problem:
        raise UserError(
            f"torchvision {torchvision.version} is installed, but {problem}. It breaks the imports "
            "of transformers and diffusers, and nothing here needs it: uninstall torchvision: "
            "pip uninstall torchvision"
        )


def quieten_libraries() -> None:
    """Keep remarks and progress bars of the model libraries off the terminal; imports both."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _find(name: str, search_path: Sequence[str] | None) -> Distribution | None:
    where = {} if search_path is None else {"path": list(search_path)}
    return next(iter(distributions(name=name, **where)), None)


def _misfit(*, torch: Distribution, torchvision: Distribution) -> str | None:
    installed = torch.version.partition("+")[0]
    wanted = _required_torch(torchvision)
    if wanted is not None and wanted != installed:
        return f"it was built for torch {wanted} and torch {torch.version} is installed"
    vision_cuda, torch_cuda = _cuda(torchvision), _cuda(torch)
    if vision_cuda != torch_cuda:
        built = f"for CUDA {vision_cuda}" if vision_cuda else "for the CPU"
        beside = f"for CUDA {torch_cuda}" if torch_cuda else "for the CPU"
        return f"it was built {built} and torch {torch.version} was built {beside}"
    return None


def _required_torch(torchvision: Distribution) -> str | None:
    for requirement in torchvision.requires or ():
        if match := re.match(r"torch\s*\(?==\s*([0-9][0-9.]*)", requirement):
            return match.group(1)
    return None


def _cuda(distribution: Distribution) -> str | None:
    """CUDA version that a package was built for, read from the text of its version.py."""
    path = Path(str(distribution.locate_file(f"{distribution.metadata['Name']}/version.py")))
    if not path.is_file():
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", path.read_text("utf-8"), re.M)
    return match.group(1) if match else None
