"""A zip of a data set, unpacked with nothing trusted: refused whole, or unpacked whole."""

import hashlib
import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from filelock import FileLock

from chats.errors import UserError

_CHUNK_BYTES = 2**20
_REGULAR_OR_UNSAID = (0, stat.S_IFREG)
_DRIVE = re.compile(r"[A-Za-z]:")
_SAYS_UTF8 = 0x800
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may grow to.

    Attributes:
        num_files: Files in it.
        num_bytes: Bytes of its files, unpacked.
        ratio: Bytes of its files, unpacked, for each of its own bytes. Pictures hardly shrink.
    """

    num_files: int = 2_000_000
    num_bytes: int = 200 * 2**30
    ratio: int = 200


def unpack(
    archive: Path,
    folder: Path,
    *,
    limits: ArchiveLimits | None = None,
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
) -> Path:
    """Unpack a zip below a folder, once, and return where its data set lies.

    The folder's name tells the content, so the same archive is not unpacked again and a changed
    one is. It appears only when it is whole; two processes do not get in each other's way.

    Args:
        archive: The zip.
        folder: Takes the folder that it is unpacked into.
        limits: What it may grow to; none stands for the defaults.
        on_bytes: Is told how many bytes were unpacked since it was last told.

    Raises:
        UserError: It is no zip, is damaged or encrypted, holds a path that leads out of it, a
            link or a device, is larger than the limits, or the disk refuses it.
    """
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{archive.stem[:80]}-{digest[:16]}"
        with FileLock(folder / f".{target.name}.lock"):
            if not target.is_dir():
                _unpack_staged(archive, target, limits=limits or ArchiveLimits(), on_bytes=on_bytes)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise UserError(f"{archive.name} is no zip file or is damaged: {error}.") from error
    except OSError as error:
        raise UserError(
            f"{archive.name} can't be unpacked into {folder}: {error.strerror}. That folder must "
            "be one that can be written to and has room; data.cache sets it for a training."
        ) from error
    return _inner_folder(target)


def _unpack_staged(
    archive: Path, target: Path, *, limits: ArchiveLimits, on_bytes: Callable[[int], None]
) -> None:
    staged = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed; the lock is ours
    try:
        with zipfile.ZipFile(archive) as file:
            members = _checked(file, name=archive.name, limits=limits)
            most_bytes = min(limits.num_bytes, limits.ratio * archive.stat().st_size)
            for num_bytes in _extract(
                file, members, staged, most_bytes=most_bytes, name=archive.name
            ):
                on_bytes(num_bytes)
        staged.rename(target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _checked(
    file: zipfile.ZipFile, *, name: str, limits: ArchiveLimits
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Return the files with their paths; nothing of the archive was unpacked before."""
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in file.infolist():
        path = PurePosixPath(_name(info).replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or _DRIVE.match(info.filename):
            raise UserError(f"{name} is refused: {info.filename!r:.200} leads out of the archive.")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (*_REGULAR_OR_UNSAID, stat.S_IFDIR):
            raise UserError(f"{name} is refused: {info.filename!r:.200} is a link or a device.")
        if info.flag_bits & 1:
            raise UserError(f"{name} is encrypted. Pack it without a password.")
        if info.is_dir() or _is_litter(path):
            continue
        if path in members or not path.parts:
            raise UserError(f"{name} is refused: it holds {info.filename!r:.200} twice.")
        members[path] = info
        if len(members) > limits.num_files:
            raise UserError(f"{name} is refused: it holds more than {limits.num_files:,} files.")
    return [(info, path) for path, info in members.items()]


def _extract(
    file: zipfile.ZipFile,
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]],
    folder: Path,
    *,
    most_bytes: int,
    name: str,
) -> Iterator[int]:
    """Write the files, and yield after each how many bytes it had."""
    folder.mkdir()
    left = most_bytes
    for info, path in members:
        target = folder.joinpath(*path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open(info) as packed, target.open("xb") as unpacked:
            num_bytes = _copy(packed, unpacked, most_bytes=left)
        left -= num_bytes
        if left < 0:
            raise UserError(
                f"{name} is refused: it unpacks to more than {most_bytes:,} bytes, which no "
                "archive of pictures does."
            )
        yield num_bytes


def _copy(packed: BinaryIO, unpacked: BinaryIO, *, most_bytes: int) -> int:
    """Copy until the end, or until more than `most_bytes` came; return how many came."""
    num_bytes = 0
    while num_bytes <= most_bytes and (chunk := packed.read(_CHUNK_BYTES)):
        num_bytes += len(chunk)
        if num_bytes <= most_bytes:
            unpacked.write(chunk)
    return num_bytes


def _name(info: zipfile.ZipInfo) -> str:
    """Return a file's name; many programs write UTF-8 and do not say so."""
    if info.flag_bits & _SAYS_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _is_litter(path: PurePosixPath) -> bool:
    """Whether a file is one that macOS or Windows adds to archives."""
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name in _LITTER


def _inner_folder(folder: Path) -> Path:
    """Return the only folder in a folder that holds nothing else, as an archive of a folder has."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
