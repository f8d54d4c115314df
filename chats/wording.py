"""How rows are called in words: titles, labels, and what was combined. No torch here."""

from chats.config import MethodName, Row
from chats.denoising.methods import Term, terms, uses_alpha, uses_scale

METHOD_TITLES: dict[MethodName, str] = {
    "standard": "Standard",
    "cfg": "CFG",
    "chats": "CHATS",
    "chats-exact": "CHATS exact",
    "preferred-cfg": "Preferred CFG",
    "npo": "NPO",
}


def row_label(row: Row) -> str:
    """Name a row, such as `CHATS  s = 5  alpha = 0.5`."""
    parts = [METHOD_TITLES[row.method]]
    if uses_scale(row.method):
        parts.append(f"s = {row.scale:g}")
    if uses_alpha(row.method):
        parts.append(f"alpha = {row.alpha:g}")
    return "  ".join(parts)


def combination(row: Row) -> str:
    """Say what a row combines: `6·preferred(prompt) − 5·dispreferred(proxy), proxy = …`."""
    parts = terms(row.method, row.scale, row.alpha)
    text = _sum([(term.weight, _prediction(term)) for term in parts])
    if any(term.condition == "proxy" for term in parts):
        text += f", proxy = {_sum([(1 + row.alpha, 'null'), (-row.alpha, 'prompt')])}"
    return text


def _prediction(term: Term) -> str:
    return f"{term.role}({term.condition})"


def _sum(parts: list[tuple[float, str]]) -> str:
    text = ""
    for weight, name in parts:
        sign = ("−" if weight < 0 else "") if not text else (" − " if weight < 0 else " + ")
        factor = "" if abs(weight) == 1 else f"{abs(weight):g}·"
        text += f"{sign}{factor}{name}"
    return text
