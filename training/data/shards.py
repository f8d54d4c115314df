"""Tensors by key in safetensors files of bounded size, in a folder that processes may share.

A file is staged, synced and renamed, and only then listed in index.json with its size and hash. A
file that is not what the index says is not read: it is as if its tensors had never been there.
"""

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chats.errors import UserError
from training.disk import PARTIAL, disk_errors_explained, sync, write_atomically

ShardDtype = Literal["float32", "float16"]
"""Number format of floating-point tensors in the files."""

SHARD_BYTES = 256 * 2**20

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_VERSION = 1
_HEADER_BYTES = 1024
"""More than a tensor takes in a file's header, which safetensors bounds."""
_INDEX, _LOCK = "index.json", ".lock"
_REMEDY = "or set data.cache to another folder."
_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")


class ShardStore:
    """The folder as a mapping from keys to tensors; what was read once is mapped, not held.

    A file's hash is checked when one of its keys is first asked for.
    """

    def __init__(
        self, folder: Path, *, dtype: ShardDtype = "float32", shard_bytes: int = SHARD_BYTES
    ):
        """Open a folder, which need not exist yet.

        Args:
            folder: Holds the files.
            dtype: Floating-point tensors are kept in it; whole numbers stay as they are.
            shard_bytes: Files grow to about this size.
        """
        self.folder = folder
        self._dtype = _DTYPES[dtype]
        self._shard_bytes = shard_bytes
        self._records: dict[str, dict[str, Any]] = {}
        self._shard_of: dict[str, str] = {}
        self._open: dict[str, Any] = {}
        self._buffer: dict[str, Tensor] = {}
        self._buffer_bytes = 0
        self._load_index()

    def __contains__(self, key: str) -> bool:
        if key in self._buffer:
            return True
        shard = self._shard_of.get(key)
        return shard is not None and (shard in self._open or self._checked(shard))

    def __getitem__(self, key: str) -> Tensor:
        """Return a tensor on the CPU; floating-point numbers as float32.

        Raises:
            KeyError: There is none, or its file is damaged.
        """
        if key not in self:
            raise KeyError(key)
        if key in self._buffer:
            return _wide(self._buffer[key])
        return _wide(self._open[self._shard_of[key]].get_tensor(key))

    def rows(self, keys: Sequence[str | None]) -> "StoredRows":
        """Return tensors as the rows of one, see `StoredRows`."""
        return StoredRows(self, keys)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Keep the folder for adding; another process that fills it is waited for.

        What was added is written at the end, also when it is left by an error.

        Raises:
            UserError: The disk refuses it.
        """
        with disk_errors_explained(self.folder, remedy=_REMEDY):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.info("Another process fills the cache %s; waiting for it.", self.folder)
                lock.acquire()
        try:
            self._load_index()
            self._sweep()
            yield
        finally:
            try:
                self.flush()
            finally:
                lock.release()

    def add(self, key: str, tensor: Tensor) -> None:
        """Add a tensor, within `filling`.

        Raises:
            UserError: The disk refuses it, or a number does not fit into the number format.
        """
        kept = tensor.detach().cpu()
        if kept.is_floating_point():
            kept = kept.to(self._dtype)
            if not kept.isfinite().all():
                raise UserError(
                    f"Numbers from {tensor.min().item():.3g} to {tensor.max().item():.3g} do not "
                    "fit into the cache's number format. Set data.cache_dtype to float32."
                )
        self._buffer[key] = kept.contiguous().clone()
        self._buffer_bytes += kept.nbytes + _HEADER_BYTES
        if self._buffer_bytes >= self._shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what was added and is not on the disk yet."""
        if not self._buffer:
            return
        with disk_errors_explained(self.folder, remedy=_REMEDY):
            staged = self.folder / f"{secrets.token_hex(8)}{PARTIAL}"
            try:
                save_file(self._buffer, staged)
                sync(staged)
                digest = _sha256(staged)
                name = f"{digest[:32]}.safetensors"
                size = staged.stat().st_size
                staged.rename(self.folder / name)
            except SafetensorError as error:
                raise as_os_error(error) from error
            finally:
                staged.unlink(missing_ok=True)
            self._records[name] = {"size": size, "sha256": digest}
            self._write_index()
        self._shard_of |= dict.fromkeys(self._buffer, name)
        self._open[name] = safe_open(self.folder / name, framework="pt")
        self._buffer, self._buffer_bytes = {}, 0

    def _load_index(self) -> None:
        """Read the index anew; files that it lists and that are not there are left out."""
        self._records, self._shard_of = {}, {}
        try:
            index = json.loads((self.folder / _INDEX).read_text("utf-8"))
            if index["version"] != _VERSION:
                raise ValueError
            listed = {name: dict(record) for name, record in index["shards"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            logger.warning("%s is damaged; what it listed is made anew.", self.folder / _INDEX)
            return
        for name, record in listed.items():
            try:
                if not _NAME.fullmatch(name):
                    raise OSError
                with safe_open(self.folder / name, framework="pt") as file:
                    keys = list(file.keys())
            except (OSError, SafetensorError):
                logger.warning("%s is damaged; it is made anew.", self.folder / name)
                continue
            self._records[name] = record
            self._shard_of |= dict.fromkeys(keys, name)

    def _checked(self, shard: str) -> bool:
        """Open a file if it is what the index says; else forget it."""
        path, record = self.folder / shard, self._records[shard]
        try:
            is_whole = path.stat().st_size == record["size"] and _sha256(path) == record["sha256"]
            if is_whole:
                self._open[shard] = safe_open(path, framework="pt")
                return True
        except (OSError, KeyError, SafetensorError):
            pass
        logger.warning("%s is damaged; what it held is made anew.", path)
        del self._records[shard]
        self._shard_of = {key: name for key, name in self._shard_of.items() if name != shard}
        return False

    def _write_index(self) -> None:
        text = json.dumps({"version": _VERSION, "shards": self._records}, indent=1)
        write_atomically(self.folder / _INDEX, text, remedy=_REMEDY)

    def _sweep(self) -> None:
        """Remove what a process that was killed left, and files that are not listed."""
        for path in self.folder.iterdir():
            is_unlisted = _NAME.fullmatch(path.name) and path.name not in self._records
            if is_unlisted or path.suffix == PARTIAL:
                path.unlink(missing_ok=True)


class StoredRows:
    """Tensors of a store as the rows of one, each read when it is asked for.

    Attributes:
        folder: Of the store.
        keys: Of the rows; none stands for a row of zeros.
        shape: Number of rows, then the shape of a row, as a tensor has it.
        dtype: Of what reading gives.
    """

    def __init__(self, store: ShardStore, keys: Sequence[str | None]):
        """Take the keys of the rows; none stands for a row of zeros. The last row must be stored.

        Raises:
            KeyError: A key is not in the store.
        """
        self.folder = store.folder
        self._store = store
        self.keys = tuple(keys)
        example = store[self.keys[-1]]
        self.shape = torch.Size((len(self.keys), *example.shape))
        self.dtype = example.dtype

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Return copies of these rows, `(len(rows), ...)`, on the CPU."""
        return torch.stack([self._row(self.keys[int(row)]) for row in rows])

    def _row(self, key: str | None) -> Tensor:
        if key is None:
            return torch.zeros(self.shape[1:], dtype=self.dtype)
        return self._store[key]


def as_os_error(error: SafetensorError) -> OSError:
    """Return the disk's refusal that safetensors tells only in words."""
    found = re.search(r"(?P<reason>[^:]*) \(os error (?P<number>\d+)\)", str(error))
    return OSError(int(found["number"]), found["reason"].strip()) if found else OSError(str(error))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
