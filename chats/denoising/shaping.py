"""What is done to the difference that guidance adds, before it is added and after.

Every method is g + d: g is its guided prediction (the first term with weight 1) and d = s·δ the
guidance difference, δ = ε⁺(z, c) − ε⁻(z, c̃) for CHATS. `Shaping` says what happens to d, in this
order: it may be that of an earlier step, carry a momentum, be limited, be projected; then the sum
may be rescaled. All of it acts on what the denoiser predicts (noise or velocity), picture by
picture. Pure functions of tensors `(pictures, ...)`, and what is kept between steps.
"""

from collections.abc import Sequence

import torch

from chats.denoising.pictures import Picture
from chats.denoising.rows import RowPlan, at_least_float32, index_of


def limited(difference: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Return d·min(1, most / ‖d‖): adaptive projected guidance's limit, Sadat et al. 2024.

    Args:
        difference: d, `(pictures, ...)`.
        most: the largest norm of each, `(pictures,)`; infinity limits nothing.
    """
    norm = difference.flatten(1).norm(dim=1)
    factor = torch.where(norm > most, most / norm, torch.ones_like(norm))
    return difference * _as_rows(factor, difference)


def projected(difference: torch.Tensor, guided: torch.Tensor, eta: torch.Tensor) -> torch.Tensor:
    """Return d⊥ + η·d∥, parallel and orthogonal to the guided prediction; Sadat et al. 2024.

    Args:
        difference: d, `(pictures, ...)`.
        guided: g likewise.
        eta: η of each, `(pictures,)`; 1 changes nothing.
    """
    dots = (difference * guided).flatten(1).sum(1)
    squares = guided.square().flatten(1).sum(1).clamp(min=torch.finfo(guided.dtype).tiny)
    return difference - _as_rows((1 - eta) * dots / squares, difference) * guided


def rescaled(combined: torch.Tensor, guided: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Return φ·x·std(g) / std(x) + (1 − φ)·x, Lin et al. 2023, equations 15 and 16.

    Args:
        combined: x, the guided sum, `(pictures, ...)`.
        guided: g likewise.
        phi: φ of each, `(pictures,)`; 0 changes nothing.
    """
    tiny = torch.finfo(combined.dtype).tiny
    ratio = guided.flatten(1).std(1) / combined.flatten(1).std(1).clamp(min=tiny)
    return combined * _as_rows(1 + phi * (ratio - 1), combined)


class Differences:
    """The guidance differences of one call's pictures, from step to step."""

    def __init__(self) -> None:
        self._made_at: dict[int, int] = {}
        self._latest: dict[int, torch.Tensor] = {}

    def is_due(self, picture: int, step: int, *, every: int) -> bool:
        """Say whether a picture's difference must be made anew at a step.

        It is at its first guided step and at every `every`-th step after it; a step at which the
        scheduler calls the denoiser twice is the same for both calls.
        """
        made_at = self._made_at.get(picture)
        return made_at is None or step == made_at or step - made_at >= every

    def shaped(
        self,
        combined: torch.Tensor,
        *,
        rows: torch.Tensor,
        plan: RowPlan,
        pictures: Sequence[Picture],
        step: int,
        like: object,
    ) -> torch.Tensor:
        """Return what the scheduler is given in the place of `combined`, `(pictures, ...)`.

        Args:
            combined: Σ wₖ·prediction of each picture.
            rows: the predictions, the guided one of every picture first.
            plan: what the rows are.
            pictures: what each picture asks for.
            step: the scheduler's step.
            like: the latents, where some denoisers predict a variance behind their channels.
        """
        is_shaped = [i for i, picture in enumerate(pictures) if picture.is_shaped]
        fresh = [i for i in is_shaped if i in plan.fresh]
        which = sorted({*fresh, *plan.reused})
        if not which:
            return combined
        whole = combined
        if torch.is_tensor(like):
            combined = combined[:, : like.shape[1]]
        guided = at_least_float32(rows[: len(pictures)])[:, : combined.shape[1]]
        for i in fresh:
            self._keep(i, combined[i] - guided[i], picture=pictures[i], step=step)
        places = index_of(which, combined)
        sums = _shaped(
            torch.stack([self._latest[i] for i in which]),
            guided.index_select(0, places),
            [pictures[i] for i in which],
        )
        changed = combined.index_copy(0, places, sums)
        return torch.cat([changed, whole[:, combined.shape[1] :]], dim=1)

    def _keep(self, i: int, difference: torch.Tensor, *, picture: Picture, step: int) -> None:
        momentum = picture.shaping.apg_momentum
        if momentum and i in self._latest:
            difference = difference + momentum * self._latest[i]
        self._latest[i], self._made_at[i] = difference, step


def _shaped(
    difference: torch.Tensor, guided: torch.Tensor, pictures: Sequence[Picture]
) -> torch.Tensor:
    shapings = [picture.shaping for picture in pictures]
    if any(shaping.apg_threshold for shaping in shapings):
        most = [
            picture.shaping.apg_threshold * picture.scale or float("inf") for picture in pictures
        ]
        difference = limited(difference, difference.new_tensor(most))
    if any(shaping.apg_eta != 1 for shaping in shapings):
        eta = difference.new_tensor([shaping.apg_eta for shaping in shapings])
        difference = projected(difference, guided, eta)
    combined = guided + difference
    if any(shaping.rescale for shaping in shapings):
        phi = difference.new_tensor([shaping.rescale for shaping in shapings])
        combined = rescaled(combined, guided, phi)
    return combined


def _as_rows(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
