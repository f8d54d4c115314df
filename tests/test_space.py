"""A Hugging Face Space: the tree that is staged, its upload, and the server that runs in it."""

import importlib.util
import json
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml
from gradio_client import Client
from huggingface_hub import HfApi, SpaceHardware, errors

from app import default_settings
from chats.devices import Device
from chats.errors import UserError
from chats.shapes import SHAPES_MODEL
from tests.serving import ROOT, serve
from tests.test_access import post
from tests.test_push import FakeApi, http_error
from ui.space import NO_GPU, NOT_KEPT, Space, find_space, hardware_notice, open_workspace

ON_SPACE = {"SYSTEM": "spaces", "SPACE_ID": "x/y", "SPACE_HOST": "x-y.hf.space"}
ON_ZERO = {**ON_SPACE, "SPACES_ZERO_GPU": "true"}


@pytest.fixture(scope="module")
def script():
    """The script, whose folder is no package."""
    spec = importlib.util.spec_from_file_location("space_script", ROOT / "spaces" / "space.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def staged(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged") / "space"
    script.stage(folder, hardware="zero-a10g")
    return folder


def header(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def pins(path: Path) -> dict[str, str]:
    return dict(line.split("==") for line in path.read_text().splitlines())


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# What is staged


def test_the_card_says_all_that_the_hub_asks_of_a_space(script, staged):
    card = header((staged / "README.md").read_text("utf-8"))
    own = pins(staged / "requirements.txt")
    assert card["sdk"] == "gradio"
    assert card["sdk_version"] == own["gradio"]
    assert card["python_version"] == "3.12"  # as text: 3.10 would be the number 3.1
    assert (staged / card["app_file"]).is_file()
    assert card["suggested_hardware"] == SpaceHardware.ZERO_A10G
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card["colorFrom"], card["colorTo"]} <= colors
    assert len(card["short_description"]) <= 60
    assert card["license"] == "apache-2.0"
    assert card["title"]
    assert card["emoji"]


def test_a_space_without_a_gpu_loads_nothing_large_beforehand(script):
    card = header(script.card("cpu-basic"))
    assert card["suggested_hardware"] == SpaceHardware.CPU_BASIC
    assert "preload_from_hub" not in card
    assert header(script.card("zero-a10g"))["preload_from_hub"] == ["AIDC-AI/CHATS"]


def test_its_requirements_are_the_usual_ones_but_for_what_a_space_can_have():
    """ZeroGPU has torch up to 2.11; the build adds gradio[mcp], which takes no newer pydantic."""
    usual, own = pins(ROOT / "requirements.txt"), pins(ROOT / "spaces" / "requirements.txt")
    assert own.keys() == usual.keys()
    changed = {name for name in own if own[name] != usual[name]}
    assert changed == {"torch", "pydantic"}
    assert own["torch"] == "2.11.0"


def test_everything_that_the_packages_need_is_staged_and_nothing_else(script, staged):
    packages = tuple(f"{name}/" for name in script.PACKAGES)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *packages]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert names(staged) == {*listed.stdout.split(), *script.FILES, "README.md"}


def test_the_tree_is_small_and_names_no_test_and_no_folder_spaces(staged):
    top = {path.name for path in staged.iterdir()}
    assert top == {"app.py", "chats", "training", "ui", "LICENSE", "README.md", "requirements.txt"}
    assert sum(path.stat().st_size for path in staged.rglob("*") if path.is_file()) < 30e6
    for path in staged.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) tests\b", path.read_text("utf-8"), re.M), path


def test_staging_again_leaves_nothing_of_before_and_spares_other_folders(script, tmp_path):
    script.stage(tmp_path / "space", hardware="cpu-basic")
    (tmp_path / "space" / "chats" / "old.py").touch()
    script.stage(tmp_path / "space", hardware="cpu-basic")
    assert not (tmp_path / "space" / "chats" / "old.py").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for folder in (tmp_path / "mine", ROOT):
        with pytest.raises(UserError, match="is no staged Space and is not empty"):
            script.stage(folder, hardware="cpu-basic")
    assert (tmp_path / "mine" / "thesis.txt").exists()


# Its upload


class FakeHub(FakeApi):
    def space_info(self, repo_id):
        return self.model_info(repo_id)

    def create_repo(self, repo_id, *, space_sdk, **options):
        assert (space_sdk, options["repo_type"]) == ("gradio", "space")
        return super().create_repo(repo_id, **options)


def deploy(script, api) -> str:
    return script.deploy("owner/name", hardware="cpu-basic", private=False, api=api)


def test_a_deployment_is_one_commit_that_replaces_the_one_before(script, staged):
    api = FakeHub()
    assert "https://huggingface.co/spaces/owner/name" in deploy(script, api)
    api.files["owner/name"].add("chats/old.py")
    deploy(script, api)
    assert api.num_commits == 2
    assert "chats/old.py" not in api.files["owner/name"]
    assert "chats/shapes/weights/base/unet/diffusion_pytorch_model.safetensors" in api.sent


