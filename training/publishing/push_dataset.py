"""A preference data set to the Hub, in the ImageFolder layout, in one commit; no torch."""

from typing import TYPE_CHECKING

from chats.errors import UserError
from training.datasets.export import write_folder
from training.datasets.store import DatasetStore
from training.hub import check_name, hub_errors_explained
from training.progress import OnProgress, told_to_nobody
from training.publishing.push import NO_CONTENT
from training.publishing.uploading import upload

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OFFLINE = "Exporting a zip works without a network."
_OURS = ("metadata.jsonl", "pictures/*")
"""What an earlier push may have left; other files stay."""


def push_dataset(
    store: DatasetStore,
    dataset_id: str,
    repo_id: str,
    *,
    private: bool,
    api: "HfApi",
    on_progress: OnProgress = told_to_nobody,
) -> str:
    """Upload the rows as they are now with their pictures, and return the address on the Hub.

    Raises:
        UserError: No such data set; no name of a repository; nobody is logged in; the Hub can't
            be reached or refuses it; the repository holds something else, or is public though
            `private` is asked. What it held before stays.
    """
    dataset = store.open(dataset_id)
    check_name(repo_id)
    with hub_errors_explained(repo_id, offline=OFFLINE):
        api.whoami()
        _check_target(repo_id, private=private, api=api)
        with store.staging() as staged:
            folder = write_folder(dataset, staged / "export")
            address = api.create_repo(
                repo_id, repo_type="dataset", private=private or None, exist_ok=True
            )
            upload(
                folder,
                repo_id,
                api=api,
                on_progress=on_progress,
                commit_message="Upload preference pairs",
                delete_patterns=_OURS,
                repo_type="dataset",
            )
    return str(address)


def _check_target(repo_id: str, *, private: bool, api: "HfApi") -> None:
    from huggingface_hub import errors

    try:
        found = api.dataset_info(repo_id)
    except errors.RepositoryNotFoundError:
        return
    if private and not found.private:
        raise UserError(
            f"{repo_id} is there already and is public. Make it private in its settings on the "
            "Hub, or choose another name."
        )
    names = {file.rfilename for file in found.siblings or ()} - NO_CONTENT
    if names and "metadata.jsonl" not in names:
        raise UserError(
            f"{repo_id} holds something else than preference pairs ({min(names)}). "
            "Choose another name."
        )
