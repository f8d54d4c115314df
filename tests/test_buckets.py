"""Aspect-ratio buckets: their sizes, and batches of one bucket as a function of their number."""

from collections import Counter

import pytest

from training.data.buckets import (
    bucket_seed,
    bucket_sizes,
    bucketed_batch,
    bucketed_order,
    nearest_bucket,
)

SIZES = (23, 5, 3, 0, 64)
"""Pairs in five buckets: one of them smaller than a batch, one empty."""


@pytest.mark.parametrize(("resolution", "factor"), [(1024, 8), (512, 8), (64, 4), (16, 2)])
def test_sides_are_multiples_and_areas_are_about_the_square_of_the_resolution(resolution, factor):
    step = 64 if resolution >= 512 else factor
    sizes = bucket_sizes(resolution, factor=factor)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes)
    assert set(sizes) == {(height, width) for width, height in sizes}
    assert sorted(sizes, key=lambda size: size[0] / size[1]) == list(sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert 0 <= resolution**2 - width * height < step * min(width, height)
        assert max(width, height) <= 4 * min(width, height)


def test_the_buckets_of_1024_hold_those_that_sdxl_was_trained_on():
    assert {(832, 1216), (896, 1152), (1152, 896), (1344, 768), (512, 2048)} <= set(
        bucket_sizes(1024, factor=8)
    )


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [
        ((100, 100), (1024, 1024)),
        ((1920, 1080), (1344, 768)),
        ((1080, 1920), (768, 1344)),
        ((1, 50), (512, 2048)),
        ((5000, 10), (2048, 512)),
    ],
)
def test_a_picture_goes_to_the_bucket_of_its_shape(picture, bucket):
    assert nearest_bucket(picture, bucket_sizes(1024, factor=8)) == bucket


def stream(num: int, *, batch_size=4, seed=0, sizes=SIZES):
    return [
        bucketed_batch(batch, sizes=sizes, batch_size=batch_size, seed=seed) for batch in range(num)
    ]


def test_the_stream_of_batches_is_the_epochs_one_after_the_other():
    epochs = [
        batch
        for epoch in range(8)
        for batch in bucketed_order(epoch, sizes=SIZES, batch_size=4, seed=0)
    ]
    assert stream(len(epochs)) == epochs


@pytest.mark.parametrize("sizes", [SIZES, (1, 1), (7,), (100, 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_each_place_of_each_bucket_comes_up_once_in_full_batches(sizes, batch_size):
    """After e epochs a bucket of n pairs has given ⌊e·n / batch_size⌋ batches, in one piece."""
    num_epochs = 12
    places = {bucket: [] for bucket in range(len(sizes))}
    for epoch in range(num_epochs):
        for batch in bucketed_order(epoch, sizes=sizes, batch_size=batch_size, seed=0):
            assert len(batch.positions) == batch_size
            places[batch.bucket] += batch.positions
    for bucket, size in enumerate(sizes):
        whole = num_epochs * size // batch_size * batch_size
        assert sorted(places[bucket]) == list(range(whole))


def test_a_batch_is_a_function_of_its_number_and_the_seed_alone():
    assert stream(40)[17] == bucketed_batch(17, sizes=SIZES, batch_size=4, seed=0)
    assert stream(40) != stream(40, seed=1)


def test_epochs_mix_the_buckets_in_different_orders():
    orders = [
        [batch.bucket for batch in bucketed_order(epoch, sizes=SIZES, batch_size=1, seed=0)]
        for epoch in (0, 1)
    ]
    assert Counter(orders[0]) == Counter(orders[1]) == {0: 23, 1: 5, 2: 3, 4: 64}
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_a_batch_far_away_is_found_at_once():
    far = bucketed_batch(10**9, sizes=SIZES, batch_size=4, seed=0)
    assert len(far.positions) == 4


def test_buckets_draw_from_seeds_of_their_own():
    seeds = {bucket_seed(seed, size) for seed in (0, 1) for size in ((8, 8), (6, 11), (11, 6))}
    assert len(seeds) == 6