def test_the_space_of_another_program_is_left_alone(script):
    api = FakeHub(["README.md", "app.py", "their_model.bin"])
    with pytest.raises(UserError, match="owner/name holds another program"):
        deploy(script, api)
    assert api.num_commits == 0


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        ({"whoami": errors.LocalTokenNotFoundError("no token")}, "nobody is logged in"),
        ({"create_repo": http_error(403)}, "Log in with a token that may write"),
        ({"upload_folder": ConnectionError("down")}, "make space-stage"),
    ],
)
def test_each_refusal_of_the_hub_is_one_message(script, refuse, message):
    api = FakeHub(refuse=refuse)
    with pytest.raises(UserError, match=message):
        deploy(script, api)
    assert api.num_commits == 0


def test_the_fake_hub_takes_what_the_real_one_takes():
    for name in ("space_info", "create_repo", "upload_folder", "preupload_lfs_files", "whoami"):
        assert callable(getattr(HfApi, name))


# The server in it


@pytest.mark.parametrize(
    ("environment", "model", "device", "trainings"),
    [
        ({}, SHAPES_MODEL, None, True),
        ({"CHATS_MODEL": "owner/name"}, "owner/name", None, True),
        (ON_SPACE, SHAPES_MODEL, None, True),
        (ON_ZERO, "AIDC-AI/CHATS", "cuda", False),
        ({**ON_ZERO, "CHATS_MODEL": "shapes"}, SHAPES_MODEL, "cuda", False),
        ({"SYSTEM": "spaces"}, SHAPES_MODEL, None, True),
    ],
)
def test_one_variable_or_the_hardware_decides_the_model(environment, model, device, trainings):
    settings = default_settings(environment)
    assert (settings.model, settings.device, settings.trainings) == (model, device, trainings)
    assert settings.host == ("0.0.0.0" if "SPACE_ID" in environment else "127.0.0.1")


def test_a_space_is_told_by_two_variables():
    assert find_space({"SYSTEM": "spaces"}) is None
    assert find_space({"SPACE_ID": "x/y"}) is None
    assert find_space(ON_ZERO) == Space(host="x-y.hf.space", has_zerogpu=True)


def test_a_read_only_disk_gives_a_temporary_folder_and_a_word_about_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    assert open_workspace(tmp_path / "work") == (tmp_path / "work", "")
    folder, notice = open_workspace(Path("/proc/workspace"))  # even root can't write there
    assert notice == NOT_KEPT
    assert (folder / "cache").is_dir()


def test_without_any_folder_it_says_so(monkeypatch):
    def refuse(prefix):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match="No usable temporary directory found"):
        open_workspace(Path("/proc/workspace"))


def test_visitors_are_told_what_no_gpu_means():
    cpu, gpu = Device("cpu", "the CPU", None), Device("cuda:GPU-1", "H200", "cuda:0")
    assert hardware_notice(SHAPES_MODEL, [cpu]) == NO_GPU
    assert "a picture of CHATS may take an hour" in hardware_notice("AIDC-AI/CHATS", [cpu])
    assert hardware_notice("AIDC-AI/CHATS", [gpu]) == ""


@pytest.fixture(scope="module")
def space(staged, tmp_path_factory):
    """The staged tree as a Space runs it, with our own folder nowhere on the path."""
    variables = {**ON_SPACE, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, program=(str(staged / "app.py"),), **variables) as running:
        yield running


def test_the_staged_tree_serves_the_demo_to_everybody_without_a_network(space):
    client = Client(space.url, verbose=False)
    try:
        made, details = client.predict(prompt="a blue circle", num_steps=2, api_name="/generate")
        endpoints = set(client.view_api(return_format="dict")["named_endpoints"])
    finally:
        client.close()
    assert Path(made).is_file()
    assert details["config"]["model"] == SHAPES_MODEL
    assert {"/compare", "/generate", "/png_info", "/models_list"} <= endpoints
    changing = re.compile("train|dataset|runs|model_|devices|vote")
    assert not [name for name in endpoints if changing.search(name)]


def test_its_own_page_may_ask_and_pages_of_other_origins_may_not(space):
    url = f"{space.url}/gradio_api/call/models_list"
    body, kind = json.dumps({"data": []}).encode(), {"Content-Type": "application/json"}
    assert post(url, body, **kind, Origin="https://x-y.hf.space") == 200
    assert post(url, body, **kind, Origin="https://elsewhere.example") == 403


def test_its_page_says_that_there_is_no_gpu(space, staged):
    with urllib.request.urlopen(f"{space.url}/config", timeout=20) as answer:
        assert "This Space has no GPU" in answer.read().decode()
    assert f'File "{staged}' not in space.log.read_text()  # no error came from our own code
