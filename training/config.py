"""Settings of a training, defined once: the command line, recipes and forms read them here.

This module imports no torch, so that a form or a command line opens at once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
import yaml
from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE, FrozenSettings
from chats.errors import UserError, explain_validation

ObjectiveName = Literal[
    "chats", "chats-no-ref", "diffusion-dpo", "sft-preferred", "sft-all", "diffusion-npo"
]
"""Training objectives; `chats.objective` holds the formula of each."""

TrackerName = Literal["tensorboard", "wandb", "trackio"]
"""Programs that draw a training's metrics; each is a package of its own."""

_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same loader in C, where it was built: a list of runs reads hundreds of files."""

_Settings = TypeVar("_Settings", bound=BaseModel)

Probability = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class ModelSettings(FrozenSettings):
    """What is trained."""

    base: str = Field("shapes", min_length=1, max_length=500)
    """The base model: `shapes` (embedded), a folder, or a Hub id such as `owner/name`."""

    kind: Literal["lora", "full"] = "lora"
    """`lora` trains small adapters on one base; `full` trains whole denoisers."""

    rank: int = Field(16, ge=1, le=1024)
    """Rank of the LoRA adapters."""

    lora_alpha: int = Field(16, ge=1, le=4096)
    """LoRA's scale: the adapter's output is multiplied by lora_alpha / rank."""

    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the layers that get adapters; none means the model family's own list."""


class DataSettings(FrozenSettings):
    """The preferences."""

    path: Path
    """Preference pairs: a folder or zip with metadata.jsonl or metadata.csv (prompt,
    chosen_file_name, rejected_file_name), parquet files, or a Hub id such as `owner/name`."""

    resolution: int | None = Field(None, ge=8, le=4096)
    """Side of the square pictures, in pixels; none means the model's own size."""

    buckets: bool = False
    """Keep about the shape of the preferred picture instead of cutting both to squares."""

    null_prompt: Literal["empty", "zeros"] = "empty"
    """What a dropped prompt becomes: the encoding of "", or zeros."""

    max_pairs: int | None = Field(None, ge=2)
    """Use only the first so many pairs; none uses all."""

    on_bad_rows: Literal["stop", "skip"] = "stop"
    """Rows that can't be used: `stop` lists them and ends, `skip` leaves them out and counts."""

    prompt_column: str | None = Field(None, min_length=1)
    """Column of the prompts; none means one that is known: prompt or caption."""

    preferred_column: str | None = Field(None, min_length=1)
    """Column of the preferred pictures, or of the first ones if there are labels; none means one
    that is known: chosen or jpg_0."""

    dispreferred_column: str | None = Field(None, min_length=1)
    """Column of the other pictures; none means one that is known: rejected or jpg_1."""

    label_columns: tuple[str, str] | None = None
    """Columns that score the two pictures: the higher score is preferred, ties are left out."""

    split: str = Field("train", min_length=1)
    """Which part of a set that has several is read."""

    streaming: bool = False
    """A set on the Hub that does not fit the disk: fetch only the first max_pairs, or, without
    max_pairs and with encode online, read it as a stream and keep nothing."""

    shuffle_buffer: int = Field(512, ge=1, le=2**20)
    """Rows of a stream that are held and shuffled at a time; twice as many lie in memory."""

    encode: Literal["ahead", "online"] = "ahead"
    """Encode pictures and prompts `ahead` of the first step, or `online`, batch by batch: nothing
    is kept, the encoders stay on the device, and every epoch pays for them again."""

    cache: Path | None = None
    """Folder that keeps what was encoded ahead for later trainings; none keeps nothing."""

    cache_dtype: Literal["float32", "float16"] = "float32"
    """Number format in the cache; float16 takes half the room and rounds."""

    @model_validator(mode="after")
    def _stream_ends(self) -> "DataSettings":
        if self.streaming and self.max_pairs is None and self.encode == "ahead":
            raise ValueError(
                "streaming needs max_pairs, which says where the stream ends, or encode online"
            )
        if self.is_stream and self.buckets:
            raise ValueError("buckets need max_pairs: a stream's shapes are not known beforehand")
        return self

    @property
    def is_stream(self) -> bool:
        """Whether rows are read one after the other, and none of them is kept."""
        return self.streaming and self.max_pairs is None


class ObjectiveSettings(FrozenSettings):
    """What the training minimises."""

    name: ObjectiveName = "chats"
    """The objective."""

    temperature: float = Field(1000.0, gt=0, le=1e7)
    """T of the CHATS loss; it belongs to the size of the errors, so watch sigmoid_argument/std."""

    beta: float = Field(2000.0, gt=0, le=1e7)
    """β of Diffusion-DPO and Diffusion-NPO."""

    dispreferred_prompt_drop: Probability = 0.5
    """Share of the samples whose prompt the dispreferred model of a CHATS pair does not see."""

    prompt_drop: Probability = 0.0
    """Share of the samples whose prompt every other prediction does not see; the paper has 0."""

    cache_reference: bool = False
    """Compute the reference's errors of the whole run ahead and keep them in data.cache: the loop
    then needs no reference, and later trainings that draw the same start at once."""


