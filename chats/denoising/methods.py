"""The methods as one table of linear combinations, Σ wₖ · modelₖ(z, conditionₖ).

Pure and torch-free: the page reads the same table to say what was combined. Symbols are the
paper's: s is `scale` (diffusers' guidance_scale is 1 + s), α is `alpha`, c the prompt condition,
∅ the null condition, c̃ the proxy condition.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from chats.config import MethodName

if TYPE_CHECKING:
    import torch

Role = Literal["reference", "preferred", "dispreferred"]
"""Which model predicts: the frozen base, θ⁺, or θ⁻."""

Condition = Literal["prompt", "null", "proxy"]
"""What it is given: c, ∅, or c̃."""


@dataclass(frozen=True)
class Term:
    """One prediction and its weight in the combination."""

    weight: float
    role: Role
    condition: Condition


def terms(method: MethodName, scale: float, alpha: float) -> tuple[Term, ...]:
    """Return what `method` combines; the weights sum to 1 and none of them is 0.

    | method | combination | eq. |
    |---|---|---|
    | standard | ε_ref(c) | – |
    | cfg | (1+s)·ε_ref(c) − s·ε_ref(∅) | 8 |
    | chats | (1+s)·ε⁺(c) − s·ε⁻(c̃) | 17 |
    | chats-exact | (1+s)·ε⁺(c) + s·α·ε⁻(c) − s·(1+α)·ε⁻(∅) | 16 |
    | preferred-cfg | (1+s)·ε⁺(c) − s·ε⁺(∅) | – |
    | npo | (1+s)·ε_ref(c) − s·ε⁻(∅) | – |

    The first term is always the guided one. s = 0 leaves it alone, with weight 1.
    """
    s = scale
    table: dict[MethodName, tuple[Term, ...]] = {
        "standard": (Term(1.0, "reference", "prompt"),),
        "cfg": (Term(1 + s, "reference", "prompt"), Term(-s, "reference", "null")),
        "chats": (Term(1 + s, "preferred", "prompt"), Term(-s, "dispreferred", _proxy(alpha))),
        "chats-exact": (
            Term(1 + s, "preferred", "prompt"),
            Term(s * alpha, "dispreferred", "prompt"),
            Term(-s * (1 + alpha), "dispreferred", "null"),
        ),
        "preferred-cfg": (Term(1 + s, "preferred", "prompt"), Term(-s, "preferred", "null")),
        "npo": (Term(1 + s, "reference", "prompt"), Term(-s, "dispreferred", "null")),
    }
    return tuple(term for term in table[method] if term.weight != 0)


def needs_pair(method: MethodName) -> bool:
    """Say whether a method needs a preference pair: whether some term is not the reference's."""
    return any(term.role != "reference" for term in terms(method, 1.0, 0.5))


def uses_scale(method: MethodName) -> bool:
    """Say whether s changes what a method makes."""
    return terms(method, 1.0, 0.5) != terms(method, 0.0, 0.5)


def uses_alpha(method: MethodName) -> bool:
    """Say whether α changes what a method makes."""
    return terms(method, 1.0, 0.5) != terms(method, 1.0, 0.0)


def proxy_condition(prompt: "torch.Tensor", null: "torch.Tensor", alpha: float) -> "torch.Tensor":
    """Return the proxy condition c̃ = −α·c + (1+α)·∅ of eq. 17.

    Args:
        prompt: the text encoder's output for the prompt, c, (..., tokens, width) or pooled.
        null: its output for the null prompt, ∅, of the same shape.
        alpha: the proxy strength α; −1 gives c, 0 gives ∅.
    """
    return -alpha * prompt + (1 + alpha) * null


def _proxy(alpha: float) -> Condition:
    """Name c̃; where it equals ∅ or c it is that condition, with that condition's own mask."""
    return {0.0: "null", -1.0: "prompt"}.get(alpha, "proxy")
