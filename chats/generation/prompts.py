"""Prompts as people send them, made fit for a tokenizer; every change is told in a notice."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_CHARS = 200_000

# Control characters but not white space, halves of surrogate pairs (they cannot be encoded), and
# marks that turn the reading direction (they make a text show other than it is).
_REFUSED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


@dataclass(frozen=True)
class CleanPrompt:
    """A prompt that fits, and what had to be changed."""

    text: str
    notices: tuple[str, ...]


@dataclass(frozen=True)
class TokenLimit:
    """A tokenizer and how many tokens of its text the model reads."""

    tokenizer: Any
    max_tokens: int


def clean_prompt(text: str, *, limits: Sequence[TokenLimit], name: str = "Prompt") -> CleanPrompt:
    """Strip control characters and cut what is beyond the longest of the tokenizers' limits.

    Args:
        text: the prompt as it came.
        limits: the model's tokenizers; with several, the one that reads most decides the cut.
        name: how notices call the prompt.
    """
    stripped, num_removed = _REFUSED.subn("", text)
    stripped = stripped.strip()
    notices = []
    if num_removed:
        notices.append(f"{name}: {num_removed} control characters were removed.")
    kept = max((_fit(stripped, limit) for limit in limits), key=len, default=stripped)
    if len(kept) < len(stripped):
        max_tokens = max(limit.max_tokens for limit in limits)
        notices.append(
            f"{name}: longer than the {max_tokens} tokens that the model reads; left out: "
            f"“{_shorten(stripped[len(kept) :].strip())}”"
        )
    return CleanPrompt(text=kept, notices=tuple(notices))


def _fit(text: str, limit: TokenLimit) -> str:
    """Return the longest beginning of `text` that fits, cut between words where it can be."""
    head = text[:MAX_CHARS]
    encoded = limit.tokenizer(head, return_offsets_mapping=True, verbose=False)
    spans = [span for span in encoded["offset_mapping"] if span[1] > span[0]]
    room = limit.max_tokens - limit.tokenizer.num_special_tokens_to_add()
    if len(spans) <= room:
        return head
    # Several tokens may share one character (an emoji); it is left out with the first that is.
    end = min(spans[room - 1][1], spans[room][0])
    if not head[end].isspace():
        end = max(head.rfind(" ", 0, end), head.rfind("\n", 0, end)) if " " in head[:end] else end
    return head[:end].rstrip()


def _shorten(text: str, *, max_chars: int = 120) -> str:
    return (
        text if len(text) <= max_chars else f"{text[: max_chars - 1]}… ({len(text):,} characters)"
    )
