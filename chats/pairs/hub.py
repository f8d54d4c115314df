"""Model folders from the Hub: what is fetched, and one clear message for each way it can fail."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chats.errors import UserError
from chats.pairs.weight_files import VARIANT_MARKS, local_folder

OnBytes = Callable[[int, int], None]
"""Is told the bytes that are here and those in all."""

_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHT_FILES = ("*/*.safetensors",)
_LEFT_OUT = (
    *(f"*{mark}*" for mark in VARIANT_MARKS),
    "*openvino*",
    "*onnx*",
    "*flax*",
    "safety_checker/*",
)
_OFFLINE = (
    "What works without a network: the embedded model (shapes), a folder, and what was fetched "
    "before."
)


def is_hub_id(name: str) -> bool:
    """Say whether `name` is written like a Hub id, `owner/name`."""
    part = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    return re.fullmatch(f"{part}/{part}", name) is not None and ".." not in name


def fetch_texts(repo_id: str) -> Path:
    """Fetch only the small files of a repository (configurations, tokenizers)."""
    return _fetch(repo_id, patterns=_TEXT_FILES)


def fetch(repo_id: str, *, on_bytes: OnBytes | None = None) -> Path:
    """Fetch a repository's configurations and default safetensors, and return its local folder.

    Files that were fetched before are used as they are when the Hub cannot be reached. What was
    fetched of a file before an end is not fetched again.

    Args:
        repo_id: such as `owner/name`.
        on_bytes: called with the bytes that are here and those in all; what it raises ends it.

    Raises:
        UserError: no such repository, no access to it, or the Hub cannot be reached.
    """
    return _fetch(repo_id, patterns=(*_TEXT_FILES, *_WEIGHT_FILES), on_bytes=on_bytes)


def fetch_files(repo_id: str, patterns: tuple[str, ...], *, instead: str) -> Path:
    """Fetch the files of a repository that fit the patterns, and return its local folder.

    Args:
        repo_id: `owner/name`.
        patterns: names of files, with `*` for any characters.
        instead: what can be done where the Hub cannot be reached, for the message.

    Raises:
        UserError: See `fetch`.
    """
    return _fetch(repo_id, patterns=patterns, instead=instead)


def file_at_hand(name: str, file: str) -> Path | None:
    """Return a file of a folder or of a Hub repository that is on this machine already."""
    if (folder := local_folder(name)) is not None:
        return folder / file if (folder / file).is_file() else None
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def _fetch(
    repo_id: str,
    *,
    patterns: tuple[str, ...],
    instead: str = _OFFLINE,
    on_bytes: OnBytes | None = None,
) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                repo_id,
                allow_patterns=list(patterns),
                ignore_patterns=list(_LEFT_OUT),
                tqdm_class=None if on_bytes is None else _bar_that_tells(on_bytes),
            )
        )
    except errors.GatedRepoError:
        raise UserError(
            f"{repo_id} asks for a consent: accept its terms on its page on the Hub, then log in "
            "on this machine with `hf auth login`."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"There is no {repo_id!r} on the Hub, or it is private. Check the spelling; for a "
            "private model log in with `hf auth login`."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        raise UserError(
            f"{repo_id} is not on this machine and the Hub cannot be reached. {instead}"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise UserError(f"{repo_id} could not be fetched: {_first_line(error)}") from None


def _bar_that_tells(on_bytes: OnBytes) -> type:
    """Return a progress bar that draws nothing and tells how many bytes have been written."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # Of the bars of a snapshot, one counts what is written, another what came by wire.
            is_by_wire = str(options.get("desc")).startswith("Downloading")
            self._is_of_bytes = options.get("unit") == "B" and not is_by_wire
            self._num_done = 0
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self._is_of_bytes:
                self._num_done += int(n or 0)
                on_bytes(self._num_done, int(getattr(self, "total", None) or 0))

    return Bar


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
