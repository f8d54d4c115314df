"""Where the scorers' weights come from: the Hub at first use, or a file of one's own."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from chats.errors import UserError
from chats.models.loading import choose_device
from chats.pairs.hub import fetch_files
from chats.pairs.weight_files import check_weight_file, check_weight_files, local_folder

REWARDS = "DiffSynth-Studio/QualityMetric_reward_pretrained"
"""A repository with HPS v2.1, ImageReward and the LAION head as safetensors, keys unchanged."""

_INSTEAD = (
    "Fetch it once on a machine with a network, or copy the Hub's cache from one. The scorers "
    "shapes and shapes-clip need no network."
)


def model_folder(name: str, *patterns: str) -> Path:
    """Return the folder of a transformers model: a local one, or fetched from the Hub.

    Raises:
        UserError: it is not here and cannot be fetched, or its weights are pickles.
    """
    folder = local_folder(name)
    if folder is None:
        folder = fetch_files(
            name, patterns or ("*.json", "*.txt", "*.safetensors"), instead=_INSTEAD
        )
    check_weight_files(folder)
    return folder


def state_dict(source: str | Path, file: str) -> dict[str, torch.Tensor]:
    """Read a safetensors file: `source` itself, or `file` of the Hub repository `source`.

    Raises:
        UserError: it cannot be fetched, is damaged, or is a pickle; pickles are never read.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        path = fetch_files(str(source), (file,), instead=_INSTEAD) / file
    if not path.is_file():
        raise UserError(f"{source} has no {file}. Give the weights as a safetensors file.")
    check_weight_file(path)
    return load_file(path)


def load_exactly(module: nn.Module, state: Mapping[str, torch.Tensor], *, name: str) -> None:
    """Load weights that must fit key by key and shape by shape.

    Raises:
        UserError: they don't; names the first key that is too many, missing or of another shape.
    """
    own = module.state_dict()
    problems = [
        *(f"{key} is missing" for key in own if key not in state),
        *(f"{key} is unknown" for key in state if key not in own),
        *(
            f"{key} has the shape {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ),
    ]
    if problems:
        raise UserError(
            f"These weights are not those of {name}: {problems[0]}"
            + (f" (and {len(problems) - 1} more). " if len(problems) > 1 else ". ")
            + "Give the published weights, or a conversion that keeps their names."
        )
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})


def loaded(load: Callable[[], nn.Module], *, name: str) -> nn.Module:
    """Load a transformers model and say in one line what stands in its way.

    Raises:
        UserError: files are missing or do not fit.
    """
    try:
        return load()
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} could not be loaded: {what}") from error


def ready(module: nn.Module, *, device: object, dtype: torch.dtype | None) -> nn.Module:
    """Return the module on its device, in evaluation mode and without gradients.

    Raises:
        UserError: there is no such device here.
    """
    place = choose_device(None if device is None else str(device))
    return module.to(place, dtype or torch.float32).eval().requires_grad_(False)
