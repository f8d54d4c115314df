"""Models on the device: what is refused, and what is shared, kept and evicted."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from chats.config import GenerationConfig, Row
from chats.errors import UserError
from chats.generation.generate import generate
from chats.models.loading import best_dtype
from chats.models.manager import ModelManager
from chats.pairs.pair import load_pair, save_pair
from chats.pairs.weight_files import component_folders, weight_bytes
from chats.shapes import BASE, SHAPES_MODEL
from tests.tiny import tiny_pair, tiny_pipeline

# diffusers reads numpy views of its tensors the way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model and two pairs for it, on disk."""
    folder = tmp_path_factory.mktemp("saved")
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    pipeline.save_pretrained(folder / "model")
    save_pair(tiny_pair(pipeline, "lora"), folder / "pair")
    save_pair(tiny_pair(pipeline, "full"), folder / "full-pair")
    return folder


@pytest.fixture
def model(saved, tmp_path):
    """A copy of the model that a test may spoil."""
    return shutil.copytree(saved / "model", tmp_path / "spoilt")


def refused(folder, words):
    manager = ModelManager(device="cpu")
    with pytest.raises(UserError, match=words) as raised, manager.lease(str(folder)):
        pass
    assert str(folder.parent) not in str(raised.value)
    return manager


def names(manager):
    return [(on_device.kind, on_device.name) for on_device in manager.describe()]


def works(manager, saved):
    with manager.lease(str(saved / "model")) as lease:
        assert lease.default_size_px == 16


def test_damaged_weights_are_named_and_the_next_request_works(model, saved):
    (model / UNET).write_bytes((model / UNET).read_bytes()[:1000])
    works(refused(model, f"{UNET} is damaged"), saved)


def test_pickled_weights_are_refused_and_the_next_request_works(model, saved):
    torch.save({}, model / "unet" / "diffusion_pytorch_model.bin")
    (model / UNET).unlink()
    works(refused(model, r"diffusion_pytorch_model\.bin.*is a pickle file"), saved)


def test_a_disguised_pickle_is_refused(model):
    torch.save({}, model / UNET)
    refused(model, "is a pickle or zip file under the name of a safetensors file")


def test_missing_weights_are_refused(model):
    (model / UNET).unlink()
    refused(model, "spoilt could not be loaded")


def test_numbers_that_are_not_finite_are_refused_by_name(model, saved):
    tensors = load_file(model / UNET)
    tensors["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, model / UNET)
    works(refused(model, r"conv_in\.weight in unet of spoilt.*not finite"), saved)


def test_weights_of_another_shape_are_refused(model, saved):
    path = model / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [16, 32]}))
    works(refused(model, "spoilt could not be loaded"), saved)


@pytest.mark.parametrize("kind", ["DDPMPipeline", "StableDiffusionImg2ImgPipeline", None])
def test_a_family_that_is_not_known_is_refused_with_those_that_are(model, kind):
    index = model / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": kind}))
    refused(model, f"is a {kind}.*StableDiffusionXLPipeline")


def test_a_damaged_index_is_refused(model):
    (model / "model_index.json").write_text("{")
    refused(model, r"model_index\.json in spoilt cannot be read")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty has no model_index\.json")


def test_a_pair_in_the_place_of_a_model_is_refused_with_advice(saved):
    with (
        pytest.raises(UserError, match="is a preference pair, not a model"),
        ModelManager(device="cpu").lease(str(saved / "pair")),
    ):
        pass


@pytest.mark.parametrize(
    "name", ["no such model", "/no/such", "C:\\model", "~nobody/x", "a\0b", "x" * 300]
)
def test_an_unknown_model_is_refused_with_what_is_known(name):
    with (
        pytest.raises(UserError, match=r"Unknown model.*shapes.*folder.*Hub id"),
        ModelManager(device="cpu").lease(name),
    ):
        pass


def test_an_unknown_pair_is_refused(saved):
    with (
        pytest.raises(UserError, match=r"Unknown pair 'nothing'"),
        ModelManager(device="cpu").lease(str(saved / "model"), "nothing"),
    ):
        pass


def test_without_a_network_a_hub_id_gets_one_clear_message(monkeypatch, tmp_path, saved):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    manager = ModelManager(device="cpu")
    with pytest.raises(UserError, match=r"Hub cannot be reached.*shapes"), manager.lease("a/b"):
        pass
    works(manager, saved)


def test_a_model_that_exceeds_the_budget_is_refused_with_numbers(saved):
    manager = ModelManager(device="cpu", budget_gb=1e-6)
    with (
        pytest.raises(UserError, match=r"does not fit: .* as a whole; 0\.00 GB can be had"),
        manager.lease(str(saved / "model")),
    ):
        pass


def test_a_base_is_shared_by_its_pairs(saved):
    manager = ModelManager(device="cpu")
    model, pair = str(saved / "model"), str(saved / "pair")
    with manager.lease(model, pair) as one, manager.lease(model, str(saved / "full-pair")) as two:
        assert one.pipeline.unet is two.pipeline.unet
        assert (one.pair.metadata.kind, two.pair.metadata.kind) == ("lora", "full")
        assert all(on_device.in_use for on_device in manager.describe())
    assert sorted(names(manager)) == [("model", "model"), ("pair", "full-pair"), ("pair", "pair")]
    assert not any(on_device.in_use for on_device in manager.describe())


def test_every_request_has_a_scheduler_of_its_own(saved):
    manager = ModelManager(device="cpu")
    with (
        manager.lease(str(saved / "model"), scheduler="unipc") as one,
        manager.lease(str(saved / "model")) as two,
    ):
        assert type(one.pipeline.scheduler).__name__ == "UniPCMultistepScheduler"
        assert type(two.pipeline.scheduler).__name__ == "DDIMScheduler"
        one.pipeline.scheduler.set_timesteps(3)
        assert two.pipeline.scheduler.num_inference_steps is None


