"""The one line that says what each method is, and the columns of a page just opened."""

from dataclasses import dataclass

from chats.config import MethodName
from chats.wording import METHOD_TITLES


@dataclass(frozen=True)
class MethodText:
    """A column's words."""

    title: str
    line: str


_LINES: dict[MethodName, str] = {
    "standard": "The base model as it is, no guidance.",
    "cfg": "The base model, pushed away from the empty prompt.",
    "chats": "Towards a model of what people liked, away from one of what they did not.",
    "chats-exact": "CHATS without the proxy prompt: three predictions a step, not two.",
    "preferred-cfg": "CFG, with the preferred model alone.",
    "npo": "The base model, pushed away from the dispreferred one.",
}

METHODS: dict[MethodName, MethodText] = {
    method: MethodText(METHOD_TITLES[method], line) for method, line in _LINES.items()
}
"""The columns in the order in which the page shows them."""

SHOWN_FIRST: tuple[MethodName, ...] = ("standard", "cfg", "chats")
"""The columns of a page just opened."""
