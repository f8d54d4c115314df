"""The Shapes world: flat scenes of a few coloured shapes, their captions, and their pictures.

Six shapes, eight colours, four backgrounds, one to four objects. A `Spec` says what a caption
promises, a `Scene` is one full arrangement that keeps the promise, `render` paints it.
The six categories are those of GenEval (Ghosh et al. 2023).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SCENE_SIZE = 96
"""Side of a scene; positions and radii are in these units whatever the size of the picture."""
IMAGE_SIZE_PX = 64
"""Side of the pictures that are rendered, in pixels."""
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLORS = {
    "red": (225, 40, 45),
    "orange": (250, 140, 20),
    "yellow": (250, 220, 40),
    "green": (45, 165, 70),
    "cyan": (50, 205, 225),
    "blue": (40, 85, 215),
    "purple": (130, 55, 175),
    "pink": (250, 140, 195),
}
BACKGROUNDS = {
    "white": (244, 244, 242),
    "gray": (150, 150, 152),
    "black": (28, 28, 32),
    "brown": (104, 72, 48),
}
RELATIONS = ("left", "right", "above", "below")
CATEGORIES = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attribution",
)
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
PREFIXES = ("a photo of ", "a picture of ", "an image of ", "")
RELATION_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
BACKGROUND_WORDS = (" on a ", " with a ")

_RADIUS = {1: (20.0, 27.0), 2: (15.0, 20.0), 3: (13.0, 16.5), 4: (11.5, 14.5)}
_SUPERSAMPLING = 6
_SHADE_TOP, _SHADE_BOTTOM = 1.06, 0.88
_BACKGROUND_TOP, _BACKGROUND_BOTTOM = 1.04, 0.92


@dataclass(frozen=True)
class SpecObject:
    """One object that a caption names; `color` is None when the caption leaves it open."""

    shape: str
    color: str | None = None


@dataclass(frozen=True)
class Spec:
    """What a caption promises: its objects in order, their relation, the background."""

    category: str
    objects: tuple[SpecObject, ...]
    relation: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class SceneObject:
    """One placed object; centre and radius in scene units, of which a side has 96."""

    shape: str
    color: str
    center_x: float
    center_y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One full arrangement; `blur` is the standard deviation of a Gaussian blur, in scene units."""

    background: str
    objects: tuple[SceneObject, ...]
    blur: float = 0.0


def sample_spec(
    rng: random.Random, category: str | None = None, *, background_rate: float = 0.35
) -> Spec:
    """Draw a promise of the given (or a random) category, with as few attributes as it needs."""
    category = category or rng.choice(CATEGORIES)
    background = rng.choice(tuple(BACKGROUNDS)) if rng.random() < background_rate else None
    relation = None
    if category == "single_object":
        objects = (SpecObject(rng.choice(SHAPES)),)
    elif category == "colors":
        objects = (SpecObject(rng.choice(SHAPES), rng.choice(tuple(COLORS))),)
    elif category == "counting":
        color = rng.choice(tuple(COLORS)) if rng.random() < 0.35 else None
        objects = (SpecObject(rng.choice(SHAPES), color),) * rng.randint(2, 4)
    else:
        objects = tuple(SpecObject(shape) for shape in rng.sample(SHAPES, 2))
        if category == "position":
            relation = rng.choice(RELATIONS)
        elif category == "color_attribution":
            colors = rng.sample(tuple(COLORS), 2)
            objects = tuple(
                replace(item, color=color) for item, color in zip(objects, colors, strict=True)
            )
    return Spec(category, objects, relation, background)


