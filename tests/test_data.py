"""Preferences from a folder: what is refused, what is encoded, and what is drawn from it."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from chats.errors import UserError
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import read_metadata, write_metadata, write_preferences
from training.data import encode_pairs, encode_prompts, load_image
from training.draws import draw_batch, samples_at
from training.preferences import read_pairs


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


def change_row(folder, number: int, **values) -> None:
    rows = read_metadata(folder)
    rows[number - 1] |= values
    write_metadata(folder, rows)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_pairs(tmp_path / "none")


def test_a_folder_without_metadata_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"metadata\.jsonl or metadata\.csv; it has neither"):
        read_pairs(tmp_path)


def test_a_missing_column_is_named_with_those_that_exist(folder):
    rows = [
        {"prompt": row["prompt"], "image_0": row["chosen_file_name"]}
        for row in read_metadata(folder)
    ]
    write_metadata(folder, rows)
    with pytest.raises(
        UserError, match=r"no column 'chosen_file_name'; it has \['image_0', 'prompt'\]"
    ):
        read_pairs(folder)


@pytest.mark.parametrize("prompt", [None, 3, ["a"]])
def test_a_prompt_that_is_no_text_is_refused_with_its_row(folder, prompt):
    change_row(folder, 2, prompt=prompt)
    with pytest.raises(UserError, match=r"Row 2 .*prompt must be text"):
        read_pairs(folder)


def test_a_missing_image_is_refused_with_its_row(folder):
    change_row(folder, 3, rejected_file_name="gone.png")
    with pytest.raises(UserError, match=r"Row 3: there is no image 'gone\.png'"):
        read_pairs(folder)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png"])
def test_a_path_that_leaves_the_folder_is_refused_with_its_row(folder, name):
    Image.new("RGB", (16, 16)).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    change_row(folder, 1, chosen_file_name=name)
    with pytest.raises(UserError, match=r"Row 1: .* leads out of the folder"):
        read_pairs(folder)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000])
def test_what_can_be_no_file_name_is_refused_with_its_row(folder, name):
    change_row(folder, 1, chosen_file_name=name)
    with pytest.raises(UserError, match="Row 1: "):
        read_pairs(folder)


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_line_that_is_no_json_object_is_refused_with_its_row(folder, line):
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text + line + "\n")
    with pytest.raises(UserError, match="Row 5 "):
        read_pairs(folder)


def test_text_that_is_not_utf_8_is_refused(folder):
    (folder / "metadata.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        read_pairs(folder)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_fewer_than_two_pairs_are_refused(folder, num_rows):
    write_metadata(folder, read_metadata(folder)[:num_rows])
    with pytest.raises(UserError, match=f"holds {num_rows} preference pairs; .* at least 2"):
        read_pairs(folder)


@pytest.mark.parametrize("content", [b"", b"not an image", b"GIF89a\x01\x00\x01\x00\x00"])
def test_a_file_that_is_no_image_is_refused_with_its_row(folder, pipeline, content):
    (folder / "1_chosen.png").write_bytes(content)
    with pytest.raises(UserError, match=r"Row 2: 1_chosen\.png is no PNG, JPEG or WebP"):
        encode_pairs(read_pairs(folder), pipeline)


def test_an_image_cut_short_is_refused_with_its_row(folder, pipeline):
    path = folder / "2_rejected.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"Row 3: 2_rejected\.png can't be read"):
        encode_pairs(read_pairs(folder), pipeline)


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (8000, 6000)).save(path)
    with pytest.raises(UserError, match="8000 × 6000 pixels"):
        load_image(path, resolution=16)


def test_a_resolution_that_the_model_cannot_have_is_refused(folder, pipeline):
    with pytest.raises(UserError, match=r"17 must be divisible by 2"):
        encode_pairs(read_pairs(folder), pipeline, resolution=17)


def test_rows_of_a_csv_equal_rows_of_jsonl(folder):
    expected = read_pairs(folder)
    rows = read_metadata(folder)
    (folder / "metadata.jsonl").unlink()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert read_pairs(folder) == expected


def test_only_the_first_pairs_are_read_when_asked(folder):
    assert [pair.row for pair in read_pairs(folder, max_pairs=2)] == [1, 2]


def test_an_image_is_resized_by_its_short_side_and_cut_in_the_middle(tmp_path):
    """6 × 2 pixels, left third black, middle third grey 255, right third black → the middle."""
    pixels = np.zeros((2, 6, 3), dtype=np.uint8)
    pixels[:, 2:4] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = load_image(tmp_path / "wide.png", resolution=2)
    assert torch.equal(image, torch.ones(3, 2, 2))


def test_black_is_minus_one_and_white_is_one(tmp_path):
    for colour, value in (("black", -1.0), ("white", 1.0)):
        Image.new("RGB", (4, 8), colour).save(tmp_path / "flat.png")
        image = load_image(tmp_path / "flat.png", resolution=4)
        assert torch.equal(image, torch.full((3, 4, 4), value))


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
        image = load_image(pair.preferred, resolution=16)[None]
        posterior = pipeline.vae.encode(image).latent_dist
    mean, log_variance = dataset.preferred[1:2].chunk(2, dim=1)
    torch.testing.assert_close(mean, posterior.mean)
    torch.testing.assert_close(log_variance, posterior.logvar)
    assert dataset.latent_shape == (4, 8, 8)


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
