"""A folder to the Hub in one commit, told as it goes on; no torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from training.progress import OnProgress, Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MB = 1_000_000
_MAX_FILES_AT_ONCE = 200
_MAX_BYTES_AT_ONCE = 50 * _MB


def upload(
    folder: Path,
    repo_id: str,
    *,
    api: "HfApi",
    on_progress: OnProgress,
    commit_message: str,
    delete_patterns: Sequence[str],
    repo_type: Literal["model", "dataset", "space"] = "model",
) -> None:
    """Upload all files, then commit them; what the patterns name and is not among them goes.

    The Hub takes large files before a commit names them: they are sent some at a time, so that it
    can be told how far it is. The commit itself finds them there. Ended before it, the repository
    is as it was.

    Args:
        folder: The files.
        repo_id: The repository, which is there.
        api: The Hub.
        on_progress: Is told the size of what is sent.
        commit_message: Of the commit.
        delete_patterns: What an earlier commit may have left.
        repo_type: What kind of repository it is.
    """
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total, done = sum(path.stat().st_size for path in files), 0
    for group in _groups(files):
        on_progress(_sent(done, total))
        additions = [
            CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in group
        ]
        api.preupload_lfs_files(repo_id, additions, repo_type=repo_type)
        done += sum(path.stat().st_size for path in group)
    on_progress(_sent(done, total))
    api.upload_folder(
        repo_id=repo_id,
        repo_type=repo_type,
        folder_path=folder,
        commit_message=commit_message,
        delete_patterns=list(delete_patterns),
    )


def _groups(files: Sequence[Path]) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for path in files:
        if group and (
            len(group) == _MAX_FILES_AT_ONCE or size + path.stat().st_size > _MAX_BYTES_AT_ONCE
        ):
            yield group
            group, size = [], 0
        group.append(path)
        size += path.stat().st_size
    if group:
        yield group


def _sent(num_bytes: int, total: int) -> Progress:
    return Progress("MB sent", -(-num_bytes // _MB), -(-total // _MB))
