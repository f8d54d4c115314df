"""Pairs as the loop reads them: how they are encoded, and what is drawn from them."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from chats.errors import UserError
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.config import DataSettings
from training.data.draws import draw_batch, samples_at
from training.data.encoded_pairs import encode_pairs, encode_preferences
from training.data.encoding import as_tensor, encode_prompts
from training.data.pictures import decode, fit
from training.preferences import read_pairs, read_preferences


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline("sd15", dtype=torch.float32)


@pytest.fixture
def folder(tmp_path):
    return write_preferences(tmp_path / "pairs")


@pytest.fixture(scope="module")
def dataset(pipeline, tmp_path_factory):
    folder = write_preferences(tmp_path_factory.mktemp("data") / "pairs")
    return encode_pairs(read_pairs(folder), pipeline, name="pairs")


def test_files_that_are_no_whole_pictures_are_told_in_one_report(folder, pipeline):
    (folder / "1_chosen.png").write_bytes(b"not an image")
    path = folder / "2_rejected.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError) as refused:
        encode_pairs(read_pairs(folder), pipeline, name="pairs")
    opening, second, third, advice = str(refused.value).splitlines()
    assert opening == (
        "pairs can't be used as it is: 2 rows (1 × no picture, 1 × damaged picture)."
    )
    assert second == "Row 2: 1_chosen.png is no PNG, JPEG or WebP image"
    assert third.startswith("Row 3: 2_rejected.png can't be read: ")
    assert "data.on_bad_rows skip" in advice


def test_bad_pictures_are_left_out_and_counted_when_asked(folder, pipeline, caplog):
    (folder / "1_chosen.png").write_bytes(b"")
    settings = DataSettings(path=folder, on_bad_rows="skip")
    (encoded,) = encode_preferences(read_preferences(settings), pipeline, settings)
    assert len(encoded) == 3
    assert "left out 1 row (1 × empty file).\nRow 2: 1_chosen.png is empty" in caplog.text


def test_a_set_of_which_less_than_two_pairs_are_left_is_refused(folder, pipeline):
    for number in range(3):
        (folder / f"{number}_chosen.png").write_bytes(b"")
    settings = DataSettings(path=folder, on_bad_rows="skip")
    with pytest.raises(UserError, match="pairs has 1 pairs left"):
        encode_preferences(read_preferences(settings), pipeline, settings)


def test_an_autoencoder_that_gives_nan_is_refused(folder, pipeline):
    broken = copy.deepcopy(pipeline)
    broken.vae.quant_conv.weight.data[0] = torch.nan
    with pytest.raises(UserError, match=r"not finite in torch\.float32"):
        encode_pairs(read_pairs(folder), broken)


def test_a_resolution_that_the_model_cannot_have_is_refused(folder, pipeline):
    with pytest.raises(UserError, match=r"17 must be divisible by 2"):
        encode_pairs(read_pairs(folder), pipeline, resolution=17)


def test_equal_prompts_are_encoded_once_and_row_0_is_the_empty_prompt(dataset, pipeline):
    """Prompts 1 and 3 are the same: rows 1, 2, 1, 3 of the conditions, after row 0 for ∅."""
    assert dataset.prompt_rows.tolist() == [1, 2, 1, 3]
    conditions = dataset.conditions["encoder_hidden_states"]
    assert len(conditions) == 4
    expected, _ = pipeline.encode_prompt(["", "a green square"], "cpu", 1, False)
    torch.testing.assert_close(conditions[[0, 3]], expected)


def test_the_null_prompt_may_be_zeros(folder, pipeline):
    pairs = read_pairs(folder)
    conditions = encode_pairs(pairs, pipeline, null_prompt="zeros").conditions
    assert not conditions["encoder_hidden_states"][0].any()
    assert conditions["encoder_hidden_states"][1].any()


def test_the_latents_are_those_of_the_models_own_autoencoder(dataset, pipeline, folder):
    """The drawn latents minus their mean, over the posterior's deviation, are the drawn noise."""
    pair = read_pairs(folder)[1]
    with torch.no_grad():
        picture = decode(pair.preferred.read(), name="")
        image = as_tensor(fit(picture, width=16, height=16))[None]
        posterior = pipeline.vae.encode(image).latent_dist
    mean, log_variance = dataset.preferred[1:2].chunk(2, dim=1)
    torch.testing.assert_close(mean, posterior.mean)
    torch.testing.assert_close(log_variance, posterior.logvar)
    assert dataset.latent_shape == (4, 8, 8)


def test_black_is_minus_one_and_white_is_one():
    pixels = np.stack([np.zeros((2, 4, 3), np.uint8), np.full((2, 4, 3), 255, np.uint8)])
    assert torch.equal(as_tensor(pixels[0]), torch.full((3, 2, 4), -1.0))
    assert torch.equal(as_tensor(pixels[1]), torch.ones(3, 2, 4))