class NoiseSettings(FrozenSettings):
    """Which noise levels are trained, and what each counts."""

    sampling: Literal["uniform", "logit-normal"] = "uniform"
    """How levels are drawn; `logit-normal` (Esser et al. 2024) prefers those in the middle."""

    logit_mean: float = Field(0.0, ge=-5, le=5)
    """Centre of logit-normal sampling; above 0 it prefers more noise."""

    logit_std: float = Field(1.0, gt=0, le=5)
    """Width of logit-normal sampling."""

    shift: float | None = Field(None, gt=0, le=100)
    """Flow models: how far levels move towards noise (Esser et al. 2024); none: the model's own."""

    min_snr_gamma: float | None = Field(None, gt=0, le=1000)
    """γ of min-SNR weights on the errors of diffusion models (Hang et al. 2023); none: no weights,
    as in the paper."""


class OptimizerSettings(FrozenSettings):
    """How it is minimised."""

    name: Literal["adamw", "adamw-8bit", "adafactor"] = "adamw"
    """`adamw-8bit` keeps AdamW's averages in 8 bits (needs bitsandbytes); `adafactor`
    keeps none of the gradient and little of its square."""

    learning_rate: float = Field(5e-5, gt=0, le=1)
    """Peak learning rate."""

    scale_learning_rate: bool = False
    """Multiply it by batch size × accumulation × processes, as the paper's scripts do."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's averages of the gradient and of its square."""

    weight_decay: float = Field(0.01, ge=0, le=1)
    """Weight decay."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients longer than this are shortened to it."""

    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps over which the learning rate rises to its peak."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the learning rate does after the warm-up: stay, or fall to 0 at the end."""

    num_steps: int = Field(1000, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(8, ge=1, le=65536)
    """Pairs in one forward."""

    gradient_accumulation: int = Field(1, ge=1, le=65536)
    """Forwards in one optimizer step."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward: less memory, about a third more time."""

    compile: bool = False
    """Compile the denoisers' repeated blocks, which takes minutes at the start: faster steps."""

    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, which then becomes the pair; none keeps none."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> "OptimizerSettings":
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} must be less than num_steps {self.num_steps}"
            )
        return self


class ValidationSettings(FrozenSettings):
    """Pairs that are not trained on but measured on the way, always with the same draws."""

    held_out: int | float = 0
    """Pairs that are held out, whole prompts at a time: how many (64), or which share of the
    prompts (0.05); 0 holds out none."""

    every: int = Field(100, ge=1)
    """Measure them every so many optimizer steps, before the first one and after the last."""

    max_pairs: int = Field(128, ge=1)
    """Measure at most so many of them, always the same ones."""

    @field_validator("held_out")
    @classmethod
    def _held_out_is_a_number_or_a_share(cls, held_out: int | float) -> int | float:
        if held_out < 0 or (isinstance(held_out, float) and held_out >= 1):
            raise ValueError("give a whole number of pairs, or a share of the prompts below 1")
        return held_out


class SampleSettings(FrozenSettings):
    """Pictures that are made on the way, always of the same prompts with the same seeds."""

    every: int | None = Field(None, ge=0)
    """Make them every so many optimizer steps, before the first one and after the last; none means
    whenever a checkpoint is saved, 0 makes none."""

    prompts: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = ()
    """What they show; none given means the first prompts held out, or else of the data."""

    num_prompts: int = Field(4, ge=1, le=64)
    """How many prompts are taken from the data if none are given."""

    num_steps: int = Field(20, ge=1, le=200)
    """Denoising steps."""

    scale: float = Field(DEFAULT_SCALE, ge=0, le=30)
    """Guidance scale s as the paper writes it; diffusers' guidance_scale is 1 + s."""

    alphas: tuple[Annotated[float, Field(ge=-1, le=2)], ...] = Field((DEFAULT_ALPHA,), min_length=1)
    """Values of α, one picture of a CHATS pair for each."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the first prompt's noise; the next prompt has the next one."""


class RunSettings(FrozenSettings):
    """Where it is written, and how it runs."""

    output: Path
    """Folder of the run; an interrupted run in it goes on, a finished one is refused."""

    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of every draw: order, timesteps, noise, dropped prompts, adapters."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Number format of the forwards; weights stay in 32 bits."""

    log_every: int = Field(10, ge=1)
    """Write a line of metrics every so many optimizer steps."""

    save_every: int = Field(500, ge=1)
    """Save a checkpoint every so many optimizer steps."""

    keep_last: int = Field(2, ge=1)
    """Checkpoints that are kept."""

    trackers: tuple[TrackerName, ...] = ()
    """Programs that are sent the metrics too, by their packages: `tensorboard` (written below the
    run), `wandb`, `trackio`."""


