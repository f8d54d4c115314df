"""What weight files may be read, and how large they are: judged before anything is loaded.

Only safetensors are ever read. Pickle files can run code, so they are refused by their name and,
when they are disguised as safetensors, by their first bytes. This module imports no torch.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from chats.errors import UserError

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_PICKLE_MAGICS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
VARIANT_MARKS = (".fp16", "non_ema", "ema_only")
"""In the names of files that hold weights a second time; the files without are loaded."""
_BYTES_PER_ELEMENT = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def local_folder(name: str) -> Path | None:
    """Return the folder that `name` is on this machine; none if there is no such folder."""
    try:
        folder = Path(name).expanduser().resolve()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # no name of a file at all
        return None


def component_folders(folder: Path) -> list[Path]:
    """Return the folders of a pipeline's components as its model_index.json lists them."""
    index = read_json(folder / "model_index.json")
    return [
        folder / name
        for name, kind in index.items()
        if not name.startswith("_") and isinstance(kind, list) and all(kind)
        if (folder / name).is_dir()
    ]


def check_weight_files(folder: Path) -> None:
    """Refuse a folder whose weights are pickles or damaged safetensors.

    Raises:
        UserError: the first file that is refused, by its name inside `folder`, and why.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if path.suffix == ".safetensors":
            _check_safetensors(path, name=name)
        elif path.suffix in _PICKLE_SUFFIXES and not any(path.parent.glob("*.safetensors")):
            raise UserError(
                f"{name} in {folder.name} is a pickle file, which can run code when it is read, "
                "and there is no safetensors file beside it. Convert the weights to safetensors "
                "(save_pretrained writes them) and load that folder."
            )


def check_weight_file(path: Path) -> None:
    """Refuse one file that is no safetensors file: a pickle, or damaged.

    Raises:
        UserError: why it is refused.
    """
    if path.suffix in _PICKLE_SUFFIXES:
        raise UserError(
            f"{path.name} is a pickle file, which can run code when it is read. Convert it to "
            "safetensors in an environment that you can lose, and give that file."
        )
    _check_safetensors(path, name=Path(path.name))


def weight_bytes(folder: Path, *, bytes_per_float: int) -> int:
    """Return the memory that the safetensors under `folder` take once they are loaded.

    Args:
        folder: a component's folder or a folder of such folders.
        bytes_per_float: size of one floating-point element in the dtype they are loaded in.
    """
    return sum(_tensor_bytes(folder, bytes_per_float=bytes_per_float))


def largest_tensor_bytes(folder: Path, *, bytes_per_float: int) -> int:
    """Return the memory that the largest tensor under `folder` takes; see `weight_bytes`."""
    return max(_tensor_bytes(folder, bytes_per_float=bytes_per_float), default=0)


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        UserError: the file is missing or holds no JSON object; says its name, not its path.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent.name} has no {path.name}.") from None
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UserError(f"{path.name} in {path.parent.name} cannot be read: it is damaged.")
    return document


def _check_safetensors(path: Path, *, name: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_PICKLE_MAGICS):
        raise UserError(
            f"{name} is a pickle or zip file under the name of a safetensors file: it is refused, "
            "because reading it can run code."
        )
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{name} is damaged ({error}). Download or copy it again; an interrupted download "
            "is the usual cause."
        ) from None


def _tensor_bytes(folder: Path, *, bytes_per_float: int) -> Iterator[int]:
    for path in folder.rglob("*.safetensors"):
        if _is_default_variant(path):
            for dtype, count in _tensors(path):
                size = bytes_per_float if dtype in _FLOATS else _BYTES_PER_ELEMENT.get(dtype, 1)
                yield count * size


def _tensors(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (dtype, number of elements) of each tensor from the header alone."""
    with safe_open(path, framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118 (safe_open is not iterable)
            part = file.get_slice(key)
            yield part.get_dtype(), math.prod(part.get_shape())


def _is_default_variant(path: Path) -> bool:
    return not any(mark in path.name for mark in VARIANT_MARKS)
