"""Rows of one batch with their own adapters, against copies whose weights were merged by hand."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

import chats
from chats.denoising.adapter_rows import (
    BASE,
    DISPREFERRED,
    PREFERRED,
    adapter_rows,
    adapter_weights,
    add_pair_adapters,
    lora_layers,
)
from chats.denoising.families import denoiser_of, family_of
from chats.errors import UserError
from tests.tiny import (
    FAMILIES,
    LORA_ALPHA,
    RANK,
    merged,
    tiny_adapter,
    tiny_call,
    tiny_pair,
    tiny_pipeline,
)

ROWS = [PREFERRED, BASE, DISPREFERRED, PREFERRED]


def unet() -> nn.Module:
    return tiny_pipeline("sd15").unet


def batch(num_rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"sample": (num_rows, 4, 8, 8), "encoder_hidden_states": (num_rows, 12, 32)}
    made = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return {**made, "timestep": torch.arange(num_rows) * 100 + 5}


def both_adapters(denoiser: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    return {PREFERRED: tiny_adapter(denoiser, seed=1), DISPREFERRED: tiny_adapter(denoiser, seed=2)}


def carrying(denoiser: nn.Module, adapters: dict[str, dict[str, torch.Tensor]]) -> nn.Module:
    """Put given weights into new adapters on a denoiser."""
    add_pair_adapters(
        denoiser, rank=RANK, alpha=LORA_ALPHA, targets=["to_q", "to_k", "to_v", "to_out.0"]
    )
    with torch.no_grad():
        for name, tensors in adapters.items():
            for key, tensor in tensors.items():
                layer, part = key.removesuffix(".weight").rsplit(".", 1)
                getattr(denoiser.get_submodule(layer), part)[name].weight.copy_(tensor)
    return denoiser


def with_style(denoiser: nn.Module, **options) -> nn.Module:
    config = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False, **options)
    return inject_adapter_in_model(config, denoiser, "style")


def switched_off(denoiser: nn.Module) -> nn.Module:
    for layer in lora_layers(denoiser):
        layer.set_adapter([])
    return denoiser


def test_a_denoiser_without_adapters_is_refused():
    with pytest.raises(UserError, match="carries no LoRA adapters"), adapter_rows(unet(), [BASE]):
        pass


def test_an_unknown_adapter_name_is_refused():
    """By itself peft would run such rows as the base without a word."""
    denoiser = unet()
    carrying(denoiser, both_adapters(denoiser))
    with (
        adapter_rows(denoiser, ["preferred", "prefered"]),
        pytest.raises(UserError, match=r"Unknown adapter names \['prefered'\]; known are"),
    ):
        denoiser(**batch(2))


def test_another_number_of_names_than_rows_is_refused():
    denoiser = unet()
    carrying(denoiser, both_adapters(denoiser))
    with (
        adapter_rows(denoiser, [PREFERRED]),
        pytest.raises(UserError, match="1 adapter names for 2 rows"),
    ):
        denoiser(**batch(2))


def test_a_fused_lora_is_refused():
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    for layer in lora_layers(with_style(pipe.unet)):
        layer.merge()
    with pytest.raises(UserError, match="fused"), adapter_rows(pipe.unet, ["style"]):
        pass
    with pytest.raises(UserError, match="fused"), chats.guidance(pipe, pair):
        pass


def test_a_dora_is_refused():
    denoiser = with_style(unet(), use_dora=True)
    with pytest.raises(UserError, match="DoRA"), adapter_rows(denoiser, ["style"]):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lora_dropout": 0.1}, "Set lora_dropout to 0"), ({"lora_bias": True}, "without bias")],
)
@pytest.mark.filterwarnings("ignore:`lora_bias=True`")  # some layers have no bias to merge into
def test_adapters_with_dropout_or_bias_are_refused(options, message):
    denoiser = switched_off(with_style(unet(), **options))
    with pytest.raises(UserError, match=message), adapter_rows(denoiser, ["style"]):
        pass


def test_an_adapter_that_is_on_for_every_row_is_refused():
    denoiser = with_style(unet())
    with (
        pytest.raises(UserError, match=r"\['style'\] are switched on for every row"),
        adapter_rows(denoiser, ["style"]),
    ):
        pass


def test_adapters_cannot_be_added_beside_others():
    denoiser = with_style(unet())
    with pytest.raises(UserError, match=r"already carries the adapters \['style'\]"):
        add_pair_adapters(denoiser, rank=2, alpha=2, targets=["to_q"])


def test_target_modules_that_match_nothing_are_refused():
    with pytest.raises(UserError, match="No layer of UNet2DConditionModel has a name that ends"):
        add_pair_adapters(unet(), rank=2, alpha=2, targets=["query"])


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_fit_every_attention_layer_of_the_family(family):
    pipe = tiny_pipeline(family)
    add_pair_adapters(denoiser_of(pipe), rank=2, alpha=2, targets=family_of(pipe).lora_targets)
    expected = tiny_adapter(denoiser_of(tiny_pipeline(family)), seed=0).keys()
    assert adapter_weights(denoiser_of(pipe), PREFERRED).keys() == expected


def test_each_row_is_the_model_with_its_adapter_merged_by_hand():
    denoiser = unet()
    adapters = both_adapters(denoiser)
    models = {name: merged(denoiser, weights) for name, weights in adapters.items()}
    models[BASE] = merged(denoiser, {})
    carrying(denoiser, adapters)
    inputs = batch(4)
    with torch.no_grad(), adapter_rows(denoiser, ROWS):
        rows = denoiser(**inputs).sample
    for i, name in enumerate(ROWS):
        alone = models[name](**{key: value[i : i + 1] for key, value in inputs.items()}).sample
        assert torch.allclose(rows[i : i + 1], alone, rtol=1e-10, atol=1e-10)


def test_names_are_read_at_every_forward():
    denoiser = unet()
    carrying(denoiser, both_adapters(denoiser))
    names = [PREFERRED, DISPREFERRED]
    same = {key: value[:1].repeat(2, *[1] * (value.ndim - 1)) for key, value in batch(1).items()}
    with torch.no_grad(), adapter_rows(denoiser, names):
        first = denoiser(**same).sample
        names.reverse()
        second = denoiser(**same).sample
    assert torch.allclose(first.flip(0), second, rtol=1e-12, atol=1e-12)


def test_adapters_that_are_being_trained_are_read_at_every_forward():
    denoiser = carrying(unet(), both_adapters(unet()))
    inputs = batch(1)
    with torch.no_grad(), adapter_rows(denoiser, [PREFERRED]):
        before = denoiser(**inputs).sample
        lora_layers(denoiser)[0].lora_B[PREFERRED].weight.mul_(2)
        assert not torch.allclose(denoiser(**inputs).sample, before)


def test_without_rows_adapters_do_nothing():
    denoiser = unet()
    inputs = batch(2)
    with torch.no_grad():
        before = denoiser(**inputs).sample
        carrying(denoiser, both_adapters(denoiser))
        assert torch.equal(denoiser(**inputs).sample, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_without_an_adapter_are_the_base_bit_for_bit(dtype):
    denoiser = carrying(unet(), both_adapters(unet()))
    layer = lora_layers(denoiser)[0].to(dtype)
    inputs = torch.randn(4, 5, layer.in_features, generator=torch.manual_seed(0)).to(dtype)
    with torch.no_grad():
        plain = layer(inputs)
        with adapter_rows(denoiser, ROWS):
            mixed = layer(inputs)
    assert torch.equal(mixed[1], plain[1])
    assert not torch.equal(mixed[0], plain[0])


def test_convolutions_can_be_adapted_too():
    """Adapters on 3 × 3, strided and 1 × 1 convolutions agree with peft's own forward."""
    denoiser = unet()
    targets = ["conv1", "conv_shortcut", "downsamplers.0.conv"]
    add_pair_adapters(denoiser, rank=2, alpha=4, targets=targets)
    generator = torch.Generator().manual_seed(0)
    for layer in lora_layers(denoiser):
        for up in layer.lora_B.values():
            nn.init.normal_(up.weight, generator=generator)
    kernels = {tuple(layer.weight.shape[2:]) for layer in lora_layers(denoiser)}
    assert kernels == {(3, 3), (1, 1)}
    inputs = batch(2)
    with torch.no_grad():
        with adapter_rows(denoiser, [DISPREFERRED, BASE]):
            ours = denoiser(**inputs).sample
        base = denoiser(**inputs).sample
        for layer in lora_layers(denoiser):
            layer.set_adapter(DISPREFERRED)
        theirs = denoiser(**inputs).sample
    assert torch.allclose(ours[0], theirs[0], rtol=1e-10, atol=1e-10)
    assert torch.allclose(ours[1], base[1], rtol=1e-10, atol=1e-10)


