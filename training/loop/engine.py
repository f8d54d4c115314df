"""The engine of accelerate that a process was started with: what it may do, and what it needs."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    DynamoBackend,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    parse_flag_from_env,
)
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy

from chats.errors import UserError
from chats.objective import Prediction
from training.config import TrainingConfig
from training.loop.pair_model import PairModel
from training.loop.sharding import whole
from training.loop.zero import zero_plugin


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Return the accelerator of the engine that this process was started with.

    Raises:
        UserError: The engine is not supported, or not with these settings.
    """
    plugin, zero = _sharding_plugin(), zero_plugin(config)
    accelerator = Accelerator(
        # DeepSpeed would round the weights themselves; see `autocast`.
        mixed_precision="no" if zero else config.run.mixed_precision,
        fsdp_plugin=plugin,
        deepspeed_plugin=zero,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.optimizer.gradient_accumulation,
            # Gradients that wait for the last forward would be whole in every process.
            sync_each_batch=plugin is not None,
        ),
        log_with=list(config.run.trackers) or None,
        project_dir=config.run.output,
    )
    _check_engine(accelerator, config)
    return accelerator


def autocast(accelerator: Accelerator, mixed_precision: str) -> AbstractContextManager:
    """Return where forwards are made: in the run's number format, the weights in 32 bits."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return accelerator.autocast()
    return torch.autocast(
        accelerator.device.type, dtype=torch.bfloat16, enabled=mixed_precision == "bf16"
    )


def prepare(
    accelerator: Accelerator,
    pair_model: PairModel,
    optimizer: torch.optim.Optimizer,
    *,
    mixed_precision: str,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return both as the engine wants them; with FSDP2 the weights are shared out here.

    Raises:
        UserError: The denoiser does not say which of its blocks can be shared out.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed refuses other layouts, as FSDP does; channels last is only faster.
        pair_model.to(memory_format=torch.contiguous_format)
        pair_model.forward = _in_number_format(
            pair_model.forward, functools.partial(autocast, accelerator, mixed_precision)
        )
        return accelerator.prepare(pair_model, optimizer)
    if not accelerator.is_fsdp2:
        return accelerator.prepare(pair_model, optimizer)
    plugin = accelerator.state.fsdp_plugin
    if not (blocks := _block_classes(pair_model)):
        kinds = sorted({type(denoiser).__name__ for denoiser in pair_model.denoisers.values()})
        raise UserError(
            f"{', '.join(kinds)} does not say which of its blocks FSDP can share out. "
            "Choose the engine ddp."
        )
    plugin.transformer_cls_names_to_wrap = blocks
    pair_model.to(memory_format=torch.contiguous_format)
    model, optimizer = accelerator.prepare(pair_model, optimizer)
    if accelerator.device.type == "cpu":
        model.set_force_sum_reduction_for_comms(True)  # gloo can add, but not average
    model.forward = _in_number_format(model.forward, accelerator.autocast)
    model.register_forward_hook(_let_go)
    return model, optimizer


def clip_gradients(accelerator: Accelerator, model: nn.Module, *, max_norm: float) -> float:
    """Shorten the gradients that are longer; returns their length before, of all processes' parts.

    DeepSpeed has shortened them and updated the weights already, in the window's last backward. Of
    gradients that are not finite it tells inf, and leaves the weights as they were.
    """
    norm = accelerator.clip_grad_norm_(model.parameters(), max_norm)
    return norm if isinstance(norm, float) else whole(norm).item()


@contextlib.contextmanager
def called_one_by_one(pair_model: PairModel) -> Iterator[None]:
    """Let the denoisers be called by themselves meanwhile, as pictures on the way need it.

    With FSDP2 only a forward of the whole model gathers the weights that are in no block, so each
    call goes through it; every process must make the same calls.
    """
    if not isinstance(pair_model, FSDPModule):
        yield
        return
    forward = pair_model.forward
    denoisers = [*pair_model.denoisers.values()]
    pair_model.forward = lambda call: call()
    for denoiser in denoisers:
        denoiser.forward = _through(pair_model, denoiser.forward)
    try:
        yield
    finally:
        pair_model.forward = forward
        for denoiser in denoisers:
            del denoiser.forward


def num_gathered(pair_model: PairModel) -> int:
    """Return how many weights and gradients are whole at a time where the models are shared out.

    Those outside of blocks stay whole from the forward to the backward. Of blocks, the largest may
    be there with its gradients while the next one is on its way.
    """
    classes = frozenset(_block_classes(pair_model))
    inside: set[nn.Parameter] = set()
    largest = 0
    for module in reversed([*pair_model.modules()]):  # blocks within blocks come first
        if type(module).__name__ in classes:
            own = set(module.parameters()) - inside
            inside |= own
            largest = max(largest, sum(each.numel() for each in own))
    outside = sum(each.numel() for each in set(pair_model.parameters()) - inside)
    return 2 * outside + 3 * largest


def _sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise UserError("FSDP of version 1 is not supported. Set fsdp_version: 2 in fsdp_config.")
    # Weights are gathered in 32 bits and autocast does the rest, as with every other engine:
    # FSDP's own number formats would round the timesteps of flow models to 8 bits.
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def _check_engine(accelerator: Accelerator, config: TrainingConfig) -> None:
    state = accelerator.state
    if state.dynamo_plugin.backend != DynamoBackend.NO:
        raise UserError("Leave dynamo_backend out of accelerate's config: set optimizer.compile.")
    if state.distributed_type != DistributedType.FSDP:
        return
    plugin = state.fsdp_plugin
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise UserError("Weights on the CPU are not supported. Set fsdp_offload_params to false.")
    if plugin.activation_checkpointing:
        raise UserError(
            "Leave fsdp_activation_checkpointing out of fsdp_config: "
            "set optimizer.gradient_checkpointing."
        )
    if config.optimizer.name != "adamw":
        raise UserError(
            f"optimizer.name {config.optimizer.name} needs whole weights, and FSDP shares them "
            "out. Choose adamw, whose averages are shared out as well, or the engine ddp."
        )
    if config.optimizer.compile:
        raise UserError("Compiled blocks can't be shared out. Set optimizer.compile to false.")
    if config.run.mixed_precision == "fp16":
        raise UserError(
            "fp16 is not supported with FSDP. Set run.mixed_precision to bf16, or to no."
        )


def _block_classes(pair_model: PairModel) -> list[str]:
    """Return the kinds of blocks whose weights are gathered and let go together."""
    found = {type(module).__name__ for module in pair_model.modules()}
    named = (
        getattr(denoiser, "_no_split_modules", None) or ()
        for denoiser in pair_model.denoisers.values()
    )
    return sorted(found & {name for names in named for name in names})


def _let_go(model: nn.Module, inputs: object, outputs: object) -> None:
    """Share out again what a forward without a backward has left whole.

    It would be of these weights still when the next step's forward finds it there.
    """
    if not torch.is_grad_enabled():
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _through(model: nn.Module, forward: Callable) -> Callable:
    @functools.wraps(forward)
    def run(*args: Any, **arguments: Any) -> Any:
        return model(functools.partial(forward, *args, **arguments))

    return run


def _in_number_format(
    forward: Callable, autocast: Callable[[], AbstractContextManager]
) -> Callable:
    """Do what accelerate does to models that it wraps itself."""

    @functools.wraps(forward)
    def run(*args: object, **arguments: object) -> dict[Prediction, Tensor]:
        with autocast():
            outputs = forward(*args, **arguments)
        # Copies: an operation in place on a view would lose FSDP's hook for the backward.
        return {name: each.float().clone() for name, each in outputs.items()}

    return run