class LaunchSettings(FrozenSettings):
    """How a training's processes are started; no part of a training."""

    engine: str | None = None
    """Start it with this file of training/engines, named without its ending; none: one process."""

    num_processes: int | None = Field(None, ge=1)
    """Processes on all machines together; none means what the engine says."""


class DryRunSettings(LaunchSettings):
    """What a dry run is asked beside the training's settings; no part of a training."""

    pairs_per_second: float | None = Field(None, gt=0)
    """A measured speed of all processes; none means the speed in the run's metrics, if any."""


class TrainingConfig(FrozenSettings):
    """Everything that decides a training."""

    data: DataSettings
    run: RunSettings
    model: ModelSettings = ModelSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    noise: NoiseSettings = NoiseSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    validation: ValidationSettings = ValidationSettings()
    samples: SampleSettings = SampleSettings()

    @model_validator(mode="after")
    def _reference_errors_have_a_place(self) -> "TrainingConfig":
        if self.objective.cache_reference and (
            self.data.cache is None or self.data.encode == "online"
        ):
            raise ValueError("objective.cache_reference needs data.cache, and data.encode ahead")
        return self

    @model_validator(mode="after")
    def _streams_are_not_held_out(self) -> "TrainingConfig":
        if self.data.is_stream and self.validation.held_out:
            raise ValueError(
                "validation.held_out needs data.max_pairs: of a stream nothing can be held out"
            )
        return self


def load_training_config(path: Path) -> TrainingConfig:
    """Read a YAML file that holds a whole training; see `load_settings`."""
    return load_settings(TrainingConfig, path)


def load_settings(kind: type[_Settings], path: Path) -> _Settings:
    """Read a YAML file that holds all settings of a kind.

    Raises:
        UserError: The file is missing or not YAML, or one line for each setting that is wrong.
    """
    try:
        return kind.model_validate(_read_yaml(path))
    except ValidationError as error:
        raise explain_validation(error) from None


def parse_command_line(arguments: Sequence[str]) -> TrainingConfig:
    """Read the settings of a training from `--config run.yaml` and the flags; see `parse_flags`."""
    return parse_flags(
        TrainingConfig,
        arguments,
        prog="python -m training",
        description="Fine-tune a pair of denoisers on preferences. "
        "--config FILE.yaml reads settings from a file; flags go over it. --dry-run only tells "
        "what it would cost; --engine, --num-processes and --pairs-per-second go with it. "
        "`export` and `push` as the first word publish what was trained: "
        "`python -m training export --help`; `submit`, `list`, `logs`, `stop` and `resume` are the "
        "queue: `python -m training submit --help`.",
    )


def parse_flags(
    kind: type[_Settings], arguments: Sequence[str], *, prog: str, description: str
) -> _Settings:
    """Read `--config run.yaml`, if given, and lay the other flags over it.

    The file may leave out what the flags give. Prints help or what is wrong and exits, as
    command lines do, when the flags ask for it or are wrong.

    Raises:
        UserError: The file is missing or not YAML, or one line for each setting that is wrong.
    """
    path, flags = tyro.cli(
        _ConfigFile, args=list(arguments), return_unknown_args=True, add_help=False
    )
    settings = _read_yaml(path.config) if path.config else {}
    _check_all_but_missing(kind, settings)
    return tyro.cli(
        kind, prog=prog, args=flags, default=_partial(kind, settings), description=description
    )


class _ConfigFile(FrozenSettings):
    config: Path | None = None
    """YAML file of settings."""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_SAFE_LOADER)
    except OSError as error:
        raise UserError(f"Can't read the config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The config {path} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"The config {path} must map names to settings, not be a {type(content)}.")
    return content


def _check_all_but_missing(kind: type[BaseModel], settings: Mapping[str, Any]) -> None:
    """Refuse wrong settings of a file, but let the command line add those that it leaves out."""
    try:
        kind.model_validate(settings)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        wrong = [p for p in problems if p["type"] not in ("missing", "value_error")]
        if wrong:
            raise explain_validation(
                ValidationError.from_exception_data(error.title, wrong)
            ) from None


def _partial(model: type[BaseModel], settings: Mapping[str, Any]) -> Any:
    """Build a default for tyro in which the required settings that are not given stay missing."""
    values = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            values[name] = _partial(field.annotation, settings.get(name) or {})
        elif name in settings:
            values[name] = TypeAdapter(field.annotation).validate_python(settings[name])
        else:
            values[name] = tyro.MISSING if field.is_required() else field.get_default()
    return model.model_construct(**values)
