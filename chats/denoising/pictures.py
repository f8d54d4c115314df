"""What each picture of a call asks for: its method, s, α, negative prompt and guidance interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from chats.config import MethodName, Shaping
from chats.denoising.methods import Role, Term, terms
from chats.errors import UserError

_PLAIN = Shaping()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The guidance of one picture."""

    method: MethodName
    scale: float
    alpha: float
    negative_prompt: str
    interval: tuple[float, float]
    shaping: Shaping

    @property
    def is_shaped(self) -> bool:
        """Whether anything but the plain sum is asked for."""
        return self.shaping != _PLAIN

    def is_guided_at(self, position: float) -> bool:
        """Say whether guidance is on at `position`, the fraction of the steps that is done."""
        start, end = self.interval
        return start <= position < end

    def terms_at(self, position: float, *, alone: bool = False) -> tuple[Term, ...]:
        """Return what is combined at `position`.

        Outside the interval there is no guidance: s = 0, one prediction. So it is with `alone`,
        where the rest is added as it was at an earlier step.
        """
        is_on = self.is_guided_at(position) and not alone
        return terms(self.method, self.scale if is_on else 0.0, self.alpha)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Everything that is combined at some step."""
        start, end = self.interval
        return terms(self.method, self.scale if start < end else 0.0, self.alpha)


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Settings of all pictures: each one value for all of them, or a list with one per picture."""

    method: MethodName | Sequence[MethodName]
    scale: float | Sequence[float]
    alpha: float | Sequence[float]
    negative_prompt: str | Sequence[str]
    interval: tuple[float, float] | Sequence[tuple[float, float]]
    shaping: Shaping | Sequence[Shaping]

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in self._lists().items()}
        for name, length in lengths.items():
            if length == 0:
                raise UserError(f"{name} is an empty list; give one value, or one per picture.")
        if len(set(lengths.values())) > 1:
            raise UserError(f"Lists with one entry per picture differ in length: {lengths}.")
        for picture in self.pictures(max(lengths.values(), default=1)):
            _check(picture)

    def pictures(self, num_pictures: int) -> tuple[Picture, ...]:
        """Return the settings of each picture of a call that makes `num_pictures`.

        Raises:
            UserError: a list does not have one entry per picture.
        """
        lists = self._lists()
        for name, values in lists.items():
            if len(values) != num_pictures:
                raise UserError(
                    f"{name} has {len(values)} entries, but this call makes {num_pictures} "
                    "pictures (prompts × num_images_per_prompt). Give one entry per picture."
                )
        return tuple(
            Picture(**{**self.__dict__, **{name: values[i] for name, values in lists.items()}})
            for i in range(num_pictures)
        )

    def roles(self) -> set[Role]:
        """Return every model that some picture uses."""
        num_pictures = max((len(values) for values in self._lists().values()), default=1)
        return {term.role for picture in self.pictures(num_pictures) for term in picture.terms}

    def first_role(self) -> Role:
        """Return the model that gives the first picture's guided prediction, at every step."""
        lists = self._lists()
        method, alpha = (lists.get(name, [getattr(self, name)])[0] for name in ("method", "alpha"))
        return terms(method, 0.0, alpha)[0].role

    def _lists(self) -> dict[str, Sequence[Any]]:
        found = {}
        for name, value in self.__dict__.items():
            is_list = isinstance(value, (list, tuple))
            if name == "interval":
                is_list = is_list and any(isinstance(part, (list, tuple)) for part in value)
            if is_list:
                found[name] = value
        return found


def _check(picture: Picture) -> None:
    if picture.method not in get_args(MethodName):
        raise UserError(
            f"There is no method {picture.method!r}; the methods are "
            f"{', '.join(get_args(MethodName))}."
        )
    if not (math.isfinite(picture.scale) and picture.scale >= 0):
        raise UserError(
            f"scale must be 0 or more, got {picture.scale}. It is the paper's s: 0 is no guidance, "
            "diffusers' guidance_scale is 1 + s."
        )
    if not math.isfinite(picture.alpha):
        raise UserError(f"alpha must be a finite number, got {picture.alpha}; try 0.5.")
    if len(picture.interval) != 2 or not 0 <= picture.interval[0] <= picture.interval[1] <= 1:
        raise UserError(
            "interval must be two fractions of the steps, 0 ≤ start ≤ end ≤ 1, got "
            f"{tuple(picture.interval)}."
        )
    if not isinstance(picture.shaping, Shaping):
        raise UserError(f"shaping must be a chats.Shaping, got {picture.shaping!r}.")
