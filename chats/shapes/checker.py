"""The judge of the Shapes world: reads a picture back and holds it against a promise.

Colour segmentation against the row-wise background, connected components, shape by template
overlap. It is to Shapes what GenEval's detector is to photographs, only exact.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from chats.shapes.world import (
    BACKGROUNDS,
    COLORS,
    SCENE_SIZE,
    SHAPES,
    Scene,
    SceneObject,
    Spec,
    relation_between,
    render,
)

_TEMPLATE_SIZE = 48
_SPECK_AREA_PX = 25
_JUNK_AREA_PX = 90
_FOREGROUND_DISTANCE = 45.0
_COLOR_DISTANCE = 75.0
_COLOR_PURITY = 0.75
_SHAPE_OVERLAP = 0.78


@dataclass(frozen=True)
class SeenObject:
    """One object read from a picture; `shape` or `color` is None when it is none of the world's.

    Centres are in scene units, of which a side has 96; `overlap` is the IoU with the best template
    and `softness` the width of the object's edge relative to its size.
    """

    shape: str | None
    color: str | None
    center_x: float
    center_y: float
    overlap: float
    softness: float


@dataclass(frozen=True)
class SeenScene:
    """What the judge reads from a picture; `num_junk` counts blobs too small to be an object."""

    background: str | None
    objects: tuple[SeenObject, ...]
    num_junk: int


def read(pixels: np.ndarray) -> SeenScene:
    """Read a picture, uint8 `(H, W, 3)`; every picture is brought to 96 × 96 first.

    Raises:
        ValueError: the array is not an RGB picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"The checker reads RGB pictures (H, W, 3); got shape {pixels.shape}.")
    if pixels.shape[:2] != (SCENE_SIZE, SCENE_SIZE):
        resized = Image.fromarray(pixels).resize((SCENE_SIZE,) * 2, Image.Resampling.BICUBIC)
        pixels = np.asarray(resized)
    picture = pixels.astype(float)
    background, rows = _read_background(picture)
    foreground = np.linalg.norm(picture - rows, axis=-1) > _FOREGROUND_DISTANCE
    labels, count = ndimage.label(foreground)
    objects, num_junk = [], 0
    for index in range(1, count + 1):
        mask = labels == index
        area = mask.sum()
        if area < _SPECK_AREA_PX:
            continue
        if area < _JUNK_AREA_PX:
            num_junk += 1
            continue
        objects.append(_read_object(picture, rows, mask))
    return SeenScene(background, tuple(objects), num_junk)


def keeps_promise(seen: SeenScene, spec: Spec) -> bool:
    """Whether the picture shows exactly what the caption promised."""
    if seen.num_junk or len(seen.objects) != len(spec.objects):
        return False
    if spec.background and seen.background != spec.background:
        return False
    if any(item.shape is None or item.color is None for item in seen.objects):
        return False
    return any(_matches(order, spec) for order in itertools.permutations(seen.objects))


def sharpness(seen: SeenScene) -> float:
    """Mean template overlap × edge crispness over the objects, in [0, 1]; 0 without objects."""
    if not seen.objects:
        return 0.0
    crisp = [item.overlap * np.clip(1.5 - item.softness / 12, 0, 1) for item in seen.objects]
    return float(np.mean(crisp))


def _matches(order: tuple[SeenObject, ...], spec: Spec) -> bool:
    for seen, wanted in zip(order, spec.objects, strict=True):
        if seen.shape != wanted.shape or (wanted.color and seen.color != wanted.color):
            return False
    if spec.relation is None:
        return True
    first, second = order
    relation = relation_between(
        (first.center_x, first.center_y), (second.center_x, second.center_y)
    )
    return relation == spec.relation


