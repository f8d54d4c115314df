"""Training state on disk: staged, synced, listed with its hashes, and only then renamed into place.

Whatever ends a training, the newest checkpoint that is listed is whole. Nothing but safetensors
and JSON is written or read.
"""

import hashlib
import json
import logging
import re
import secrets
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chats.config import FrozenSettings
from chats.errors import UserError, explain_validation
from training.data.shards import as_os_error
from training.disk import disk_errors_explained, sync
from training.loop.sharding import shared_out

logger = logging.getLogger(__name__)

_MANIFEST, _STATE = "manifest.json", "state.json"
_STAGED = ".staged-"
_FileName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.(safetensors|json)$")]


class _DamagedError(ValueError):
    """A checkpoint is not what was saved; its text says how that shows."""


class FileRecord(FrozenSettings):
    """What the manifest says of one file."""

    size: int = Field(ge=0)
    """Length in bytes."""

    sha256: str
    """Hash of the content, in hexadecimal digits."""


class Manifest(FrozenSettings):
    """The list of a checkpoint's files, manifest.json, which is written last."""

    format_version: Literal[1] = 1
    """Version of this layout."""

    step: int = Field(ge=0)
    """Optimizer steps done."""

    files: dict[_FileName, FileRecord]
    """Every other file, by its plain name."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found to be whole.

    Attributes:
        folder: Where it lies.
        step: Optimizer steps done.
        groups: Names of its groups of tensors.
    """

    folder: Path
    step: int
    groups: tuple[str, ...]

    def load(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, JsonValue]]:
        """Return the groups of tensors, on the CPU, and the state, as they were saved."""
        tensors = {group: load_file(self.folder / _file_of(group)) for group in self.groups}
        return tensors, json.loads((self.folder / _STATE).read_text("utf-8"))


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JsonValue],
    keep_last: int,
) -> Path:
    """Save a checkpoint, then remove all but the newest `keep_last` up to this step.

    Later ones belong to a course that the training has left; they are removed as well.

    Args:
        folder: Holds the checkpoints of one run; only the run's holder may save here.
        step: Optimizer steps done.
        tensors: Groups of tensors by name, such as `model`, `optimizer`, `ema`; one file each.
        state: Everything small, as JSON.
        keep_last: How many to keep, at least 1.

    Raises:
        UserError: The disk refuses it; the checkpoints before it stay whole.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, got {keep_last}")
    final = folder / f"step-{step:08d}"
    staged = folder / f"{_STAGED}{secrets.token_hex(8)}"
    with disk_errors_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        try:
            _write_files(staged, step=step, tensors=tensors, state=state)
            if final.exists():
                _discard(final)
            staged.rename(final)
            sync(folder)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        checkpoints = _checkpoints(folder)
        kept = [number for number in checkpoints if number <= step][:keep_last]
        for number in checkpoints.keys() - kept:
            _discard(checkpoints[number])
    return final


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; those that are not are skipped with a warning.

    What an interrupted save left is removed, so only the run's holder may ask.
    """
    with disk_errors_explained(folder):
        _sweep(folder)
    for step, path in _checkpoints(folder).items():
        try:
            return _checked(path, step=step)
        except _DamagedError as error:
            logger.warning("The checkpoint %s is damaged and skipped: %s", path, error)
    return None


