"""What a training would do and cost, told without starting it; nothing is written."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch
import yaml

from chats.models.loading import model_sizes, resolve_model
from chats.objective import OBJECTIVES
from chats.pairs.hub import is_hub_id
from training.config import DryRunSettings, TrainingConfig
from training.launch import Engine, find_engine, launch_command
from training.loop.optimizers import learning_rate
from training.loop.validation import read_sides
from training.planning.estimate import (
    MemoryReport,
    forward_equivalents,
    memory_estimate,
    pairs_per_step,
)
from training.planning.footprint import Footprint, footprint
from training.run import RunDirectory

_GB = 1e9
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state ({name})",
    "average": "moving average",
    "exchange": "being exchanged",
    "activations": "activations",
}


@dataclass(frozen=True)
class Device:
    """What a process trains on; the size is none for one that is not on this machine."""

    name: str
    num_bytes: int | None
    is_cpu: bool


def dry_run(config: TrainingConfig, settings: DryRunSettings, arguments: Sequence[str]) -> str:
    """Return the settings, the command, and what the training would cost, for a person to read.

    Args:
        config: The training's settings.
        settings: What else is asked.
        arguments: The command line that gave `config`, without what belongs to the dry run.

    Raises:
        UserError: A mistake in settings or data that would also stop the training, or an engine
            that is not there.
    """
    engine = find_engine(settings.engine, num_processes=settings.num_processes)
    num_pairs = _num_pairs(config)
    report = memory_report(config, engine)
    sections = {
        "Settings": [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip()],
        "Command": _command_lines(engine, arguments),
        "Course": _course(
            config,
            settings,
            engine=engine,
            num_pairs=num_pairs,
            forwards_per_pair=report.forwards_per_pair,
        ),
        "Parameters": _parameters(report),
        "Memory of each process, in GB (10⁹ bytes)": _memory(report),
    }
    return "\n\n".join(f"# {title}\n" + "\n".join(lines) for title, lines in sections.items())


def memory_report(config: TrainingConfig, engine: Engine) -> MemoryReport:
    """Count what one process of a training would hold; no weights are loaded.

    Raises:
        UserError: There is no such base model, or it can't be trained with these settings.
    """
    folder = resolve_model(config.model.base, with_weights=False)
    pipeline_bytes = model_sizes(folder, dtype=torch.float32).resident
    found = footprint(config, folder)
    memory = memory_estimate(
        trained=found.trained,
        num_frozen=found.num_frozen,
        activation_bytes=found.activation_bytes,
        settings=config.optimizer,
        num_processes=engine.num_processes,
        num_gathered=found.num_gathered if engine.shares_out else None,
        shares_states=engine.shares_states,
    )
    device = _device(engine)
    parts = {
        _PARTS[part].format(name=config.optimizer.name): size for part, size in vars(memory).items()
    }
    if device.is_cpu:
        parts["the model as it was loaded"] = pipeline_bytes
    elif config.data.encode == "online":
        parts["encoders, which stay"] = pipeline_bytes - 4 * _num_denoiser(config, found)
    return MemoryReport(
        parts={title: size for title, size in parts.items() if size},
        encoding_bytes=0 if device.is_cpu else pipeline_bytes,
        loading_bytes=pipeline_bytes + memory.weights,
        device=device.name,
        device_bytes=device.num_bytes,
        remedies=tuple(_remedies(config)),
        num_trained=found.num_trained,
        num_frozen=found.num_frozen,
        forwards_per_pair=forward_equivalents(
            OBJECTIVES[config.objective.name],
            kind=config.model.kind,
            gradient_checkpointing=config.optimizer.gradient_checkpointing,
            with_reference=not config.objective.cache_reference,
        ),
    )


def _command_lines(engine: Engine, arguments: Sequence[str]) -> Iterator[str]:
    yield shlex.join(launch_command(engine, arguments))
    if engine.num_machines > 1:
        yield (
            f"on each of {engine.num_machines} machines: RANK is 0 on the first, 1 on the next; "
            "ADDRESS is the first one's, on all of them"
        )


def _num_pairs(config: TrainingConfig) -> int | None:
    """Return how many pairs are trained on; none where data is not fetched or not unpacked yet.

    Raises:
        UserError: The data can't be used.
    """
    path = config.data.path
    if path.is_file() and path.suffix == ".zip":
        return None
    if not path.exists() and is_hub_id(path.as_posix()):
        return None
    training, _ = read_sides(config)
    return len(training)


def _course(
    config: TrainingConfig,
    settings: DryRunSettings,
    *,
    engine: Engine,
    num_pairs: int | None,
    forwards_per_pair: int,
) -> Iterator[str]:
    optimizer, processes = config.optimizer, engine.num_processes
    per_step = pairs_per_step(optimizer, num_processes=processes)
    total = per_step * optimizer.num_steps
    yield (
        f"{per_step} pairs a step: {processes} process{'es' * (processes > 1)} × batch "
        f"{optimizer.batch_size} × accumulation {optimizer.gradient_accumulation}"
    )
    epochs = "how many epochs is not known before the data is here"
    if num_pairs is not None:
        epochs = f"{total / num_pairs:,.1f} epochs of {num_pairs} pairs"
    yield f"{optimizer.num_steps} steps see {total} pairs: {epochs}"
    peak = learning_rate(optimizer.warmup_steps + 1, optimizer, num_processes=processes)
    yield f"learning rate {peak:.4g} at its peak"
    yield (
        f"a pair costs about {forwards_per_pair} forwards of the denoiser, its encoding not counted"
    )
    if config.objective.cache_reference:
        yield "forwards of the reference come before the first step, unless they are kept already"
    yield _time(config, settings, num_pairs=total)


def _time(config: TrainingConfig, settings: DryRunSettings, *, num_pairs: int) -> str:
    rate, source = settings.pairs_per_second, "as given"
    if rate is None:
        lines = RunDirectory(config.run.output).read_metrics()
        rates = [line["pairs_per_second"] for line in lines if line.get("pairs_per_second")]
        rate, source = (rates[-1] if rates else None), "measured in this run"
    if not rate:
        return "time: not known; measure some steps, or give --pairs-per-second"
    seconds = num_pairs / rate
    size, unit = (3600, "hours") if seconds >= 3600 else (60, "minutes")
    return f"time: about {seconds / size:.2g} {unit} at {rate:.3g} pairs a second, {source}"


def _parameters(report: MemoryReport) -> Iterator[str]:
    yield f"trained {report.num_trained:>16,}"
    yield f"frozen  {report.num_frozen:>16,}"


def _num_denoiser(config: TrainingConfig, found: Footprint) -> int:
    """Return how many parameters one denoiser has."""
    if config.model.kind == "lora":
        return found.num_frozen
    return found.num_trained // len(OBJECTIVES[config.objective.name].trained)


def _memory(report: MemoryReport) -> Iterator[str]:
    for title, size in report.parts.items():
        yield _line(title, size)
    yield _line("together", report.total)
    if report.device_bytes is not None:
        yield _line(f"there is ({report.device})", report.device_bytes)
        if not report.fits:
            yield f"It does not fit. What helps: {', '.join(report.remedies)}."
    if report.encoding_bytes:
        yield _line("before that, to encode the data", report.encoding_bytes)
        yield _line("main memory, at the start", report.loading_bytes)
    yield (
        "Activations are counted for one forward of the batch, without running it; what kernels "
        "need to work in, and gaps between tensors, come on top."
    )


def _line(title: str, num_bytes: int) -> str:
    return f"{title:<32}{num_bytes / _GB:>10.3f}"


def _remedies(config: TrainingConfig) -> Iterator[str]:
    """Return what lowers the memory and is not done yet, the cheapest first."""
    if not config.optimizer.gradient_checkpointing:
        yield "optimizer.gradient_checkpointing true"
    if config.optimizer.batch_size > 1:
        yield "a smaller optimizer.batch_size with more optimizer.gradient_accumulation"
    if config.optimizer.name != "adafactor":
        yield "optimizer.name adafactor"
    if config.model.kind == "full":
        yield "model.kind lora"
    yield "a smaller data.resolution"
    yield "a device with more memory"


def _device(engine: Engine) -> Device:
    """Return what each process trains on; a GPU may be meant that this machine does not have."""
    if torch.cuda.is_available() and not engine.on_cpu:
        properties = torch.cuda.get_device_properties(0)
        return Device(properties.name, properties.total_memory, is_cpu=False)
    if engine.on_cpu or engine.path is None:
        return Device("main memory", psutil.virtual_memory().total, is_cpu=True)
    return Device("a GPU", None, is_cpu=False)
