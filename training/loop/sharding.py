"""Tensors of which each process holds a part, and how they become whole.

With FSDP2 a parameter is a DTensor: it knows its whole shape, each process holds a part of it, and
only while a block computes are its weights whole. Checkpoints and pairs hold whole tensors all the
same, so a run may go on with another engine. Plain tensors pass through all of this as they are.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_shared_out(model: nn.Module) -> bool:
    """Say whether each process holds only a part of a model's weights."""
    return any(isinstance(each, DTensor) for each in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of all processes' parts; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor; they share memory."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


def whole_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return whole tensors, those that were shared out on the CPU; every process must ask.

    Args:
        tensors: In the same order in every process.
        keep: Whether this process wants them; others get nothing.
    """
    kept = {}
    for name, tensor in tensors.items():
        found = whole(tensor.detach())
        if keep:
            kept[name] = found.cpu() if isinstance(tensor, DTensor) else found
    return kept


def shared_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, which every process has, on the device and in the parts of another."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
