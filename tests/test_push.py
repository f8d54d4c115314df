"""A pair to the Hub: against a Hub of our own in memory, and where there is none."""

import socket
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import HfApi, constants, errors
from huggingface_hub.utils import filter_repo_objects

from chats.errors import UserError
from training.publishing.push import check_target, push_folder


class FakeApi:
    """A Hub in memory; `refuse` says which calls raise what."""

    def __init__(self, files=(), *, private=False, refuse=None):
        self.files = {"owner/name": set(files)} if files else {}
        self.private = dict.fromkeys(self.files, private)
        self.num_commits = 0
        self.sent: list[str] = []
        self.refuse = refuse or {}

    def whoami(self):
        self._answer("whoami")

    def model_info(self, repo_id):
        self._answer("model_info")
        if repo_id not in self.files:
            raise http_error(404, kind=errors.RepositoryNotFoundError)
        siblings = [SimpleNamespace(rfilename=name) for name in self.files[repo_id]]
        return SimpleNamespace(private=self.private[repo_id], siblings=siblings)

    def dataset_info(self, repo_id):
        return self.model_info(repo_id)

    def create_repo(self, repo_id, *, private, exist_ok, repo_type="model"):
        self._answer("create_repo")
        assert exist_ok
        self.files.setdefault(repo_id, {".gitattributes"})
        self.private.setdefault(repo_id, private)
        return f"https://huggingface.co/{repo_id}"

    def preupload_lfs_files(self, repo_id, additions, *, repo_type):
        self._answer("preupload_lfs_files")
        self.sent += [each.path_in_repo for each in additions]

    def upload_folder(
        self, *, repo_id, folder_path, commit_message, delete_patterns, repo_type="model"
    ):
        self._answer("upload_folder")
        added = {p.relative_to(folder_path).as_posix() for p in folder_path.rglob("*.*")}
        deleted = filter_repo_objects(self.files[repo_id], allow_patterns=delete_patterns)
        self.files[repo_id] = self.files[repo_id] - set(deleted) | added
        self.num_commits += 1

    def _answer(self, name):
        if name in self.refuse:
            raise self.refuse[name]


def http_error(status, *, kind=errors.HfHubHTTPError) -> Exception:
    request = httpx2.Request("POST", "https://huggingface.co")
    return kind(
        f"{status}: what the Hub says\nmore", response=httpx2.Response(status, request=request)
    )


@pytest.fixture
def folder(tmp_path):
    for name in ("pair.json", "README.md", "preferred/weights.safetensors"):
        path = tmp_path / "pair" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "pair"


def push(folder, api, *, private=False) -> str:
    check_target("owner/name", private=private, api=api)
    return push_folder(folder, "owner/name", private=private, api=api)


@pytest.mark.parametrize(
    "name",
    ["name", "a/b/c", "owner/", "owner/na me", "owner/a--b", "owner/a..b", "owner/a.git", ""],
)
def test_a_name_that_no_repository_can_have_is_refused_before_the_hub_is_asked(name):
    api = FakeApi(refuse={"whoami": AssertionError("asked")})
    with pytest.raises(UserError, match="is no name of a repository"):
        check_target(name, private=False, api=api)


def test_without_a_login_it_says_how_to_log_in(monkeypatch):
    """With the real library, which finds no token."""
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    with pytest.raises(UserError, match=r"^Can't push .* nobody is logged in .*hf auth login.*$"):
        check_target("owner/name", private=False, api=HfApi())


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_it_is_one_message(monkeypatch, offline):
    """With the real library: in offline mode, and where nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(UserError, match=r"^Can't push .*: the Hub cannot be reached") as raised:
            check_target("owner/name", private=False, api=HfApi(endpoint, token="hf_secret"))
    assert "hf_secret" not in str(raised.value)


@pytest.mark.parametrize("call", ["whoami", "create_repo", "upload_folder"])
def test_a_token_that_may_not_write_is_told_in_one_line(folder, call):
    api = FakeApi(refuse={call: http_error(403)})
    with pytest.raises(UserError, match="403: what the Hub says Log in with a token") as raised:
        push(folder, api)
    assert "\n" not in str(raised.value)


def test_a_card_that_the_hub_refuses_is_told(folder):
    api = FakeApi(refuse={"upload_folder": ValueError("Invalid metadata in README.md.")})
    with pytest.raises(
        UserError, match=r"Can't push to owner/name: Invalid metadata in README\.md"
    ):
        push_folder(folder, "owner/name", private=False, api=api)


def test_a_repository_that_holds_something_else_is_refused():
    api = FakeApi({".gitattributes", "README.md", "unet/weights.safetensors"})
    with pytest.raises(UserError, match=r"holds something else than a pair \(unet/weights"):
        check_target("owner/name", private=False, api=api)


def test_a_public_repository_is_refused_if_a_private_one_was_asked_for():
    with pytest.raises(UserError, match="is there already and is public"):
        check_target("owner/name", private=True, api=FakeApi({"pair.json"}))
    check_target("owner/name", private=True, api=FakeApi({"pair.json"}, private=True))


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_gets_the_folder_in_one_commit(folder, private):
    api = FakeApi()
    address = push(folder, api, private=private)
    assert address == "https://huggingface.co/owner/name"
    assert api.private["owner/name"] == (True if private else None)
    assert api.num_commits == 1
    assert api.files["owner/name"] == {
        ".gitattributes",
        "pair.json",
        "README.md",
        "preferred/weights.safetensors",
    }


def test_a_pair_that_was_there_is_replaced_and_other_files_stay(folder):
    api = FakeApi({"unet_win/a.safetensors", "vae/b.safetensors", "pictures/one.png"})
    push(folder, api)
    assert api.files["owner/name"] == {
        "pictures/one.png",
        "pair.json",
        "README.md",
        "preferred/weights.safetensors",
    }


def test_it_is_told_how_far_an_upload_is_and_what_ends_it_leaves_the_repository(folder):
    for name in ("preferred/weights.safetensors", "dispreferred/weights.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(40_000_000)
    api, told = FakeApi(), []
    push_folder(folder, "owner/name", private=True, api=api, on_progress=told.append)
    assert [(each.done, each.total) for each in told] == [(0, 80), (40, 80), (80, 80)]
    assert set(api.sent) == api.files["owner/name"] - {".gitattributes"}

    def leave(progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    api = FakeApi(["pair.json"])
    with pytest.raises(KeyboardInterrupt):
        push_folder(folder, "owner/name", private=False, api=api, on_progress=leave)
    assert (api.num_commits, api.files["owner/name"]) == (0, {"pair.json"})
