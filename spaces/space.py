"""Put together the exact tree of a Hugging Face Space, and upload it.

python spaces/space.py stage --output build/space --hardware zero-a10g
python spaces/space.py deploy --repo owner/name --hardware cpu-basic

This folder must never get an `__init__.py`. On a Space, gradio imports PyPI's package `spaces`,
which lends out GPUs; a package here would be found in its place, and the app would not start there
though it runs here. What is staged has no folder of that name at all.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
import yaml
from huggingface_hub import HfApi, errors

from chats.errors import UserError
from training.hub import check_name, hub_errors_explained
from training.progress import Progress
from training.publishing.uploading import upload

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent

Hardware = Literal["zero-a10g", "cpu-basic"]

FILES = {
    "app.py": ROOT / "app.py",
    "LICENSE": ROOT / "LICENSE",
    "requirements.txt": HERE / "requirements.txt",
}
"""Files at the top of a Space, but for its card."""

PACKAGES: dict[str, frozenset[str]] = {
    "chats": frozenset({".py", ".json", ".safetensors", ".md"}),
    "training": frozenset({".py", ".yaml"}),
    "ui": frozenset({".py", ".css", ".js"}),
}
"""Folders of a Space, and the kinds of files that are taken from each; nothing else is."""

_MARK = "chats/__init__.py"
_ONLY_WITH_GPU = ("preload_from_hub", "models", "startup_duration_timeout")


@dataclass(frozen=True)
class Stage:
    """Write the tree of a Space into a folder."""

    output: Path = Path("build/space")
    """The folder; what an earlier call left there is replaced."""

    hardware: Hardware = "zero-a10g"
    """What the card suggests: a borrowed GPU (ZeroGPU), or a CPU."""

    def run(self) -> str:
        """Write it and say how large it is."""
        files = stage(self.output, hardware=self.hardware)
        size = sum(path.stat().st_size for path in files) / 1e6
        return f"{len(files)} files, {size:.1f} MB, in {self.output}"


@dataclass(frozen=True)
class Deploy:
    """Upload the tree of a Space, with the token that this machine is logged in with."""

    repo: str
    """The Space, `owner/name`; it is made if it is not there."""

    hardware: Hardware = "zero-a10g"
    """What the card suggests; the Space's settings decide, for it may cost money."""

    private: bool = False
    """Whether a new Space is private."""

    def run(self) -> str:
        """Upload it and say where it is."""
        return deploy(self.repo, hardware=self.hardware, private=self.private, api=HfApi())


def stage(output: Path, *, hardware: Hardware) -> list[Path]:
    """Write the tree of a Space into a folder; returns its files.

    Raises:
        UserError: the folder holds something that is no staged Space.
    """
    if output.exists() and any(output.iterdir()):
        if not (output / _MARK).is_file() or (output / "tests").exists():
            raise UserError(f"{output} is no staged Space and is not empty. Choose another output.")
        shutil.rmtree(output)
    for name, source in {**FILES, **dict(_package_files())}.items():
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (output / "README.md").write_text(card(hardware), "utf-8")
    return sorted(path for path in output.rglob("*") if path.is_file())


def card(hardware: Hardware) -> str:
    """Return the Space's card, whose header suits the hardware."""
    _, header, text = (HERE / "README.md").read_text("utf-8").split("---\n", 2)
    settings = yaml.safe_load(header) | {"suggested_hardware": hardware}
    if hardware == "cpu-basic":
        settings = {key: value for key, value in settings.items() if key not in _ONLY_WITH_GPU}
    written = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return f"---\n{written}---\n{text}"


def deploy(repo: str, *, hardware: Hardware, private: bool, api: HfApi) -> str:
    """Upload the tree of a Space in one commit; returns what to tell.

    Raises:
        UserError: nobody is logged in, the Hub can't be reached, or the Space is another program's.
    """
    check_name(repo)
    offline = "`make space-stage` works without a network."
    with (
        hub_errors_explained(repo, offline=offline),
        tempfile.TemporaryDirectory(prefix="chats-space-") as parent,
    ):
        _check_ours(repo, api=api)
        folder = Path(parent) / "space"
        stage(folder, hardware=hardware)
        api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        upload(
            folder,
            repo,
            api=api,
            on_progress=_tell,
            commit_message="CHATS",
            delete_patterns=["*"],
            repo_type="space",
        )
    return (
        f"The Space is at https://huggingface.co/spaces/{repo}. Choose its hardware in its "
        f"settings; the card suggests {hardware}."
    )


def _package_files() -> Iterator[tuple[str, Path]]:
    for package, suffixes in PACKAGES.items():
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), path


def _check_ours(repo: str, *, api: HfApi) -> None:
    """Refuse a Space that holds another program: an upload would replace all of it."""
    api.whoami()
    try:
        found = api.space_info(repo)
    except errors.RepositoryNotFoundError:
        return
    names = {file.rfilename for file in found.siblings or ()}
    if _MARK not in names and not names <= {".gitattributes", "README.md"}:
        raise UserError(f"The Space {repo} holds another program. Choose another name.")


def _tell(progress: Progress) -> None:
    sys.stderr.write(f"{progress.done:,} of {progress.total:,} {progress.doing}\n")


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{tyro.cli(Stage | Deploy, description=__doc__).run()}\n")
    except UserError as error:
        sys.exit(str(error))
