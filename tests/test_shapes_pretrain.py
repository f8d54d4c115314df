"""The scripts behind the embedded weights: seeded, resumable, whole."""

import numpy as np
import pytest
import torch
from torch import nn

from chats.shapes.pretrain.autoencoder import fold_normalization, new_autoencoder
from chats.shapes.pretrain.clip import contrastive_loss
from chats.shapes.pretrain.loop import Loop
from chats.shapes.pretrain.scenes import CHUNK_SIZE, scene_chunk
from chats.shapes.pretrain.tokenizer import new_tokenizer
from chats.shapes.world import COLORS, SHAPES


def test_every_word_of_the_world_is_one_token_and_unknown_words_are_spelled():
    tokenizer = new_tokenizer()
    for word in (*SHAPES, *COLORS, "three", "crosses", "above"):
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(tokenizer("hexagon").input_ids) > 3


def test_chunk_of_scenes_is_a_function_of_its_arguments():
    first, again = (scene_chunk(5, seed=1, caption_noise=0.1, blur_rate=0.1) for _ in range(2))
    assert first.captions == again.captions
    assert np.array_equal(first.pictures, again.pictures)
    assert len(first.captions) == CHUNK_SIZE
    assert all(said != missed for said, _, missed in first.captions)


def small_loop(folder, num_steps):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    loop = Loop(
        name="net",
        workdir=folder,
        modules={"net": net},
        rates={"net": 1e-2},
        num_steps=num_steps,
        seed=1,
        save_every=3,
        ema_decay=0.9,
    )

    def step(_, generator):
        return net(torch.randn(8, 3, generator=generator)).square().mean()

    return net, loop, step


def test_resumed_training_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole, loop, step = small_loop(tmp_path / "a", 9)
    loop.path.parent.mkdir()
    loop.run(step)
    _, loop, step = small_loop(tmp_path / "b", 9)
    loop.path.parent.mkdir()

    def interrupted(index, generator):
        if index == 7:
            raise KeyboardInterrupt
        return step(index, generator)

    with pytest.raises(KeyboardInterrupt):
        loop.run(interrupted)
    resumed, loop, step = small_loop(tmp_path / "b", 9)
    assert loop.start == 6
    loop.run(step)
    assert torch.equal(whole.weight, resumed.weight)


def test_training_stops_at_a_loss_that_is_not_a_number(tmp_path):
    net, loop, _ = small_loop(tmp_path, 3)
    before = net.weight.clone()
    with pytest.raises(FloatingPointError, match="step 0"):
        loop.run(lambda *_: net.weight.sum() * float("nan"))
    assert torch.equal(net.weight, before)


def test_folding_normalises_the_latents_and_changes_no_picture():
    torch.manual_seed(0)
    vae = new_autoencoder().eval()
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(pictures).latent_dist.mean).sample
        fold_normalization(vae, pictures)
        means = vae.encode(pictures).latent_dist.mean
        after = vae.decode(means).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(means.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(means.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_contrastive_loss_counts_near_misses_as_negatives():
    """Two orthogonal pictures with their own texts, and near misses equal to the texts.

    At temperature 1 the logits of a picture are (1, 0, 1, 0), so −log softmax of the first is
    log(2e + 2) − 1; the other direction sees (1, 0): log(e + 1) − 1.
    """
    pictures = torch.eye(2)
    texts = torch.cat([torch.eye(2), torch.eye(2)])
    loss = contrastive_loss(pictures, texts, torch.tensor(0.0))
    e = torch.e
    expected = ((np.log(2 * e + 2) - 1) + (np.log(e + 1) - 1)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