def test_pairs_in_buckets_keep_their_shape_and_share_their_conditions(folder, pipeline):
    """Pictures of 20 × 16 and, in row 3, a preferred one of 16 × 30 pixels."""
    Image.new("RGB", (16, 30)).save(folder / "2_chosen.png")
    settings = DataSettings(path=folder, buckets=True)
    tall, wide = encode_preferences(read_preferences(settings), pipeline, settings)
    assert (len(tall), len(wide)) == (1, 3)
    assert tall.latent_shape == (4, 10, 6)  # 12 × 20 px
    assert wide.latent_shape == (4, 7, 9)  # 18 × 14 px
    assert tall.dispreferred.shape == tall.preferred.shape
    text = [each.conditions["encoder_hidden_states"] for each in (tall, wide)]
    assert text[0] is text[1]
    assert (tall.prompt_rows.tolist(), wide.prompt_rows.tolist()) == ([1], [1, 2, 3])


def batch_of(dataset, positions, *, seed=0, prompt_drop=0.0, dispreferred_prompt_drop=0.5):
    return draw_batch(
        dataset,
        positions,
        seed=seed,
        level_at=lambda uniform: int(1000 * uniform),
        prompt_drop=prompt_drop,
        dispreferred_prompt_drop=dispreferred_prompt_drop,
    )


def test_drawing_neither_reads_nor_moves_the_global_generators(dataset):
    torch.manual_seed(1)
    first = batch_of(dataset, [0])
    state = torch.get_rng_state()
    torch.manual_seed(2)
    np.random.seed(2)
    second = batch_of(dataset, [0])
    torch.manual_seed(1)
    assert torch.equal(first.noise, second.noise)
    assert torch.equal(state, torch.get_rng_state())


def test_a_sample_draws_the_same_in_any_batch(dataset):
    together = batch_of(dataset, [3, 4, 5, 6])
    for place, position in enumerate([3, 4, 5, 6]):
        alone = batch_of(dataset, [position])
        assert torch.equal(alone.noise[0], together.noise[place])
        assert alone.levels[0] == together.levels[place]
        for half in ("preferred", "dispreferred"):
            assert torch.equal(alone.latents[half][0], together.latents[half][place])


def test_each_epoch_holds_each_sample_once_in_its_own_order():
    counters = samples_at(range(200), num_samples=100, seed=0)
    first, second = ([sample for epoch, sample in counters if epoch == e] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_seed_and_epoch_change_every_draw(dataset):
    base = batch_of(dataset, range(4))
    for other in (batch_of(dataset, range(4), seed=1), batch_of(dataset, range(4, 8))):
        assert not torch.equal(base.noise, other.noise)
        assert not torch.equal(base.levels, other.levels)


def test_both_halves_share_level_and_noise_but_not_the_latents(dataset):
    batch = batch_of(dataset, range(4))
    assert batch.noise.shape == (4, 4, 8, 8)
    assert batch.levels.shape == (4,)
    assert not torch.equal(batch.latents["preferred"], batch.latents["dispreferred"])


def test_the_noise_is_standard_normal_and_the_levels_are_even(dataset):
    batch = batch_of(dataset, range(2000))
    assert batch.noise.mean().abs() < 0.01
    assert (batch.noise.std() - 1).abs() < 0.01
    counts = torch.bincount(batch.levels // 100, minlength=10)
    assert counts.min() > 140


def test_the_latents_are_scaled_samples_around_the_mean(dataset):
    """They are scaling·(mean + deviation·η − shift)."""
    batch = batch_of(dataset, range(4000))
    order = [sample for _, sample in samples_at(range(4000), num_samples=4, seed=0)]
    chosen = [place for place, sample in enumerate(order) if sample == 2]
    mean, log_variance = dataset.preferred[2].chunk(2)
    latents = batch.latents["preferred"][chosen]
    deviation = dataset.scaling_factor * (0.5 * log_variance).exp()
    expected = dataset.scaling_factor * (mean - dataset.shift_factor)
    assert ((latents.mean(0) - expected) / deviation).abs().max() < 5 / 1000**0.5
    assert (latents.std(0) / deviation - 1).abs().max() < 0.15


def test_the_dispreferred_prompt_is_dropped_per_sample_at_its_rate(dataset):
    batch = batch_of(dataset, range(2000))
    null = dataset.conditions["encoder_hidden_states"][0]
    dropped = (batch.conditions["dropped"]["encoder_hidden_states"] == null).all((1, 2))
    kept = (batch.conditions["prompt"]["encoder_hidden_states"] != null).any((1, 2))
    assert kept.all()
    assert 0.45 < dropped.float().mean() < 0.55


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_drop_of_nothing_and_of_everything_are_exact(dataset, share):
    batch = batch_of(dataset, range(50), prompt_drop=share, dispreferred_prompt_drop=share)
    null = dataset.conditions["encoder_hidden_states"][0]
    for arguments in batch.conditions.values():
        is_null = (arguments["encoder_hidden_states"] == null).all((1, 2))
        assert is_null.float().mean() == share


def test_prompts_are_encoded_in_order_whatever_the_batch(pipeline):
    prompts = ["a", "b", "a red star"]
    one, three = (encode_prompts(prompts, pipeline, batch_size=size) for size in (1, 3))
    torch.testing.assert_close(one, three)