def caption(spec: Spec, rng: random.Random | None = None) -> str:
    """Write the promise in words; without `rng` in the plain wording of the test prompts."""

    def pick(options: tuple[str, ...]) -> str:
        return rng.choice(options) if rng else options[0]

    first = spec.objects[0]
    if spec.category == "counting":
        plural = first.shape + ("es" if first.shape == "cross" else "s")
        words = (NUMBER_WORDS[len(spec.objects)], first.color, plural)
        text = " ".join(word for word in words if word)
    else:
        text = _with_article(first)
        if len(spec.objects) == 2:
            joint = pick(RELATION_WORDS[spec.relation]) if spec.relation else "and"
            text = f"{text} {joint} {_with_article(spec.objects[1])}"
    if spec.background:
        text += f"{pick(BACKGROUND_WORDS)}{spec.background} background"
    return pick(PREFIXES) + text


def place(spec: Spec, rng: random.Random, *, blur: float = 0.0) -> Scene:
    """Arrange a scene that keeps the promise; open colours and background are drawn."""
    if spec.category == "counting":
        shared = rng.choice(tuple(COLORS))
        colors = [item.color or shared for item in spec.objects]
    else:
        colors = [item.color or rng.choice(tuple(COLORS)) for item in spec.objects]
    discs = _place_discs(rng, len(spec.objects), spec.relation)
    objects = tuple(
        SceneObject(item.shape, color, *disc)
        for item, color, disc in zip(spec.objects, colors, discs, strict=True)
    )
    return Scene(spec.background or rng.choice(tuple(BACKGROUNDS)), objects, blur)


def violate(spec: Spec, rng: random.Random) -> Spec:
    """Return a promise of the same form that breaks exactly one attribute of `spec`."""
    colored = any(item.color for item in spec.objects)
    options = ["shape"]
    options += ["color", "color"] * colored
    options += ["relation", "relation"] * bool(spec.relation)
    options += ["background"] * bool(spec.background)
    options += ["count", "count"] * (spec.category == "counting")
    options += ["swap"] * (spec.category == "color_attribution")
    return _VIOLATIONS[rng.choice(options)](spec, rng)


