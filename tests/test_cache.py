"""The cache of encoded pairs: nothing is encoded twice, and nothing changes by it."""

import copy
import functools
import shutil

import pytest
import torch

from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.config import DataSettings
from training.data.cache import module_hash, text_hash
from training.data.draws import draw_batch
from training.data.encoded_pairs import EncodedPairs, encode_preferences
from training.preferences import read_preferences


@pytest.fixture(scope="module")
def tiny():
    return tiny_pipeline("sd15", dtype=torch.float32)


@pytest.fixture
def folder(tmp_path):
    return write_preferences(tmp_path / "pairs")


@pytest.fixture
def pipeline(tiny, monkeypatch):
    """The tiny pipeline, with a count of what its encoders are given in `encoded`."""
    pipeline = copy.copy(tiny)
    pipeline.encoded = {"pictures": 0, "prompts": 0}
    encode, encode_prompt = tiny.vae.encode, tiny.encode_prompt

    def counted_encode(pixels):
        pipeline.encoded["pictures"] += len(pixels)
        return encode(pixels)

    @functools.wraps(encode_prompt)
    def counted_encode_prompt(prompt, **options):
        pipeline.encoded["prompts"] += len(prompt)
        return encode_prompt(prompt=prompt, **options)

    monkeypatch.setattr(tiny.vae, "encode", counted_encode)
    pipeline.encode_prompt = counted_encode_prompt
    return pipeline


def encoded(pipeline, folder, cache=None, **options) -> EncodedPairs:
    settings = DataSettings(path=folder, cache=cache, **options)
    (dataset,) = encode_preferences(read_preferences(settings), pipeline, settings, batch_size=3)
    return dataset


def count(pipeline) -> tuple[int, int]:
    """Return the pictures and the prompts that were encoded since this was last asked."""
    counted = (pipeline.encoded["pictures"], pipeline.encoded["prompts"])
    pipeline.encoded |= {"pictures": 0, "prompts": 0}
    return counted


def same(one: EncodedPairs, other: EncodedPairs) -> bool:
    rows = list(range(len(one)))
    prompts = list(range(len(one.conditions["encoder_hidden_states"])))
    return (
        len(one) == len(other)
        and torch.equal(one.preferred[rows], other.preferred[rows])
        and torch.equal(one.dispreferred[rows], other.dispreferred[rows])
        and torch.equal(one.prompt_rows, other.prompt_rows)
        and all(
            torch.equal(value[prompts], other.conditions[name][prompts])
            for name, value in one.conditions.items()
        )
    )


def test_a_damaged_file_is_encoded_again_and_gives_the_same(pipeline, folder, tmp_path, caplog):
    cache = tmp_path / "cache"
    in_memory = encoded(pipeline, folder)
    encoded(pipeline, folder, cache)
    (shard,) = (cache / next(cache.glob("latents-*"))).glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 16
    shard.write_bytes(content)
    count(pipeline)
    again = encoded(pipeline, folder, cache)
    assert count(pipeline) == (8, 0)
    assert same(in_memory, again)
    assert "is damaged; what it held is made anew" in caplog.text


def test_a_second_start_encodes_nothing(pipeline, folder, tmp_path):
    """Four pairs of eight pictures and three prompts, besides the empty one."""
    first = encoded(pipeline, folder, tmp_path / "cache")
    assert count(pipeline) == (8, 4)
    second = encoded(pipeline, folder, tmp_path / "cache")
    assert count(pipeline) == (0, 0)
    assert same(first, second)


def test_with_and_without_a_cache_the_result_is_bit_equal(pipeline, folder, tmp_path):
    in_memory = encoded(pipeline, folder)
    stored = encoded(pipeline, folder, tmp_path / "cache")
    assert isinstance(in_memory.preferred, torch.Tensor)
    assert same(in_memory, stored)
    assert in_memory.latent_shape == stored.latent_shape
    batches = [
        draw_batch(
            dataset,
            range(6),
            seed=0,
            level_at=lambda uniform: int(1000 * uniform),
            prompt_drop=0.1,
            dispreferred_prompt_drop=0.5,
        )
        for dataset in (in_memory, stored)
    ]
    for half in ("preferred", "dispreferred"):
        assert torch.equal(batches[0].latents[half], batches[1].latents[half])
    for condition in ("prompt", "dropped"):
        torch.testing.assert_close(
            batches[0].conditions[condition], batches[1].conditions[condition], rtol=0, atol=0
        )


def test_only_what_is_new_is_encoded(pipeline, folder, tmp_path):
    encoded(pipeline, folder, tmp_path / "cache")
    more = write_preferences(
        tmp_path / "more",
        prompts=("a red circle", "two blue stars", "a red circle", "a green square", "new", "new"),
    )
    count(pipeline)
    encoded(pipeline, more, tmp_path / "cache")
    assert count(pipeline) == (4, 1)


def test_equal_pictures_are_encoded_once_whatever_their_names(pipeline, folder):
    shutil.copy(folder / "0_chosen.png", folder / "3_rejected.png")
    dataset = encoded(pipeline, folder)
    assert count(pipeline) == (7, 4)
    assert torch.equal(dataset.preferred[0], dataset.dispreferred[3])


@pytest.mark.parametrize("change", [{"resolution": 32}, {"cache_dtype": "float16"}])
def test_another_size_and_another_format_are_encoded_apart(pipeline, folder, tmp_path, change):
    encoded(pipeline, folder, tmp_path / "cache")
    count(pipeline)
    encoded(pipeline, folder, tmp_path / "cache", **change)
    assert count(pipeline)[0] == 8
    encoded(pipeline, folder, tmp_path / "cache")
    assert count(pipeline) == (0, 0)


def test_other_weights_are_another_encoder(tiny):
    other = copy.deepcopy(tiny)
    assert module_hash(other.vae) == module_hash(tiny.vae)
    assert text_hash(other) == text_hash(tiny)
    with torch.no_grad():
        other.vae.encoder.conv_in.bias[0] += 1e-3
        other.text_encoder.get_input_embeddings().weight[3, 3] += 1e-3
    assert module_hash(other.vae) != module_hash(tiny.vae)
    assert text_hash(other) != text_hash(tiny)
    assert module_hash(tiny.vae) != module_hash(copy.deepcopy(tiny.vae).half())


def test_float16_takes_half_the_room_and_rounds(pipeline, folder, tmp_path):
    whole = encoded(pipeline, folder, tmp_path / "cache")
    half = encoded(pipeline, folder, tmp_path / "cache", cache_dtype="float16")
    assert half.preferred.dtype == torch.float32
    rows = [0, 1, 2, 3]
    assert torch.equal(half.preferred[rows], whole.preferred[rows].half().float())


def test_the_null_prompt_may_be_zeros_in_the_cache_too(pipeline, folder, tmp_path):
    dataset = encoded(pipeline, folder, tmp_path / "cache", null_prompt="zeros")
    condition = dataset.conditions["encoder_hidden_states"]
    assert not condition[[0]].any()
    assert condition[[1]].any()


@pytest.mark.parametrize("family", ["sdxl", "pixart"])
def test_every_condition_of_a_family_is_kept_masks_included(folder, tmp_path, family):
    pipeline = tiny_pipeline(family, dtype=torch.float32)
    in_memory = encoded(pipeline, folder)
    stored = encoded(pipeline, folder, tmp_path / "cache")
    assert same(in_memory, stored)
    for name, value in in_memory.conditions.items():
        assert stored.conditions[name].dtype == value.dtype
