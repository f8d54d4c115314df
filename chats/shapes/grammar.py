"""Captions of the Shapes world read back into what they promise."""

from __future__ import annotations

import re

from chats.errors import UserError
from chats.shapes.world import (
    BACKGROUND_WORDS,
    BACKGROUNDS,
    COLORS,
    NUMBER_WORDS,
    PREFIXES,
    RELATION_WORDS,
    SHAPES,
    Spec,
    SpecObject,
)


def _any_of(words: object) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_RELATIONS = {word: name for name, words in RELATION_WORDS.items() for word in words}
_NUMBERS = {word: number for number, word in NUMBER_WORDS.items()}
_OBJECT = rf"an? (?:({_any_of(COLORS)}) )?({_any_of(SHAPES)})"
_BACKGROUND = rf"(?:(?:{_any_of(BACKGROUND_WORDS)})({_any_of(BACKGROUNDS)}) background)?"
_PREFIX = rf"(?:{_any_of(each for each in PREFIXES if each)})?"
_SINGLE = re.compile(rf"{_PREFIX}{_OBJECT}{_BACKGROUND}")
_PAIR = re.compile(rf"{_PREFIX}{_OBJECT} (and|{_any_of(_RELATIONS)}) {_OBJECT}{_BACKGROUND}")
_COUNT = re.compile(
    rf"{_PREFIX}({_any_of(_NUMBERS)}) (?:({_any_of(COLORS)}) )?({_any_of(SHAPES)})e?s{_BACKGROUND}"
)


def parse_caption(text: str) -> Spec:
    """Read what a caption promises; the inverse of `chats.shapes.world.caption`.

    Raises:
        UserError: it is no caption of the Shapes world.
    """
    words = " ".join(text.lower().strip(" .").split())
    if match := _COUNT.fullmatch(words):
        number, color, shape, background = match.groups()
        return Spec("counting", (SpecObject(shape, color),) * _NUMBERS[number], None, background)
    if match := _PAIR.fullmatch(words):
        color, shape, joint, second_color, second_shape, background = match.groups()
        objects = (SpecObject(shape, color), SpecObject(second_shape, second_color))
        relation = _RELATIONS.get(joint)
        if relation:
            category = "position"
        else:
            category = "color_attribution" if color or second_color else "two_object"
        return Spec(category, objects, relation, background)
    if match := _SINGLE.fullmatch(words):
        color, shape, background = match.groups()
        category = "colors" if color else "single_object"
        return Spec(category, (SpecObject(shape, color),), None, background)
    raise UserError(
        f"{text!r} is no caption of the Shapes world, which the checker could read. One is: a "
        "photo of a red circle above a blue star on a black background."
    )
