"""The table of methods: identities of the paper's equations, exact in float64."""

from typing import get_args

import pytest
import torch

from chats.config import MethodName
from chats.denoising.methods import (
    Term,
    needs_pair,
    proxy_condition,
    terms,
    uses_alpha,
    uses_scale,
)

ALPHAS = (-1.0, -0.5, 0.0, 0.3, 0.5, 0.7, 1.0)
SCALES = (0.0, 1.0, 5.0, 7.5)


def embeddings(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 7, 5, generator=generator, dtype=torch.float64)


def test_unknown_method_is_not_in_the_table():
    with pytest.raises(KeyError):
        terms("best", 5.0, 0.5)


@pytest.mark.parametrize("method", get_args(MethodName))
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_weights_of_every_method_sum_to_one_and_none_is_zero(method, scale, alpha):
    weights = [term.weight for term in terms(method, scale, alpha)]
    assert sum(weights) == pytest.approx(1.0, abs=1e-14)
    assert all(weights)


@pytest.mark.parametrize("method", get_args(MethodName))
@pytest.mark.parametrize("alpha", ALPHAS)
def test_scale_zero_is_the_guided_prediction_alone(method, alpha):
    role = "preferred" if method in ("chats", "chats-exact", "preferred-cfg") else "reference"
    assert terms(method, 0.0, alpha) == (Term(1.0, role, "prompt"),)


def test_what_a_method_uses_follows_from_its_terms():
    """CHATS in either form moves with α; only Standard and CFG do without a pair."""
    methods = get_args(MethodName)
    assert [name for name in methods if not uses_scale(name)] == ["standard"]
    assert [name for name in methods if uses_alpha(name)] == ["chats", "chats-exact"]
    assert [name for name in methods if not needs_pair(name)] == ["standard", "cfg"]


def test_cfg_is_equation_8():
    assert terms("cfg", 5.0, 0.5) == (
        Term(6.0, "reference", "prompt"),
        Term(-5.0, "reference", "null"),
    )


def test_chats_is_equation_17():
    assert terms("chats", 5.0, 0.5) == (
        Term(6.0, "preferred", "prompt"),
        Term(-5.0, "dispreferred", "proxy"),
    )


def test_exact_chats_is_equation_16():
    """(1+s)·ε⁺(c) − s·[−α·ε⁻(c) + (1+α)·ε⁻(∅)] with s = 4, α = 1/2: 5, +2, −6."""
    assert terms("chats-exact", 4.0, 0.5) == (
        Term(5.0, "preferred", "prompt"),
        Term(2.0, "dispreferred", "prompt"),
        Term(-6.0, "dispreferred", "null"),
    )


def test_single_tuned_models_are_cfg_with_one_or_the_other_side_replaced():
    assert terms("preferred-cfg", 2.0, 0.5) == (
        Term(3.0, "preferred", "prompt"),
        Term(-2.0, "preferred", "null"),
    )
    assert terms("npo", 2.0, 0.5) == (
        Term(3.0, "reference", "prompt"),
        Term(-2.0, "dispreferred", "null"),
    )


def test_alpha_minus_one_makes_the_proxy_the_prompt_exactly():
    prompt, null = embeddings(1), embeddings(2)
    assert torch.equal(proxy_condition(prompt, null, -1.0), prompt)


def test_alpha_zero_makes_the_proxy_the_null_condition_exactly():
    prompt, null = embeddings(1), embeddings(2)
    assert torch.equal(proxy_condition(prompt, null, 0.0), null)


@pytest.mark.parametrize("scale", SCALES)
def test_alpha_zero_uses_the_null_condition_itself_so_chats_is_cfg_with_two_models(scale):
    """Every (weight, condition) is CFG's; only the roles differ."""
    chats, cfg = terms("chats", scale, 0.0), terms("cfg", scale, 0.0)
    exact = terms("chats-exact", scale, 0.0)
    assert [(t.weight, t.condition) for t in chats] == [(t.weight, t.condition) for t in cfg]
    assert exact == chats


def test_alpha_minus_one_uses_the_prompt_itself_in_both_equations():
    assert terms("chats", 5.0, -1.0) == terms("chats-exact", 5.0, -1.0)
    assert terms("chats", 5.0, -1.0)[1] == Term(-5.0, "dispreferred", "prompt")


def test_proxy_is_minus_alpha_prompt_plus_one_plus_alpha_null():
    """α = 1/2, c = 4, ∅ = 10: −2 + 15 = 13."""
    prompt, null = torch.full((1, 2), 4.0), torch.full((1, 2), 10.0)
    assert proxy_condition(prompt, null, 0.5).tolist() == [[13.0, 13.0]]
