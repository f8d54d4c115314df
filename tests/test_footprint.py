"""What models hold, found without weights: against real models and real forwards."""

import copy
import json

import pytest
import torch
from torch import nn

from chats.denoising.families import FAMILIES, denoiser_of, family_named, family_of
from chats.denoising.sizes import latent_channels
from chats.errors import UserError
from chats.objective import OBJECTIVES
from tests.tiny import SIZE_PX, TRAINED, tiny_pipeline
from training.config import TrainingConfig
from training.data.encoding import encode_prompts, size_ids
from training.loop.pair_model import PairModel
from training.planning.activations import GpuKernels, KeptTensors
from training.planning.footprint import condition_shapes, footprint, meta_denoiser

SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def make_config(
    *, model=None, objective="chats", optimizer=None, run=None, resolution=None
) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "data": {"path": "pairs", "resolution": resolution},
            "model": {"rank": 2, "lora_alpha": 4} | (model or {}),
            "objective": {"name": objective},
            "optimizer": {"batch_size": 2} | (optimizer or {}),
            "run": {"output": "run"} | (run or {}),
        }
    )


def save_configs(pipeline, folder):
    """Write what a model's folder holds beside its weights."""
    family = family_of(pipeline)
    denoiser_of(pipeline).save_config(folder / family.denoiser)
    pipeline.vae.save_config(folder / "vae")
    index = {"_class_name": type(pipeline).__name__}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module", params=TRAINED)
def pipeline(request):
    return tiny_pipeline(request.param, dtype=torch.float32)


@pytest.fixture(scope="module")
def sd15():
    return tiny_pipeline("sd15", dtype=torch.float32)


@pytest.fixture
def sd15_folder(sd15, tmp_path):
    return save_configs(sd15, tmp_path / "base")


def test_a_model_of_no_family_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "CogView4Pipeline"}')
    with pytest.raises(UserError, match="a CogView4Pipeline, which is of no family"):
        footprint(make_config(), tmp_path)


def test_a_family_that_is_only_sampled_is_refused_with_those_that_train(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "AuraFlowPipeline"}')
    with pytest.raises(UserError, match=r"'auraflow' can be sampled.*sd15, .*flux"):
        footprint(make_config(), tmp_path)


def test_a_configuration_that_builds_nothing_is_refused(sd15_folder):
    path = sd15_folder / "unet" / "config.json"
    path.write_text(path.read_text().replace('"DownBlock2D"', '"NoBlock2D"'))
    with pytest.raises(UserError, match=r"unet of base can't be built .* NoBlock2D"):
        footprint(make_config(), sd15_folder)


def test_a_model_without_its_configuration_is_refused(sd15_folder):
    (sd15_folder / "unet" / "config.json").unlink()
    with pytest.raises(UserError, match=r"unet has no config\.json"):
        footprint(make_config(), sd15_folder)


def test_layers_that_do_not_exist_are_refused(sd15_folder):
    with pytest.raises(UserError, match="nowhere"):
        footprint(make_config(model={"targets": ["nowhere"]}), sd15_folder)


def test_a_layer_keeps_its_input_and_relu_its_output():
    """Of (3, 4) numbers through a 4 → 8 layer and ReLU: 12 and 24 numbers; no weights."""
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    with KeptTensors(without=layers.parameters()) as kept:
        layers(torch.ones(3, 4))
    assert kept.num_bytes == 4 * (3 * 4 + 3 * 8)


def test_what_is_kept_twice_counts_once():
    tensor = torch.ones(5, requires_grad=True) + 0
    with KeptTensors(without=()) as kept:
        tensor.square() + tensor.view(5, 1).square().sum()
    assert kept.num_bytes == 4 * 5


