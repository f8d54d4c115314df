"""The named endpoints of the real server, called as a program calls them."""

import time
import urllib.error
import urllib.request

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from chats.generation.png import read_png
from tests.serving import serve
from tests.shapes_pair import pair_arguments

PROMPT = "three red stars on a black background"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, "--device", "cpu", *pair_arguments(folder / "pair")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    made = Client(server.url, download_files=str(tmp_path_factory.mktemp("files")), verbose=False)
    yield made
    made.close()


def compare(client, **settings):
    settings = {"prompt": PROMPT, "num_steps": 3, **settings}
    gallery, details = client.predict(**settings, api_name="/compare")
    return [picture["image"] for picture in gallery], details


def test_the_page_is_served_within_ten_seconds_of_work(server):
    assert server.cpu_seconds <= 10


def test_compare_gives_three_pictures_that_differ_and_carry_their_settings(client):
    files, details = compare(client, seed=5)
    assert [read_png(file).rows[0].method for file in files] == ["standard", "cfg", "chats"]
    assert {read_png(file).rows[0].seed for file in files} == {5}
    assert len({Image.open(file).tobytes() for file in files}) == 3
    assert details["combined"][0] == "reference(prompt)"


@pytest.mark.alone
def test_three_columns_of_twenty_steps_take_at_most_six_seconds(client):
    compare(client, num_steps=1)
    start = time.monotonic()
    compare(client, num_steps=20)
    assert time.monotonic() - start <= 6


def test_the_same_seed_gives_the_same_pictures_and_alpha_changes_only_chats(client):
    def pixels(**settings):
        return [Image.open(file).tobytes() for file in compare(client, **settings)[0]]

    first, again, moved = pixels(), pixels(), pixels(alpha=1.0)
    assert first == again
    assert [a == b for a, b in zip(first, moved, strict=True)] == [True, True, False]


def test_generate_gives_one_picture(client):
    file, details = client.predict(
        prompt=PROMPT, method="cfg", scale=2.0, num_steps=2, api_name="/generate"
    )
    assert read_png(file).rows[0].scale == 2.0
    assert details["config"]["num_steps"] == 2


def test_steps_are_told_while_the_pictures_are_made(client):
    job = client.submit(prompt=PROMPT, num_steps=4, api_name="/compare")
    job.result()
    steps = [details["step"] for _, details in job.outputs() if "step" in details]
    assert steps == sorted(steps)
    assert steps[-1] == 4


def test_png_info_reads_back_what_made_a_picture(client):
    files, _ = compare(client, alpha=0.25, scale=5.0, seed=9)
    settings = client.predict(file=handle_file(files[2]), api_name="/png_info")
    assert settings["rows"] == [
        {"method": "chats", "scale": 5.0, "alpha": 0.25, "seed": 9, "prompt": None}
    ]
    assert settings["prompt"] == PROMPT


def test_png_info_refuses_a_file_without_settings(client, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(AppError, match="holds no settings"):
        client.predict(file=handle_file(tmp_path / "plain.png"), api_name="/png_info")


def test_models_list_says_what_is_on_offer(client):
    (model,) = client.predict(api_name="/models_list")
    assert (model["name"], model["has_pair"]) == ("shapes", True)
    assert model["width"] % 8 == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": ""}, "Write what the pictures should show"),
        ({"alpha": 7.0}, r"alpha: .*less than or equal to 2 \(given: 7.0\)"),
        ({"scale": -3.0}, r"scale: .*greater than or equal to 0 \(given: -3.0\)"),
        ({"seed": -1}, r"seed: .*given: -1"),
        ({"width": 97}, "width must be divisible by 8, got 97"),
        ({"model": "someone/else"}, "Unknown model 'someone/else'"),
        ({"model": "/etc"}, "Unknown model '/etc'"),
        ({"methods": ["magic"]}, "Unknown method 'magic'"),
        ({"batch": 500}, "batch must be 1 to 8"),
    ],
)
def test_a_mistake_gets_a_clear_message_and_the_next_request_works(client, wrong, message):
    with pytest.raises(AppError, match=message):
        compare(client, **wrong)
    assert len(compare(client, num_steps=1, methods=["standard"])[0]) == 1


def test_a_training_is_prepared_and_says_what_it_lacks(client):
    told = client.predict(settings={"optimizer": {"num_steps": 50}}, api_name="/train_preview")
    assert told["obstacles"] == ["Choose a data set."]
    assert "--optimizer.num-steps" in told["command"]
    with pytest.raises(AppError, match="Choose a data set"):
        client.predict(api_name="/train_start")


def test_a_prompt_of_ten_thousand_words_is_cut_with_a_notice(client):
    files, details = compare(client, prompt="red star " * 10_000, num_steps=1)
    assert len(files) == 3
    assert any("longer than the" in notice for notice in details["notices"])


def test_control_characters_are_removed_with_a_notice(client):
    _, details = compare(client, prompt="red\x00 sta\x07r\x1b", num_steps=1)
    assert details["config"]["prompt"] == "red star"
    assert any("3 control characters were removed" in notice for notice in details["notices"])


def test_a_cancelled_request_frees_the_device_for_the_next_one(client):
    job = client.submit(prompt=PROMPT, num_steps=200, api_name="/compare")
    while not job.outputs():
        time.sleep(0.05)
    job.cancel()
    assert len(compare(client, num_steps=1, methods=["standard"])[0]) == 1


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/monitoring/summary", None, 403),
        ("/gradio_api/file=/etc/passwd", None, 403),
        ("/", "evil.example", 400),
    ],
)
def test_what_nobody_should_see_is_refused(server, path, host, status):
    request = urllib.request.Request(server.url + path, headers={"Host": host} if host else {})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == status
    refused.value.close()