def test_what_was_used_least_recently_makes_room(saved, tmp_path):
    copies = [shutil.copytree(saved / "model", tmp_path / name) for name in ("a", "b", "c")]
    size = sum(weight_bytes(part, bytes_per_float=4) for part in component_folders(copies[0]))
    manager = ModelManager(device="cpu", budget_gb=2.5 * size / 1e9)
    for index in (0, 1, 0, 2):
        with manager.lease(str(copies[index])):
            pass
    assert names(manager) == [("model", "a"), ("model", "c")]
    assert sum(on_device.size_gb for on_device in manager.describe()) <= 2.5 * size / 1e9


def test_the_measured_size_is_what_the_weights_take(saved):
    manager = ModelManager(device="cpu")
    with manager.lease(str(saved / "model")) as lease:
        modules = [
            part for part in lease.pipeline.components.values() if hasattr(part, "parameters")
        ]
        taken = sum(p.nbytes for module in modules for p in module.parameters())
        assert manager.describe()[0].size_gb == pytest.approx(taken / 1e9, rel=0.01)


def test_a_pair_that_was_written_again_is_loaded_again(saved, tmp_path):
    manager, pair = ModelManager(device="cpu"), str(shutil.copytree(saved / "pair", tmp_path / "p"))
    with manager.lease(str(saved / "model"), pair) as lease:
        first = lease.pair
    save_pair(load_pair(saved / "pair"), pair)
    with manager.lease(str(saved / "model"), pair) as lease:
        assert lease.pair is not first
    assert sorted(names(manager)) == [("model", "model"), ("pair", "p")]


def test_a_model_is_unloaded_only_when_nobody_uses_it(saved):
    manager = ModelManager(device="cpu")
    with manager.lease(str(saved / "model")):
        assert not manager.unload("model")
    assert manager.unload("model")
    assert manager.describe() == []


def test_a_link_to_nowhere_beside_the_weights_is_passed_over(model, saved):
    (model / "notes.txt").symlink_to("nowhere")
    works(ModelManager(device="cpu"), saved)
    with ModelManager(device="cpu").lease(str(model)) as lease:
        assert lease.default_size_px == 16


def test_the_budget_is_measured_again_after_a_training_gave_its_memory_back(saved, monkeypatch):
    """A server that was started beside a training would else be left with the rest for ever."""
    monkeypatch.setattr("chats.models.manager.budget_of", lambda device: 1000)
    manager = ModelManager(device="cpu")
    with pytest.raises(UserError, match="does not fit"), manager.lease(str(saved / "model")):
        pass
    monkeypatch.setattr("chats.models.manager.budget_of", lambda device: 2 * 10**9)
    assert manager.report().room_gb == 2
    with manager.lease(str(saved / "model")):
        monkeypatch.setattr("chats.models.manager.budget_of", lambda device: 1000)
        assert 1.9 < manager.report().room_gb < 2  # not measured while its own weights are there


def test_the_embedded_model_says_its_own_size_and_steps():
    manager = ModelManager(device="cpu")
    with manager.lease(SHAPES_MODEL) as lease:
        unet = json.loads((BASE / "unet" / "config.json").read_text())
        assert lease.default_size_px == unet["sample_size"] * lease.pipeline.vae_scale_factor
        assert lease.default_num_steps == 20
        assert {p.dtype for p in lease.pipeline.unet.parameters()} == {torch.float32}
    assert manager.describe()[0].name == "shapes"


def test_a_transformers_patches_count_in_the_size_factor(tmp_path):
    """Latents of 2 px, patches of 2 latents: 4 px; the stock pipelines demand 8."""
    tiny_pipeline("sd3", dtype=torch.float32).save_pretrained(tmp_path / "sd3")
    with ModelManager(device="cpu").lease(str(tmp_path / "sd3")) as lease:
        assert lease.size_factor_px == 8


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_devices_without_fast_half_precision_get_float32(kind):
    assert best_dtype(torch.device(kind)) == torch.float32


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A whole model in the layout of the paper's authors: two UNets and no pair.json."""
    folder = tmp_path_factory.mktemp("released") / "CHATS-tiny"
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    for part in ("text_encoder", "tokenizer", "vae", "scheduler"):
        getattr(pipeline, part).save_pretrained(folder / part)
    pair = tiny_pair(pipeline, "full")
    pair.preferred.save_pretrained(folder / "unet_win")
    pair.dispreferred.save_pretrained(folder / "unet_lose")
    return folder


def test_the_released_layout_is_a_model_with_a_pair_of_its_own(released):
    manager = ModelManager(device="cpu")
    with manager.lease(str(released)) as lease, manager.lease(str(released), str(released)) as same:
        assert lease.pair is same.pair
        assert lease.pipeline.unet is lease.pair.preferred
        assert lease.family.name == "sd15"
    assert names(manager) == [("model", "CHATS-tiny")]


def test_the_released_layout_makes_chats_pictures_and_says_what_it_lacks(released):
    manager = ModelManager(device="cpu")
    config = GenerationConfig(rows=(Row(scale=2), Row(scale=0)), num_steps=2, model=str(released))
    *_, made = generate(manager, config)
    assert len({image.tobytes() for image in made.images}) == 2
    reference = GenerationConfig(rows=(Row(method="cfg"),), num_steps=2, model=str(released))
    with pytest.raises(UserError, match="no reference model"):
        list(generate(manager, reference))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:x", "", "tpu"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(UserError, match="device"):
        ModelManager(device=name)
