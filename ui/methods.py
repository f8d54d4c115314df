"""The one line that says what each method is, and which sliders move it."""

from dataclasses import dataclass

from chats.config import METHODS_WITHOUT_PAIR, MethodName
from chats.wording import METHOD_TITLES


@dataclass(frozen=True)
class MethodText:
    """A column's words, and which of the two sliders move its picture."""

    title: str
    line: str
    uses_scale: bool = True
    uses_alpha: bool = False


def _text(method: MethodName, line: str, **uses: bool) -> MethodText:
    return MethodText(METHOD_TITLES[method], line, **uses)


METHODS: dict[MethodName, MethodText] = {
    "standard": _text("standard", "The base model as it is, no guidance.", uses_scale=False),
    "cfg": _text("cfg", "The base model, pushed away from the empty prompt."),
    "chats": _text(
        "chats",
        "Towards a model of what people liked, away from one of what they did not.",
        uses_alpha=True,
    ),
    "chats-exact": _text(
        "chats-exact",
        "CHATS without the proxy prompt: three predictions a step, not two.",
        uses_alpha=True,
    ),
    "preferred-cfg": _text("preferred-cfg", "CFG, with the preferred model alone."),
    "npo": _text("npo", "The base model, pushed away from the dispreferred one."),
}
"""The columns in the order in which the page shows them."""

SHOWN_FIRST: tuple[MethodName, ...] = ("standard", "cfg", "chats")
"""The columns of a page just opened."""


def needs_pair(method: MethodName) -> bool:
    """Say whether a method needs the two models of a preference pair."""
    return method not in METHODS_WITHOUT_PAIR