def _read_background(picture: np.ndarray) -> tuple[str | None, np.ndarray]:
    """Name of the background and its colour per row `(H, 1, 3)`, read from the border."""
    border = np.concatenate(
        [
            strip.reshape(-1, 3)
            for strip in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:])
        ]
    )
    middle = np.median(border, axis=0)
    known = np.array(list(BACKGROUNDS.values()), float) * 0.98
    distances = np.linalg.norm(known - middle, axis=1)
    best = int(distances.argmin())
    name = list(BACKGROUNDS)[best] if distances[best] < _FOREGROUND_DISTANCE else None
    rows = np.median(np.concatenate([picture[:, :3], picture[:, -3:]], axis=1), axis=1)
    off = np.abs(rows - middle).sum(axis=1, keepdims=True) >= 60
    return name, np.where(off, middle, rows)[:, None]


def _read_object(picture: np.ndarray, rows: np.ndarray, mask: np.ndarray) -> SeenObject:
    core = ndimage.binary_erosion(mask, iterations=2)
    if core.sum() < 12:
        core = mask
    paint = np.median(picture[core], axis=0)
    alpha = _alpha(picture, rows, paint)
    solid = (alpha > 0.5) & ndimage.binary_dilation(mask)
    labels, count = ndimage.label(solid)
    if count > 1:
        sizes = ndimage.sum(solid, labels, range(1, count + 1))
        solid = labels == 1 + int(np.argmax(sizes))
    near = alpha[ndimage.binary_dilation(mask, iterations=2)]
    softness = ((near > 0.15) & (near < 0.85)).sum() / np.sqrt(mask.sum())
    if count == 0:
        center_y, center_x = ndimage.center_of_mass(mask)
        return SeenObject(None, None, center_x, center_y, 0.0, float(softness))
    shape, overlap = _best_template(solid)
    center_y, center_x = ndimage.center_of_mass(solid)
    color = _color_name(picture[core], paint)
    return SeenObject(shape, color, center_x, center_y, overlap, float(softness))


def _alpha(picture: np.ndarray, rows: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """How far each pixel lies on the way from the background to the paint, `(H, W)`."""
    way = paint - rows
    return ((picture - rows) * way).sum(-1) / np.maximum((way**2).sum(-1), 1e-6)


def _color_name(pixels: np.ndarray, paint: np.ndarray) -> str | None:
    known = np.array(list(COLORS.values()), float)
    distances = np.linalg.norm(known - paint, axis=1)
    best = int(distances.argmin())
    purity = (np.linalg.norm(pixels - paint, axis=1) < 70).mean()
    pure = distances[best] < _COLOR_DISTANCE and purity > _COLOR_PURITY
    return list(COLORS)[best] if pure else None


def _best_template(mask: np.ndarray) -> tuple[str | None, float]:
    own = _normalized(mask)
    overlaps = {
        shape: (own & template).sum() / max(1, (own | template).sum())
        for shape, template in _templates().items()
    }
    best = max(overlaps, key=overlaps.get)
    overlap = float(overlaps[best])
    return (best if overlap > _SHAPE_OVERLAP else None), overlap


def _normalized(mask: np.ndarray) -> np.ndarray:
    """The mask centred and scaled to unit area on a 48 × 48 grid."""
    ys, xs = np.nonzero(mask)
    scale = 0.95 * np.sqrt(mask.sum())
    axis = (np.arange(_TEMPLATE_SIZE) + 0.5) / _TEMPLATE_SIZE * 2 - 1
    grid = np.meshgrid(axis * scale + ys.mean(), axis * scale + xs.mean(), indexing="ij")
    return ndimage.map_coordinates(mask.astype(np.float32), grid, order=1, cval=0.0) > 0.5


@functools.cache
def _templates() -> dict[str, np.ndarray]:
    middle = SCENE_SIZE / 2
    templates = {}
    for shape in SHAPES:
        scene = Scene("black", (SceneObject(shape, "yellow", middle, middle, 26.0),))
        templates[shape] = _normalized(render(scene, SCENE_SIZE)[..., 0] > 130)
    return templates
