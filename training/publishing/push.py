"""An exported pair to the Hub, in one commit, with the token that this machine is logged in with.

This module imports no torch.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from chats.errors import UserError
from training.hub import check_name, hub_errors_explained
from training.progress import OnProgress, told_to_nobody
from training.publishing.uploading import upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NO_CONTENT = frozenset({".gitattributes", ".gitignore", "README.md", "LICENSE"})
_MARKS = ("pair.json", "unet_win/", "unet_lose/")
"""How the names of files begin that are in a repository only if it holds a pair."""

_OURS = (
    *("pair.json", "model_index.json", "preferred/*", "dispreferred/*", "unet_win/*"),
    *("unet_lose/*", "text_encoder*/*", "tokenizer*/*", "vae/*", "scheduler/*"),
)
"""What an earlier push may have left, in whichever layout; other files stay."""


def check_target(repo_id: str, *, private: bool, api: "HfApi") -> None:
    """Refuse, before anything is exported, a repository that can't be or must not be pushed to.

    Raises:
        UserError: No name of a repository; nobody is logged in; the Hub can't be reached; the
            repository holds something else than a pair, or is public though `private` is asked.
    """
    from huggingface_hub import errors

    check_name(repo_id)
    with hub_errors_explained(repo_id):
        api.whoami()
        try:
            found = api.model_info(repo_id)
        except errors.RepositoryNotFoundError:
            return
    if private and not found.private:
        raise UserError(
            f"{repo_id} is there already and is public. Make it private in its settings on the "
            "Hub, or choose another name."
        )
    names = {file.rfilename for file in found.siblings or ()} - NO_CONTENT
    if names and not any(name.startswith(_MARKS) for name in names):
        raise UserError(
            f"{repo_id} holds something else than a pair ({min(names)}). Choose another name."
        )


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool,
    api: "HfApi",
    on_progress: OnProgress = told_to_nobody,
) -> str:
    """Upload an exported pair and return its address on the Hub.

    The repository is made if it is not there. A pair that it held is replaced, with its card;
    files that are no part of a pair stay.

    Args:
        folder: What `export_pair` wrote.
        repo_id: `owner/name`, seen by `check_target`.
        private: Whether a new repository is private; if not, its owner's default counts.
        api: The Hub.
        on_progress: Is told how far it is.

    Raises:
        UserError: The Hub refuses it or can't be reached; what it held before stays.
    """
    with hub_errors_explained(repo_id):
        address = api.create_repo(repo_id, private=private or None, exist_ok=True)
        upload(
            folder,
            repo_id,
            api=api,
            on_progress=on_progress,
            commit_message="Upload a preference pair",
            delete_patterns=_OURS,
        )
    return str(address)