def optimizer_tensors(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take an optimizer's state apart into tensors and JSON, by the order of its parameters.

    The tensors are the optimizer's own, not copies.
    """
    tensors: dict[str, Tensor] = {}
    groups, values = [], []
    for number, group in enumerate(optimizer.param_groups):
        settings = {name: value for name, value in group.items() if name != "params"}
        settings = _without_tensors(settings, tensors, prefix=f"group.{number}.")
        groups.append({"settings": settings, "shapes": _shapes(group)})
    for number, (parameter, _) in enumerate(_parameters(optimizer)):
        held = optimizer.state.get(parameter, {})
        values.append(_without_tensors(held, tensors, prefix=f"parameter.{number}."))
    return tensors, {"groups": groups, "values": values}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Give an optimizer the state that `optimizer_tensors` took apart, bit for bit.

    Tensors keep their dtype, whatever their parameter's, and go to its device; counts of steps
    stay on the CPU unless the optimizer wants them beside the parameter.

    Raises:
        UserError: The state is another kind of optimizer's, or one of other parameters.
    """
    owned = _by_owner(tensors)
    _check_fits(optimizer, owned, state)
    for number, group in enumerate(optimizer.param_groups):
        for name, value in state["groups"][number]["settings"].items():
            group[name] = tuple(value) if isinstance(group[name], tuple) else value
        for name, tensor in owned.get(f"group.{number}", {}).items():
            group[name] = tensor.to(torch.as_tensor(group[name]).device, copy=True)
    optimizer.state.clear()
    for number, (parameter, group) in enumerate(_parameters(optimizer)):
        held = dict(state["values"][number])
        for name, tensor in owned.get(f"parameter.{number}", {}).items():
            # As torch does it: a count on the GPU would cost a wait for the GPU at every step.
            is_count = name == "step" and not (group.get("capturable") or group.get("fused"))
            tensor = tensor.to("cpu" if is_count else parameter.device, copy=True)
            is_shared_out = tensor.shape == parameter.shape and not is_count
            held[name] = shared_out(tensor, parameter) if is_shared_out else tensor
        if held:
            optimizer.state[parameter] = held


class StopRequested:
    """Hears SIGTERM and SIGINT while it is entered; the training asks between optimizer steps.

    The first signal sets `is_set`: save, then exit with `training.run.EXIT_STOPPED`. A second one
    raises KeyboardInterrupt at once. Signals reach only a process's main thread, so it can be
    entered only there.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequested":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers_before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


def _file_of(group: str) -> str:
    return f"{group}.safetensors"


def _write_files(
    staged: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JsonValue],
) -> None:
    staged.mkdir()
    for group, content in tensors.items():
        # Copies, since safetensors refuses tensors that share memory; one group of them at a time.
        copies = {
            name: each.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, each in content.items()
        }
        try:
            save_file(copies, staged / _file_of(group))
        except SafetensorError as error:
            raise as_os_error(error) from None
    (staged / _STATE).write_text(json.dumps(state, allow_nan=False), "utf-8")
    files = {path.name: _record(path) for path in sorted(staged.iterdir())}
    manifest = Manifest(step=step, files=files)
    (staged / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
    for path in (*(staged / name for name in files), staged / _MANIFEST, staged):
        sync(path)


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(
            size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


def _checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints by step, newest first, whole or not."""
    found = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    steps = ((int(match[1]), path) for match, path in found if match and path.is_dir())
    return dict(sorted(steps, reverse=True))


def _checked(path: Path, *, step: int) -> Checkpoint:
    try:
        manifest = Manifest.model_validate_json((path / _MANIFEST).read_bytes())
    except OSError as error:
        raise _DamagedError(f"{_MANIFEST}: {error.strerror}") from None
    except ValidationError as error:
        raise _DamagedError(f"{_MANIFEST}: {explain_validation(error)}") from None
    if manifest.step != step:
        raise _DamagedError(f"{_MANIFEST} is of step {manifest.step}")
    if _STATE not in manifest.files:
        raise _DamagedError(f"{_MANIFEST} does not list {_STATE}")
    for name, record in manifest.files.items():
        _check_file(path / name, record)
    groups = tuple(Path(name).stem for name in manifest.files if name.endswith(".safetensors"))
    return Checkpoint(folder=path, step=step, groups=groups)


def _check_file(path: Path, record: FileRecord) -> None:
    try:
        if path.is_symlink():
            raise _DamagedError(f"{path.name} is a link")
        if (size := path.stat().st_size) != record.size:
            raise _DamagedError(f"{path.name} has {size} bytes of {record.size}")
        if _record(path) != record:
            raise _DamagedError(f"{path.name} has another sha256 than when it was saved")
    except OSError as error:
        raise _DamagedError(f"{path.name}: {error.strerror}") from None


def _discard(path: Path) -> None:
    """Remove a checkpoint; renamed first, it is never taken for a damaged one."""
    shutil.rmtree(path.rename(path.with_name(f"{_STAGED}{secrets.token_hex(8)}")))


def _sweep(folder: Path) -> None:
    for path in folder.glob(f"{_STAGED}*"):
        shutil.rmtree(path)


def _parameters(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, dict[str, Any]]]:
    """Return each parameter with its group."""
    return [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]


def _shapes(group: Mapping[str, Any]) -> list[list[int]]:
    return [list(parameter.shape) for parameter in group["params"]]


def _without_tensors(
    values: Mapping[str, Any], tensors: dict[str, Tensor], *, prefix: str
) -> dict[str, Any]:
    """Move the tensors among values to `tensors`, and return the rest."""
    found = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    tensors |= {f"{prefix}{name}": value for name, value in found.items()}
    return {name: value for name, value in values.items() if name not in found}


def _by_owner(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Sort `parameter.12.exp_avg` to `exp_avg` of `parameter.12`."""
    owners: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, number, name = key.split(".", 2)
        owners.setdefault(f"{kind}.{number}", {})[name] = tensor
    return owners


def _check_fits(
    optimizer: torch.optim.Optimizer,
    owned: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
) -> None:
    advice = "Resume with the settings that the run was started with."
    groups = optimizer.param_groups
    if [saved["shapes"] for saved in state["groups"]] != [_shapes(group) for group in groups]:
        count = sum(len(saved["shapes"]) for saved in state["groups"])
        raise UserError(
            f"The checkpoint's optimizer is for {count} parameters of other shapes or groups than "
            f"the {len(_parameters(optimizer))} of this training. {advice}"
        )
    for number, (group, saved) in enumerate(zip(groups, state["groups"], strict=True)):
        names = saved["settings"].keys() | owned.get(f"group.{number}", {}).keys()
        if unknown := sorted(names - group.keys()):
            raise UserError(
                f"The checkpoint is of another kind of optimizer, one with {', '.join(unknown)}. "
                f"{advice}"
            )
