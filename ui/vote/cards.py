"""The two pictures, what was answered, and the words around them as HTML; escaped text out."""

from html import escape
from pathlib import Path

from PIL import Image

from training.votes import Cast, Collection, Match
from training.votes.ledger import Tally
from ui.pictures import enlarge, png_uri

MIN_WINNERS = 20
"""Preferences that a training is offered from. With fewer, a pair learns these prompts by heart,
and the scoreboard rates from as many prompts."""

INTRO = (
    '<div class="arena-intro"><h2>Which is better?</h2><p>Two pictures of one prompt and one seed, '
    "their sides drawn by lot. What made which is said after the vote. Every vote is on the disk "
    "at once and is a preference that a pair can be trained on.</p></div>"
)
WAITING = (
    '<div class="arena" data-state="waiting"><p class="arena-prompt">The next two pictures…</p>'
    '<div class="sides"><div class="side"></div><div class="side"></div></div></div>'
)
_ANSWERS = (
    ("left", "Left is better", "← or 1"),
    ("tie", "Neither", "0"),
    ("right", "Right is better", "→ or 2"),
)
_SAID = {"left": "left", "right": "right", "tie": "neither", "skip": "skipped"}


def render_match(match: Match, collection: Collection) -> str:
    """Draw both pictures; nothing here depends on what made them but their pixels."""
    names = (("left", match.left_picture), ("right", match.right_picture))
    pictures = [shown_pixels(collection.picture(name)) for _, name in names]
    ratio = f"{pictures[0].width}/{pictures[0].height}"
    sides = "".join(
        f'<button class="side" data-choice="{side}">'
        f'<img src="{png_uri(picture)}" alt="{side.capitalize()} picture" decoding="sync"></button>'
        for (side, _), picture in zip(names, pictures, strict=True)
    )
    answers = "".join(
        f'<button class="answer" data-choice="{choice}">{text}<kbd>{keys}</kbd></button>'
        for choice, text, keys in _ANSWERS
    )
    return (
        f'<div class="arena" data-state="open" data-match="{match.id}" '
        f'style="--ratio:{ratio}">'
        f'<p class="arena-prompt">{escape(match.prompt)}</p>'
        f'<div class="sides">{sides}</div><div class="answers">{answers}</div>'
        '<p class="asides"><button data-choice="skip">Skip<kbd>S</kbd></button>'
        "<button data-undo>Undo<kbd>U</kbd></button></p></div>"
    )


def shown_pixels(path: Path) -> Image.Image:
    """Read a kept picture and leave only its pixels, enlarged for the eye: no text, no settings."""
    with Image.open(path) as kept:
        pixels = kept.convert("RGB")
    bare = Image.new("RGB", pixels.size)
    bare.paste(pixels)
    return enlarge(bare)


def render_cast(cast: Cast, tally: Tally) -> str:
    """Say what was answered, and what had made which picture; the next match is shown by then."""
    match, choice = cast.match, cast.vote.choice
    if not cast.is_new:
        text = f"This match had been answered already: {_SAID[choice]}. That answer counts."
    elif choice == "skip":
        text = "Last match: skipped."
    else:
        text = f"Last match: you chose {_SAID[choice]}."
    again = _repetition(cast, tally) if cast.is_new else ""
    sides = "".join(
        f'<span class="unveiled"{" data-chosen" if choice == side else ""}>'
        f"{side.capitalize()} was {escape(getattr(match, side).title)}</span>"
        for side in ("left", "right")
    )
    return (
        f'<p class="told-vote" role="status" data-cast="{match.id}" data-counted="{cast.is_new}">'
        f"<strong>{escape(text)}</strong> {sides}{escape(again)}</p>"
    )


def render_undone(cast: Cast) -> str:
    """Say that an answer is taken back."""
    said = _SAID[cast.vote.choice]
    return (
        f'<p class="told-vote" role="status"><strong>Taken back: {said}.</strong> Answer again.</p>'
    )


def render_wrong(text: str) -> str:
    """Say what went wrong with an answer."""
    return f'<p class="told-vote" data-kind="error" role="alert">{escape(text)}</p>'


def train_label(num_winners: int) -> str:
    """Say on the button what can be trained on, or how much is missing."""
    missing = MIN_WINNERS - num_winners
    if missing > 0:
        return f"Train on these votes: {missing} more preference{'s' * (missing > 1)} needed"
    return f"Train on these votes ({num_winners:,} preferences)"


def render_count(tally: Tally) -> str:
    """Say how many votes there are, and why a training needs so many."""
    choices = [vote.choice for vote in tally.votes.values()]
    answered = len(choices) - choices.count("skip")
    parts = [f"{answered:,} votes", f"{tally.num_winners:,} preferences"]
    if ties := choices.count("tie"):
        parts.append(f"{ties:,} ties")
    why = ""
    if tally.num_winners < MIN_WINNERS:
        why = (
            f" A training takes {MIN_WINNERS} preferences or more: with fewer, a pair learns their "
            "prompts by heart."
        )
    return f'<p class="vote-count">{" · ".join(parts)}.{why}</p>'


def _repetition(cast: Cast, tally: Tally) -> str:
    before = tally.votes.get(cast.match.repeats or "")
    if before is None or cast.vote.choice == "skip":
        return ""
    original = tally.matches[cast.match.repeats]
    first, second = original.contestant(before.choice), cast.match.contestant(cast.vote.choice)
    same = first == second and (first is None) == (second is None)
    return (
        " You had seen these before, and answered the same."
        if same
        else " You had seen these before, and answered otherwise."
    )
