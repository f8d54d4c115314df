"""Samplers by name, built from the scheduler that a model comes with.

A scheduler keeps the state of one run, so every request gets its own; the model's training
convention (prediction type, betas or flow shift) always carries over from its own scheduler.
"""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from chats.config import SchedulerName
from chats.errors import UserError

_DIFFUSION: dict[SchedulerName, tuple[type, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
}
_FLOW_SOLVERS: dict[SchedulerName, tuple[type, dict[str, Any]]] = {
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
}


def build_scheduler(name: SchedulerName, *, model_scheduler: SchedulerMixin) -> SchedulerMixin:
    """Return a new scheduler that fits the model; `model_scheduler` is never changed.

    Raises:
        UserError: a sampler for diffusion models was asked of a flow-matching model.
    """
    config = model_scheduler.config
    is_euler = isinstance(model_scheduler, FlowMatchEulerDiscreteScheduler)
    if name == "default" or (is_euler and name == "euler"):
        return type(model_scheduler).from_config(config)
    if not is_euler and config.get("prediction_type") != "flow_prediction":
        kind, settings = _DIFFUSION[name]
        return kind.from_config(config, **settings)
    shift = config.get("shift", config.get("flow_shift", 1.0))
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(config.num_train_timesteps, shift=shift)
    if name not in _FLOW_SOLVERS:
        fitting = ", ".join(("default", "euler", *_FLOW_SOLVERS))
        raise UserError(
            f"Sampler {name!r} is for diffusion models and this model is trained by flow matching. "
            f"Choose one of: {fitting}."
        )
    if config.get("use_dynamic_shifting"):
        raise UserError(
            f"Sampler {name!r} cannot follow this model's shift, which depends on the picture's "
            "size. Choose default or euler."
        )
    kind, settings = _FLOW_SOLVERS[name]
    return kind(
        num_train_timesteps=config.num_train_timesteps,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        **settings,
    )
