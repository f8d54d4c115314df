"""Previews by a tiny autoencoder where one is cached, and large pictures decoded in tiles."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from huggingface_hub import constants

from chats.config import GenerationConfig, Row, Shaping
from chats.generation import decoding
from chats.generation.decoding import decoded_to_fit
from chats.generation.events import ImagesEvent
from chats.generation.generate import generate
from chats.generation.previews import preview_images
from chats.models.manager import ModelManager
from chats.models.tiny_decoders import tiny_decoder
from tests.tiny import tiny_pipeline
from tests.tiny_parts import big, vae

# diffusers reads numpy views of its tensors the way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture
def published():
    """A pipeline whose autoencoder shrinks as the published ones do."""
    pipe = tiny_pipeline("sd15", dtype=torch.float32)
    pipe.vae, pipe.vae_scale_factor = vae(0, num_blocks=4), 8
    return pipe


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The Hub's cache with a tiny autoencoder in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--madebyollin--taesd"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    twin = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    big(twin, seed=1).save_pretrained(repository / "snapshots" / "abc")
    return repository / "snapshots" / "abc"


def test_without_a_cached_one_there_is_none(published, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert tiny_decoder(published, **CPU) is None


def test_a_damaged_one_is_left_out_with_a_warning(published, cache, caplog):
    (cache / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04 no weights")
    assert tiny_decoder(published, **CPU) is None
    assert "madebyollin/taesd is not used for previews" in caplog.text


def test_an_autoencoder_of_its_own_kind_is_not_decoded_by_anothers_twin(cache):
    assert tiny_decoder(tiny_pipeline("sd15", dtype=torch.float32), **CPU) is None


def test_previews_are_the_tiny_decoders_pictures(published, cache):
    decoder = tiny_decoder(published, **CPU)
    latents = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    latents = latents / latents.std(dim=(1, 2, 3), keepdim=True)
    shown = preview_images(published, latents, width=48, height=32, decoder=decoder)
    with torch.no_grad():
        expected = decoder.decode(latents).sample
    hand = ((expected / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    assert [each.size for each in shown] == [(48, 32)] * 2
    for picture, pixels in zip(shown, hand, strict=True):
        assert np.abs(np.asarray(picture, float) - pixels.numpy()).max() <= 1


def test_only_a_large_picture_is_decoded_in_tiles():
    autoencoder = vae(0)
    with decoded_to_fit(autoencoder, num_pixels=decoding.TILED_ABOVE_PX) as in_tiles:
        assert not in_tiles
        assert not (autoencoder.use_tiling)
    with decoded_to_fit(autoencoder, num_pixels=2048 * 2048) as in_tiles:
        assert in_tiles
        assert autoencoder.use_tiling
    assert not autoencoder.use_tiling


def test_a_request_for_large_pictures_says_that_they_were_decoded_in_tiles(tmp_path, monkeypatch):
    """And the second request, of a model that is warm, gives the same picture."""
    tiny_pipeline("sd15", dtype=torch.float32).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(decoding, "TILED_ABOVE_PX", 16 * 16)
    manager = ModelManager(device="cpu")
    config = GenerationConfig(
        prompt="ab",
        rows=(Row(method="cfg"),),
        num_steps=4,
        width=32,
        height=32,
        model=str(tmp_path / "model"),
        shaping=Shaping(refresh_every=2),
        preview_every=0,
    )
    first, again = (list(generate(manager, config))[-1] for _ in range(2))
    assert isinstance(first, ImagesEvent)
    assert first.notices == ("The pictures are so large that they were decoded in tiles.",)
    assert first.num_predictions == 4 + 2
    assert np.array_equal(np.asarray(first.images[0]), np.asarray(again.images[0]))
    assert [each.kind for each in manager.describe()] == ["model"]
    with manager.lease(config.model) as lease:
        assert not lease.pipeline.vae.use_tiling