def relation_between(
    first: tuple[float, float], second: tuple[float, float], *, strictness: float = 1.0
) -> str | None:
    """Where the first centre (x, y) lies seen from the second; None on the diagonal."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    if abs(dx) > strictness * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > strictness * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def render(scene: Scene, size_px: int = IMAGE_SIZE_PX) -> np.ndarray:
    """Paint the scene with softly shaded shapes; returns uint8 `(size_px, size_px, 3)`."""
    unit = size_px / SCENE_SIZE
    rows = (np.arange(size_px) + 0.5) / unit
    ramp = np.linspace(_BACKGROUND_TOP, _BACKGROUND_BOTTOM, size_px)[:, None, None]
    picture = np.asarray(BACKGROUNDS[scene.background], float) * ramp * np.ones((1, size_px, 1))
    for item in scene.objects:
        height = np.clip((rows - item.center_y) / item.radius, -1, 1)
        shade = _SHADE_TOP + (_SHADE_BOTTOM - _SHADE_TOP) * (height + 1) / 2
        paint = np.asarray(COLORS[item.color], float) * shade[:, None, None]
        picture += _coverage(item, size_px)[..., None] * (paint - picture)
    pixels = picture.clip(0, 255).round().astype(np.uint8)
    if scene.blur:
        blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(scene.blur * unit))
        pixels = np.asarray(blurred)
    return pixels


def outline(shape: str) -> np.ndarray:
    """Corner points `(N, 2)` of the shape at unit radius around the origin, y downwards."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    if shape == "circle":
        return np.c_[np.cos(angles), np.sin(angles)]
    if shape == "heart":
        x = 16 * np.sin(angles) ** 3
        y = -sum(weight * np.cos(k * angles) for k, weight in enumerate((13, -5, -2, -1), start=1))
        return np.c_[x / 16, (y + 2.5) / 15.5]
    if shape == "star":
        turns = -np.pi / 2 + np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2 == 0, 1.12, 0.5)
        return np.c_[radius * np.cos(turns), radius * np.sin(turns) + 0.08]
    if shape == "triangle":
        return np.array([[0, -1.0], [1.05, 0.82], [-1.05, 0.82]])
    if shape == "square":
        return np.array([[-0.86, -0.86], [0.86, -0.86], [0.86, 0.86], [-0.86, 0.86]])
    arm = 0.36
    quarter = np.array([[-arm, -1.0], [arm, -1.0], [arm, -arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _with_article(item: SpecObject) -> str:
    words = f"{item.color} {item.shape}" if item.color else item.shape
    return ("an " if words[0] in "aeiou" else "a ") + words


def _coverage(item: SceneObject, size_px: int) -> np.ndarray:
    side = size_px * _SUPERSAMPLING
    points = outline(item.shape) * item.radius + [item.center_x, item.center_y]
    points *= side / SCENE_SIZE
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=255)
    return np.asarray(mask.reduce(_SUPERSAMPLING), float) / 255


def _place_discs(
    rng: random.Random, count: int, relation: str | None
) -> list[tuple[float, float, float]]:
    """Rejection-sample discs (x, y, radius) that keep clear of each other and of the border."""
    middle = SCENE_SIZE / 2
    while True:
        base = rng.uniform(*_RADIUS[count])
        discs = []
        for _ in range(count):
            radius = base * rng.uniform(0.95, 1.05)
            low = middle - 9 if count == 1 else radius * 1.12 + 3
            high = SCENE_SIZE - low
            discs.append((rng.uniform(low, high), rng.uniform(low, high), radius))
        if not _clear(discs):
            continue
        if relation is None:
            return discs
        if relation_between(discs[0][:2], discs[1][:2], strictness=1.5) == relation:
            return discs


def _clear(discs: list[tuple[float, float, float]]) -> bool:
    return all(
        math.dist(a[:2], b[:2]) > (a[2] + b[2]) * 1.18 + 3
        for index, a in enumerate(discs)
        for b in discs[:index]
    )


def _another(rng: random.Random, options: tuple, current: object) -> object:
    return rng.choice([option for option in options if option != current])


def _violate_shape(spec: Spec, rng: random.Random) -> Spec:
    used = {item.shape for item in spec.objects}
    new = rng.choice([shape for shape in SHAPES if shape not in used])
    if spec.category == "counting":
        return replace(spec, objects=tuple(replace(item, shape=new) for item in spec.objects))
    return _replace_one(spec, rng.randrange(len(spec.objects)), shape=new)


def _violate_color(spec: Spec, rng: random.Random) -> Spec:
    used = {item.color for item in spec.objects}
    new = rng.choice([color for color in COLORS if color not in used])
    if spec.category == "counting":
        return replace(spec, objects=tuple(replace(item, color=new) for item in spec.objects))
    colored = [index for index, item in enumerate(spec.objects) if item.color]
    return _replace_one(spec, rng.choice(colored), color=new)


def _violate_count(spec: Spec, rng: random.Random) -> Spec:
    count = _another(rng, tuple(NUMBER_WORDS), len(spec.objects))
    return replace(spec, objects=spec.objects[:1] * count)


def _swap_colors(spec: Spec, rng: random.Random) -> Spec:
    first, second = spec.objects
    return replace(
        spec,
        objects=(replace(first, color=second.color), replace(second, color=first.color)),
    )


def _replace_one(spec: Spec, index: int, **changes: str) -> Spec:
    objects = list(spec.objects)
    objects[index] = replace(objects[index], **changes)
    return replace(spec, objects=tuple(objects))


_VIOLATIONS = {
    "shape": _violate_shape,
    "color": _violate_color,
    "relation": lambda spec, rng: replace(spec, relation=_another(rng, RELATIONS, spec.relation)),
    "background": lambda spec, rng: replace(
        spec, background=_another(rng, tuple(BACKGROUNDS), spec.background)
    ),
    "count": _violate_count,
    "swap": _swap_colors,
}
