"""What is known of one family of models: an entry of the table in `chats.denoising.families`.

Torch-free, as the page reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def unchanged(timestep: Any, config: Mapping[str, Any]) -> Any:
    """Tell the denoiser the scheduler's timestep t, 0 to 1000."""
    return timestep


def in_unit(timestep: Any, config: Mapping[str, Any]) -> Any:
    """Tell it t / 1000."""
    return timestep / 1000


def reversed_in_unit(timestep: Any, config: Mapping[str, Any]) -> Any:
    """Tell it 1 − t / 1000: 0 is noise and 1 the picture."""
    return 1 - timestep / 1000


def in_own_scale(timestep: Any, config: Mapping[str, Any]) -> Any:
    """Tell it t times the scale in its configuration."""
    return timestep * config["timestep_scale"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the pipelines of one family call their denoiser."""

    name: str
    """Short name, written into a pair's metadata."""

    pipelines: tuple[str, ...]
    """Names of the diffusers pipeline classes that are known to work."""

    denoiser: Literal["unet", "transformer"]
    """Attribute of the pipeline that holds the denoiser, and prefix of its LoRA weights."""

    denoiser_class: str
    """Name of the denoiser's diffusers class."""

    conditions: Mapping[str, int]
    """Denoiser argument (dotted where nested) -> its place in what encode_prompt returns.
    The proxy condition combines these."""

    masks: Mapping[str, int] = field(default_factory=dict)
    """The same for attention masks; the proxy condition takes the prompt's."""

    varying_length: bool = False
    """Conditions are as long as the longest prompt of the call, so that ∅ has another length:
    c̃ is as long as c, with zeros where ∅ has ended."""

    null_offset: int = 0
    """How much further on in that tuple stands a negative prompt, where the pipeline does not
    encode it as it does a prompt; ∅ is then encoded as the negative prompt is."""

    timestep: tuple[str, Callable[[Any, Mapping[str, Any]], Any]] = ("timestep", unchanged)
    """Denoiser argument for the noise level, and what it is told of the scheduler's timestep."""

    per_sample: frozenset[str] = frozenset()
    """Denoiser arguments that are lists with one entry per row."""

    unbatched: frozenset[str] = frozenset()
    """Denoiser arguments without a batch axis, whatever their shape."""

    packed: bool = False
    """The denoiser takes latents as tokens, one for 2 × 2 of them."""

    patch_size: int | None = None
    """Latents per side of a token, where `patch_size` in the denoiser's configuration is not."""

    default_side: int | None = None
    """Latents per side of a picture, where `sample_size` in the configuration is not."""

    size_ids: str | None = None
    """Denoiser argument that says the picture's size: (height, width, top, left, height, width)."""

    constants: Mapping[str, Mapping[str, None]] = field(default_factory=dict)
    """Denoiser arguments that must be given and are the same in every training call."""

    encode_arguments: Mapping[str, None] = field(default_factory=dict)
    """What encode_prompt must be given beside the prompt."""

    cfg_off: Mapping[str, float] = field(default_factory=lambda: {"guidance_scale": 1.0})
    """Pipeline arguments that switch its own guidance off: it then makes one conditional call."""

    embedded_guidance: Mapping[str, float] = field(default_factory=dict)
    """Pipeline argument of the guidance that distilled checkpoints are told as a number, and the
    number when none is asked for: 1 is the model before its distillation."""

    lora_targets: tuple[str, ...] = ATTENTION
    """Ends of the names of the layers that a LoRA pair adapts."""

    num_steps: int = 50
    """Default number of denoising steps."""

    trains: bool = False
    """Whether pairs can be trained, or only sampled."""