def test_new_adapters_are_the_reference_and_only_they_are_trainable():
    denoiser = unet()
    inputs = batch(3)
    with torch.no_grad():
        before = denoiser(**inputs).sample
    add_pair_adapters(denoiser, rank=4, alpha=8, targets=["to_q", "to_v"])
    with torch.no_grad(), adapter_rows(denoiser, [PREFERRED, DISPREFERRED, BASE]):
        assert torch.allclose(denoiser(**inputs).sample, before, rtol=1e-12, atol=1e-12)
    trainable = {name for name, weight in denoiser.named_parameters() if weight.requires_grad}
    lora = {name for name, _ in denoiser.named_parameters() if ".lora_" in name}
    assert trainable == lora
    assert all(
        layer.scaling == {PREFERRED: 2.0, DISPREFERRED: 2.0} for layer in lora_layers(denoiser)
    )


def test_a_generator_decides_where_new_adapters_start():
    def start(seed: int) -> torch.Tensor:
        denoiser = unet()
        generator = torch.Generator().manual_seed(seed)
        add_pair_adapters(denoiser, rank=2, alpha=2, targets=["to_q"], generator=generator)
        weights = adapter_weights(denoiser, PREFERRED)
        return torch.cat([weight.flatten() for weight in weights.values()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_both_adapters_and_nothing_else(checkpointing):
    """Each adapter's gradient is that of a model which has it alone."""
    denoiser = unet().train()
    add_pair_adapters(
        denoiser,
        rank=2,
        alpha=2,
        targets=["to_q", "to_v"],
        generator=torch.Generator().manual_seed(0),
    )
    for layer in lora_layers(denoiser):
        for up in layer.lora_B.values():
            nn.init.normal_(up.weight, generator=torch.Generator().manual_seed(5))
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    inputs = batch(4)
    with adapter_rows(denoiser, ROWS):
        (denoiser(**inputs).sample ** 2).sum().backward()
    together = {
        name: weight.grad.clone()
        for name, weight in denoiser.named_parameters()
        if weight.grad is not None
    }
    assert together.keys() == {n for n, w in denoiser.named_parameters() if w.requires_grad}
    assert all(gradient.abs().max() > 0 for gradient in together.values())
    denoiser.zero_grad()
    rows = [i for i, name in enumerate(ROWS) if name == DISPREFERRED]
    alone = {key: value[rows] for key, value in inputs.items()}
    with adapter_rows(denoiser, [DISPREFERRED] * len(rows)):
        (denoiser(**alone).sample ** 2).sum().backward()
    for name, weight in denoiser.named_parameters():
        if f".{DISPREFERRED}." in name:
            assert torch.allclose(weight.grad, together[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("is_on", [True, False])
def test_a_lora_pair_leaves_another_adapter_of_the_denoiser_in_force(is_on):
    """A style LoRA that is on belongs to every row, as if it were merged into the base."""
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    with_style(pipe.unet)
    if not is_on:
        switched_off(pipe.unet)
    call = {**tiny_call("sd15"), "generator": torch.Generator().manual_seed(0)}
    with chats.guidance(pipe, pair, scale=0.0):
        ours = pipe("ab", **call).images
    adapters = [pair.preferred]
    if is_on:
        style = {"A": "lora_A", "B": "lora_B"}
        adapters.append(
            {
                f"{path}.lora_{part}.weight": getattr(layer, attribute)["style"].weight
                * (1 if part == "A" else layer.scaling["style"] * RANK / LORA_ALPHA)
                for path, layer in pipe.unet.named_modules()
                if isinstance(layer, LoraLayer)
                for part, attribute in style.items()
            }
        )
    by_hand = tiny_pipeline("sd15")
    for adapter in adapters:
        by_hand.unet = merged(by_hand.unet, adapter)
    call["generator"] = torch.Generator().manual_seed(0)
    expected = by_hand("ab", guidance_scale=1.0, **call).images
    assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
