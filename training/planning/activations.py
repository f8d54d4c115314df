"""What a forward keeps for its backward, counted on tensors that may have no content."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from training.config import TrainingConfig
from training.loop.pair_model import PairModel


@contextlib.contextmanager
def counting(model: PairModel, config: TrainingConfig) -> Iterator["KeptTensors"]:
    """Count what forwards within keep for the backward, with the number format of the run.

    With gradient checkpointing a block keeps only its inputs. All of it is there again while its
    part of the backward runs; before that, autocast's copies of the weights are there instead.
    """
    kept = KeptTensors(without=model.parameters())
    largest_block = 0

    def checkpointed(block: nn.Module, *inputs: Any) -> Any:
        nonlocal largest_block
        kept.add(inputs)
        within = KeptTensors(without=kept.tensors)
        with within:
            outputs = block(*inputs)
        largest_block = max(largest_block, within.num_bytes)
        return outputs

    if config.optimizer.gradient_checkpointing:
        model.enable_gradient_checkpointing()
        for denoiser in model.denoisers.values():
            if denoiser.is_gradient_checkpointing:
                denoiser.enable_gradient_checkpointing(checkpointed)
    kernels = GpuKernels(_DTYPES[config.run.mixed_precision])
    with kernels, kept:
        yield kept
    num_before_copies = kept.num_bytes
    kept.add(kernels.copies.values())
    kept.num_bytes = max(kept.num_bytes, num_before_copies + largest_block)


class KeptTensors(torch.autograd.graph.saved_tensors_hooks):
    """Counts the memory that autograd keeps while it is entered, each piece once."""

    def __init__(self, *, without: Iterable[Tensor]) -> None:
        super().__init__(self._pack, lambda tensor: tensor)
        self.num_bytes = 0
        # Held on to, so that no other tensor gets the address of one that was counted.
        self.tensors = list(without)
        self._known = {_address(each) for each in self.tensors}

    def __enter__(self) -> "KeptTensors":
        super().__enter__()
        return self

    def add(self, tensors: Iterable[Any]) -> None:
        """Count these as well."""
        for each in tensors:
            if isinstance(each, Tensor):
                self._pack(each)

    def _pack(self, tensor: Tensor) -> Tensor:
        if _address(tensor) not in self._known:
            self._known.add(_address(tensor))
            self.tensors.append(tensor)
            self.num_bytes += tensor.untyped_storage().nbytes()
        return tensor


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PRODUCTS = frozenset(
    {functional.linear, functional.conv2d, torch.matmul, torch.bmm, torch.baddbmm}
)
_NORMS = frozenset(
    {functional.group_norm, functional.layer_norm, functional.softmax, Tensor.softmax}
)


class GpuKernels(TorchFunctionMode):
    """Lets the meta device keep what a GPU keeps.

    Attention is one kernel there, which keeps no table of tokens by tokens; and the meta device
    has no autocast, so products take their inputs, and copies of the weights, to the run's number
    format here, and norms to 32 bits.

    Attributes:
        copies: Copies of trained weights, which autocast makes once and has until its end.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.copies: dict[nn.Parameter, Tensor] = {}
        self._dtype = dtype

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            query, key, value = [*args, *kwargs.values()][:3]
            return _FusedAttention.apply(*(self._cast(each) for each in (query, key, value)))
        if function in _PRODUCTS:
            cast = self._cast
        elif function in _NORMS:
            cast = _in_32_bits
        else:
            return function(*args, **kwargs)
        return function(
            *(cast(each) for each in args), **{name: cast(each) for name, each in kwargs.items()}
        )

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if not isinstance(value, nn.Parameter) or not value.requires_grad:
            return value.to(self._dtype)
        if value.dtype != self._dtype and value not in self.copies:
            self.copies[value] = value.to(self._dtype)
        return self.copies.get(value, value)


class _FusedAttention(torch.autograd.Function):
    """Stands for attention in one kernel: keeps its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, output)
        return output


def _in_32_bits(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if is_float else value
