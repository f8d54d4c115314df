"""The engine of accelerate that a process was started with: what it may do, and what it needs."""

import functools
import logging
import os
from collections.abc import Callable

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

logger = logging.getLogger(__name__)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Return the accelerator of the engine that this process was started with.

    Raises:
        UserError: The engine is not supported, or not with these settings.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise UserError("DeepSpeed is not supported. Start with training/engines/fsdp.yaml.")
    plugin = _sharding_plugin()
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        fsdp_plugin=plugin,
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


def prepare(
    accelerator: Accelerator, pair_model: PairModel, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return both as the engine wants them; with FSDP2 the weights are shared out here.

    Raises:
        UserError: The denoiser does not say which of its blocks can be shared out.
    """
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
    # FSDP refuses other layouts; channels last is only faster.
    pair_model.to(memory_format=torch.contiguous_format)
    model, optimizer = accelerator.prepare(pair_model, optimizer)
    if accelerator.device.type == "cpu":
        model.set_force_sum_reduction_for_comms(True)  # gloo can add, but not average
    model.forward = _in_number_format(model.forward, accelerator)
    model.register_forward_hook(_let_go)
    return model, optimizer


def can_paint(accelerator: Accelerator) -> bool:
    """Say whether a denoiser can be called by itself, as pictures on the way need it."""
    if accelerator.is_fsdp2:
        logger.warning("No sample pictures: the models are shared out. The pair can be sampled.")
    return not accelerator.is_fsdp2


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
    if config.samples.every:
        raise UserError("Shared out models can't make sample pictures. Set samples.every to 0.")
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


def _in_number_format(forward: Callable, accelerator: Accelerator) -> Callable:
    """Do what accelerate does to models that are not shared out."""

    @functools.wraps(forward)
    def run(*args: object, **arguments: object) -> dict[Prediction, Tensor]:
        with accelerator.autocast():
            outputs = forward(*args, **arguments)
        # Copies: an operation in place on a view would lose FSDP's hook for the backward.
        return {name: each.float().clone() for name, each in outputs.items()}

    return run
