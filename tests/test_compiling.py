"""Compiled blocks compute what plain ones do, with adapters and without."""

import shutil

import pytest
import torch

from chats.denoising.adapter_rows import BASE, DISPREFERRED, PREFERRED, adapter_rows
from chats.denoising.calls import call_denoiser
from chats.denoising.families import denoiser_of, family_of
from chats.errors import UserError
from chats.objective import OBJECTIVES
from tests.tiny import tiny_pipeline
from training.config import ModelSettings
from training.loop.compiling import compile_blocks
from training.loop.pair_model import PairModel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True, recompile_limit=8):
        yield
    torch._dynamo.reset()


def pair_model(family="sd15"):
    pipeline = tiny_pipeline(family, dtype=torch.float32)
    return PairModel(
        denoiser_of(pipeline),
        objective=OBJECTIVES["chats"],
        settings=ModelSettings(kind="lora", rank=2, lora_alpha=4),
        family=family_of(pipeline),
        seed=0,
    )


def inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    latents = {
        half: torch.randn(2, 4, 8, 8, generator=generator) for half in ("preferred", "dispreferred")
    }
    text = {"encoder_hidden_states": torch.randn(2, 12, 32, generator=generator)}
    return latents, torch.tensor([500, 200]), {"prompt": text, "dropped": text}


def one_forward(model, names):
    """What a picture needs: rows with other adapters than in training."""
    latents, timesteps, conditions = inputs(3)
    denoiser = model.denoisers["reference"]
    with adapter_rows(denoiser, names):
        return call_denoiser(
            denoiser, latents["preferred"], timesteps, conditions["prompt"], family=model.family
        )


# torch hides this warning of its own, but not from a filter that makes warnings errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_train_and_predict_as_plain_ones():
    """Adapters come and go as hooks: with gradients they are there in one pass of two.

    `aot_eager` traces and guards as the real compiler does, and needs none. Predictions without
    gradients come last, since a graph of the reference's pass is there by then.
    """
    plain, compiled = pair_model(), pair_model()
    compile_blocks(compiled, device=CPU, backend="aot_eager")
    for step in range(2):
        losses = []
        for model in (plain, compiled):
            loss = sum((output**2).mean() for output in model(*inputs(step)).values())
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for parameter in model.trained_parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    with torch.no_grad():
        expected, found = plain(*inputs(9)), compiled(*inputs(9))
    for prediction, value in expected.items():
        torch.testing.assert_close(found[prediction], value, rtol=1e-4, atol=1e-4)
    compiled.end_step()
    plain.end_step()
    for names in ([BASE, DISPREFERRED], [PREFERRED, PREFERRED], [DISPREFERRED, BASE]):
        with torch.no_grad():
            expected, found = (one_forward(model, names) for model in (plain, compiled))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8
    assert not torch._dynamo.utils.counters["graph_break"]


def test_no_compiler_is_said_before_the_start(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*optimizer\.compile to false"):
        compile_blocks(pair_model(), device=CPU)


def test_a_denoiser_without_repeated_blocks_is_refused():
    with pytest.raises(UserError, match="PixArtTransformer2DModel does not say"):
        compile_blocks(pair_model("pixart"), device=CPU, backend="aot_eager")
