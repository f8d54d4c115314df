"""Who may do something on the page's server: by the login, and by the page that asks."""

import json
import re
import urllib.error
import urllib.request

import pytest
from gradio_client import Client

from tests.serving import serve
from tests.train_fakes import FakeDataSet

START = {"data": [FakeDataSet().id, "shapes_demo", {}]}
CHANGING = {"train_start", "dataset_delete", "dataset_edit", "dataset_import", "dataset_push"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, program=("-m", "tests.train_server"), login="ada:secret") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    made = Client(server.url, auth=("ada", "secret"), verbose=False)
    yield made
    made.close()


def post(url: str, content: bytes, **headers: str) -> int:
    request = urllib.request.Request(url, data=content, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def call(server, name: str, **headers: str) -> int:
    """Call an endpoint as a script of a page would."""
    url, body = f"{server.url}/gradio_api/call/{name}", json.dumps(START).encode()
    return post(url, body, **{"Content-Type": "application/json", **headers})


def test_who_is_not_logged_in_can_call_nothing_and_upload_nothing(server, client):
    names = {name.strip("/") for name in client.view_api(return_format="dict")["named_endpoints"]}
    assert names > CHANGING
    for name in names:
        assert call(server, name) == 401, name
    for path in ("queue/join", "upload", "run/train_start"):
        assert post(f"{server.url}/gradio_api/{path}", b"{}") == 401, path
    with pytest.raises(Exception, match=re.compile("log ?in|auth|401", re.IGNORECASE)):
        Client(server.url, verbose=False)


def test_who_is_logged_in_can(client):
    run = client.predict(data=FakeDataSet().id, api_name="/train_start")["run"]
    assert run.startswith("20260101-000000")  # the first: nobody's call before began one


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://evil.127.0.0.1", ""]
)
def test_a_page_of_another_origin_can_do_nothing(server, client, origin):
    """Refused before the login is looked at: a browser may send the visitor's own with it."""
    assert call(server, "train_start", Origin=origin) == 403
    assert post(f"{server.url}/gradio_api/upload", b"", Origin=origin) == 403


def test_a_page_of_another_origin_can_not_pass_for_what_stands_before_the_server(server):
    """Gradio's answer to OPTIONS lets it write the header, and the browser sends the login."""
    evil = {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}
    for site in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert call(server, "train_start", **evil, **site) == 403


def test_the_servers_own_page_passes_also_behind_another_name(server):
    assert call(server, "train_start", Origin=server.url) == 401
    proxied = {"Origin": "https://chats.example", "Sec-Fetch-Site": "same-origin"}
    assert call(server, "train_start", **proxied) == 401
