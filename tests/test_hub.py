"""Ways in which the Hub fails, against a small server of our own; nothing leaves this machine."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from chats.errors import UserError
from chats.models.loading import resolve_model
from chats.pairs import hub


@pytest.fixture(autouse=True)
def an_empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def answer(monkeypatch):
    """Start a server that answers everything with one status and Hub error code."""
    servers = []

    def start(status, code):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{servers[0].server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def a_closed_port():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


CANNOT_REACH = r"owner/name is not on this machine and the Hub cannot be reached.*shapes"


def test_a_refused_socket_gives_one_clear_message(monkeypatch, a_closed_port):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{a_closed_port}")
    with pytest.raises(UserError, match=CANNOT_REACH):
        hub.fetch("owner/name")


def test_offline_mode_gives_the_same_message(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=CANNOT_REACH):
        hub.fetch_texts("owner/name")


def test_a_repository_that_does_not_exist_is_called_so(answer):
    answer(404, "RepoNotFound")
    with pytest.raises(UserError, match=r"no 'owner/name' on the Hub.*spelling"):
        hub.fetch("owner/name")


def test_a_gated_repository_says_what_to_do(answer):
    answer(403, "GatedRepo")
    with pytest.raises(UserError, match=r"owner/name asks for a consent.*hf auth login"):
        hub.fetch("owner/name")


def test_a_server_that_fails_is_told_in_one_line(answer):
    answer(501, "")
    with pytest.raises(UserError, match=r"^owner/name") as raised:
        hub.fetch("owner/name")
    assert "\n" not in str(raised.value)


def test_what_was_fetched_before_works_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--owner--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "model_index.json").write_text("{}")
    assert hub.fetch_texts("owner/name") == snapshot


def test_a_model_without_its_weights_is_its_small_files(tmp_path, monkeypatch):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    fetched = []
    monkeypatch.setattr(hub, "fetch_texts", lambda name: tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda name, *, on_bytes: fetched.append(name) or tmp_path)
    assert resolve_model("owner/name", with_weights=False) == tmp_path
    assert fetched == []
    resolve_model("owner/name")
    assert fetched == ["owner/name"]


def test_what_is_fetched_is_told_once_and_who_is_told_may_end_it(tmp_path, monkeypatch):
    """The bars as snapshot_download makes them: of bytes by wire, of bytes written, of files."""
    told = []

    def download(repo_id, *, tqdm_class, **_):
        wire = tqdm_class(desc="Downloading bytes", total=0, initial=0, unit="B")
        written = tqdm_class(desc="Reconstructing (incomplete total...)", total=0, unit="B")
        written.total = (written.total or 0) + 100
        for bar in (wire, written, tqdm_class(desc="Fetching 2 files", total=2)):
            bar.update(40)
            bar.set_description_str("more")
        written.update(20)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.fetch("owner/name", on_bytes=lambda *sizes: told.append(sizes)) == tmp_path
    assert told == [(40, 100), (60, 100)]

    def leave(done, total):
        raise LookupError("nobody waits")

    with pytest.raises(LookupError, match="nobody waits"):
        hub.fetch("owner/name", on_bytes=leave)


@pytest.mark.parametrize("name", ["owner/name", "AIDC-AI/CHATS-SD1d5", "a.b/c_d"])
def test_hub_ids_are_recognised(name):
    assert hub.is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["shapes", "a/b/c", "/a/b", "../b", "a/..b", "a\\b", "", "a/b c", "a/"]
)
def test_what_is_no_hub_id_is_not_asked_for(name):
    assert not hub.is_hub_id(name)