def test_sixteen_bits_keep_what_autocast_keeps():
    """Torch's own autocast on the CPU, with layers that it treats there as on a GPU."""
    real = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(32, 5))
    with KeptTensors(without=real.parameters()) as expected, torch.autocast("cpu", torch.bfloat16):
        real(torch.ones(2, 3, 4, 4))
    meta = copy.deepcopy(real).to("meta")
    kernels = GpuKernels(torch.bfloat16)
    with KeptTensors(without=meta.parameters()) as found, kernels:
        meta(torch.ones(2, 3, 4, 4, device="meta"))
    assert found.num_bytes == expected.num_bytes
    assert len(kernels.copies) == len(list(real.parameters()))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_it_finds_what_the_real_models_hold_and_keep(pipeline, tmp_path, kind):
    """Up to the logarithms that attention on the CPU keeps beside what a GPU's does."""
    family = family_of(pipeline)
    config = make_config(model={"kind": kind}, resolution=SIZE_PX)
    found = footprint(config, save_configs(pipeline, tmp_path / "base"))
    denoiser = denoiser_of(pipeline)
    model = PairModel(
        denoiser, objective=OBJECTIVES["chats"], settings=config.model, family=family, seed=0
    )
    trained = list(model.trained_parameters())
    assert found.trained == tuple(tuple(each.shape) for each in trained)
    assert found.num_trained + found.num_frozen == sum(each.numel() for each in model.parameters())

    latents = torch.ones(2, latent_channels(denoiser.config, family), 8, 8)
    conditions = {
        name: torch.ones(2, *shape)
        for name, shape in condition_shapes(denoiser.config, family).items()
    }
    with KeptTensors(without=model.parameters()) as kept:
        model(
            {"preferred": latents, "dispreferred": latents},
            torch.ones(2),
            {"prompt": conditions, "dropped": conditions},
        )
    model.end_step()
    assert found.activation_bytes == pytest.approx(kept.num_bytes, rel=0.05)


def test_text_has_the_shapes_that_training_gives_it(pipeline):
    """All but the number of tokens, which is the tokenizer's."""
    encoded = encode_prompts(["a star"], pipeline) | size_ids((16, 16), pipeline, num_rows=1)
    family = family_of(pipeline)
    shapes = condition_shapes(denoiser_of(pipeline).config, family)
    assert shapes.keys() == encoded.keys()
    for name, shape in shapes.items():
        assert len(shape) == encoded[name].ndim - 1
        assert name in family.masks or shape[-1] == encoded[name].shape[-1]


def test_every_family_that_trains_is_known():
    assert {family.name for family in FAMILIES if family.trains} == set(TRAINED)


def test_checkpointing_smaller_batches_and_lora_keep_less(sd15_folder):
    def kept(**settings):
        return footprint(make_config(**settings), sd15_folder).activation_bytes

    full = kept(model={"kind": "full"})
    assert kept(model={"kind": "full"}, optimizer={"gradient_checkpointing": True}) < full
    assert kept(model={"kind": "full"}, optimizer={"batch_size": 1}) == pytest.approx(
        full / 2, rel=0.01
    )
    assert kept() < full


def test_checkpointing_in_16_bits_has_the_copies_of_all_trained_weights(sd15_folder):
    """Autocast has them until the forward ends, 2 bytes each; the blocks keep little."""
    config = make_config(
        model={"kind": "full"},
        optimizer={"gradient_checkpointing": True, "batch_size": 1},
        run={"mixed_precision": "bf16"},
    )
    found = footprint(config, sd15_folder)
    assert found.activation_bytes > 2 * 0.9 * found.num_trained


def test_the_resolution_is_the_settings_or_the_models_own(sd15_folder):
    small = make_config()
    large = small.model_copy(update={"data": small.data.model_copy(update={"resolution": 32})})
    assert footprint(large, sd15_folder).activation_bytes > 3 * (
        footprint(small, sd15_folder).activation_bytes
    )


def test_stable_diffusion_has_its_860_million_parameters(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(SD15))
    denoiser = meta_denoiser(tmp_path, family_named("sd15"))
    assert sum(each.numel() for each in denoiser.parameters()) == 859_520_964
    assert all(each.is_meta for each in denoiser.state_dict().values())
