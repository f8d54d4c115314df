"""The repeated blocks of the denoisers, compiled: one graph for all blocks that are alike."""

import os
import shutil

import torch
from torch.utils._triton import has_triton

from chats.errors import UserError
from training.loop.pair_model import PairModel

_GRAPHS = 64
"""Of one kind of block: sizes, with gradients and without, trained and frozen, with adapters."""


def compile_blocks(
    pair_model: PairModel, *, device: torch.device, backend: str = "inductor"
) -> None:
    """Compile the blocks in place; names and weights stay as they are.

    Args:
        pair_model: Its denoisers say which of their blocks are repeated.
        device: Where the training runs.
        backend: The compiler, as torch names it.

    Raises:
        UserError: A denoiser does not say it, or this machine has no compiler.
    """
    if backend == "inductor":
        _check_compiler(device)
    for denoiser in pair_model.denoisers.values():
        if not getattr(denoiser, "_repeated_blocks", None):
            raise UserError(
                f"{type(denoiser).__name__} does not say which of its blocks are repeated. "
                "Set optimizer.compile to false."
            )
    # Adapters reach the blocks as hooks. Without a guard on them torch would use a graph that was
    # made without adapters again for rows that have them, and say nothing.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    for denoiser in pair_model.denoisers.values():
        denoiser.compile_repeated_blocks(backend=backend)


def _check_compiler(device: torch.device) -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError(
            "optimizer.compile needs a C++ compiler. Install one (Debian: apt-get install g++), "
            "name it in the environment variable CXX, or set optimizer.compile to false."
        )
    if device.type == "cuda" and not has_triton():
        raise UserError(
            "optimizer.compile needs triton on a GPU (pip install triton). Install it, or set "
            "optimizer.compile to false."
        )
