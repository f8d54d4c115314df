"""DeepSpeed's ZeRO-2: every process has the weights, and a part of gradients and averages.

DeepSpeed lays all trained parameters into one flat tensor and gives each process a part of it, so
its optimizer knows no parameter of the model. Here its state is taken apart by parameter, whole, so
that checkpoints are those of one process, and a run may go on with another engine.
"""

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DeepSpeedPlugin, parse_flag_from_env
from torch import Tensor, nn

from chats.errors import UserError
from training.config import TrainingConfig

if TYPE_CHECKING:
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

_STAGE = 2


def is_asked_for() -> bool:
    """Say whether this process was started with an engine of DeepSpeed."""
    return parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")


def require_deepspeed() -> None:
    """Refuse at once what DeepSpeed would be needed for.

    Raises:
        UserError: It is asked for, and is not installed.
    """
    if is_asked_for() and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "This engine needs DeepSpeed (pip install -r requirements-deepspeed.txt). Install it, "
            "or start with training/engines/fsdp.yaml."
        )


def zero_plugin(config: TrainingConfig) -> DeepSpeedPlugin | None:
    """Return what accelerate has to tell DeepSpeed, or nothing if it is not asked for.

    Raises:
        UserError: The engine asks for what is not supported, or the settings do.
    """
    if not is_asked_for():
        return None
    settings = config.optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of DeepSpeed's own parts
        plugin = DeepSpeedPlugin(
            gradient_accumulation_steps=settings.gradient_accumulation,
            gradient_clipping=settings.max_grad_norm,
        )
    _check_plugin(plugin)
    if settings.name != "adamw":
        raise UserError(
            f"optimizer.name {settings.name} needs whole weights, and ZeRO gives it parts of one "
            "flat tensor. Choose adamw, or the engine ddp."
        )
    if settings.compile:
        raise UserError("Compiled blocks don't go with ZeRO. Set optimizer.compile to false.")
    if config.run.mixed_precision == "fp16":
        raise UserError(
            "fp16 is not supported with ZeRO. Set run.mixed_precision to bf16, or to no."
        )
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = settings.batch_size
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return plugin


def is_zero(optimizer: Any) -> bool:
    """Say whether an optimizer is DeepSpeed's, with flat parts of the parameters."""
    return hasattr(optimizer, "single_partition_of_fp32_groups")


def by_parameter(
    zero: "DeepSpeedZeroOptimizer", parameters: Sequence[nn.Parameter], *, keep: bool
) -> SimpleNamespace:
    """Return what an optimizer of these parameters would hold; every process must ask.

    Args:
        zero: DeepSpeed's optimizer.
        parameters: The trained ones, in the order that they were given to it.
        keep: Whether this process wants the state; others get none.

    Returns:
        `param_groups` and `state` as an optimizer has them, whole and on the CPU. The parameters
        are placeholders of their shapes.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    view = without_state(zero, parameters)
    held = zero.optimizer.state.get(_flat(zero), {})
    for parameter, place in zip(parameters, view.param_groups[0]["params"], strict=True):
        for name, value in held.items():
            found = safe_get_full_optimizer_state(parameter, name) if value.ndim else value
            if keep:
                view.state.setdefault(place, {})[name] = found.cpu()
    return view


def without_state(
    zero: "DeepSpeedZeroOptimizer", parameters: Sequence[nn.Parameter]
) -> SimpleNamespace:
    """Return what `by_parameter` does before the first step; nothing is asked of others."""
    (group,) = zero.optimizer.param_groups
    places = [torch.zeros(()).expand(parameter.shape) for parameter in parameters]
    return SimpleNamespace(param_groups=[{**group, "params": places}], state={})


def take_up(
    zero: "DeepSpeedZeroOptimizer", parameters: Sequence[nn.Parameter], view: SimpleNamespace
) -> None:
    """Give DeepSpeed's optimizer a state by parameter, bit for bit, and the weights as they are.

    Args:
        zero: DeepSpeed's optimizer.
        parameters: The trained ones, in the order that they were given to it.
        view: As `by_parameter` made it, and the same in every process.
    """
    from deepspeed.utils import safe_set_full_optimizer_state

    zero.refresh_fp32_params()
    zero.optimizer.param_groups[0].update(
        {name: value for name, value in view.param_groups[0].items() if name != "params"}
    )
    flat, places = _flat(zero), view.param_groups[0]["params"]
    if not view.state:
        return
    zero.optimizer.state[flat] = {
        name: value if value.ndim == 0 else torch.zeros_like(flat)
        for name, value in view.state[places[0]].items()
    }
    zero._lazy_init_hp_params_optimizer_state()
    for parameter, place in zip(parameters, places, strict=True):
        for name, value in view.state[place].items():
            if value.ndim:
                safe_set_full_optimizer_state(parameter, value.to(flat.device), name)


def _flat(zero: "DeepSpeedZeroOptimizer") -> Tensor:
    """Return this process's part of all parameters; there is one group of them."""
    (flat,) = zero.single_partition_of_fp32_groups
    return flat


def _check_plugin(plugin: DeepSpeedPlugin) -> None:
    if plugin.zero_stage != _STAGE:
        raise UserError(
            f"ZeRO-{plugin.zero_stage} is not supported. Start with training/engines/zero2.yaml, "
            "or with training/engines/fsdp.yaml, which shares the weights out as ZeRO-3 does."
        )
    if {plugin.offload_optimizer_device, plugin.offload_param_device} - {"none", None}:
        raise UserError("Offloading is not supported with ZeRO. Set both offload devices to none.")
    if plugin.zero3_init_flag:
        raise UserError("Set zero3_init_flag to false in deepspeed_config.")
