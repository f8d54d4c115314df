"""Guidance on the real denoiser: a forward pre-hook expands its rows, a post-hook reduces them.

The pipeline calls its denoiser once per step, with the prompt's condition only. The pre-hook turns
that call into one row for each prediction that the methods combine; the post-hook reduces the rows
by their weights. The sampling loop, the scheduler and the model stay what they are.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from chats.denoising.adapter_rows import AdaptedLayers
from chats.denoising.conditions import Value, condition_rows
from chats.denoising.family import Family
from chats.denoising.methods import Role, Term
from chats.denoising.pictures import Picture


@dataclass
class Cost:
    """What guidance has cost so far."""

    num_forwards: int = 0
    """Calls of a model, whatever their number of rows."""

    num_rows: int = 0
    """Predictions: rows over all calls."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """Which module predicts in which role, and the row names where adapters are mixed."""

    modules: Mapping[Role, nn.Module]
    """Role -> module; all the same module where the roles are adapters on it."""

    adapters: Mapping[Role, str] | None = None
    """Role -> adapter name; none where each role has a module of its own."""

    layers: AdaptedLayers = field(default_factory=dict)
    """Where the adapters belong on that module."""

    names: MutableSequence[str] = field(default_factory=list)
    """Row names of the forward under way; `mixed_rows` reads them."""


@dataclass(frozen=True)
class _Plan:
    """The rows of one expanded call: term 0 of every picture, then term 1 of those with one..."""

    terms: tuple[tuple[Term, ...], ...]

    @cached_property
    def rows(self) -> list[tuple[int, Term]]:
        blocks = range(max(len(own) for own in self.terms))
        return [(i, own[k]) for k in blocks for i, own in enumerate(self.terms) if len(own) > k]

    @cached_property
    def blocks(self) -> list[list[int]]:
        """Pictures of each block of rows, in the rows' order."""
        blocks = range(max(len(own) for own in self.terms))
        return [[i for i, own in enumerate(self.terms) if len(own) > k] for k in blocks]

    def reduce(self, predictions: torch.Tensor) -> torch.Tensor:
        """Σ wₖ·prediction over each picture's rows, (rows, ...) -> (pictures, ...)."""
        dtype = predictions.dtype
        if torch.finfo(dtype).bits < 32:
            predictions = predictions.float()
        weights = predictions.new_tensor([term.weight for _, term in self.rows])
        weighted = predictions * weights.view(-1, *[1] * (predictions.ndim - 1))
        first, *others = weighted.split([len(block) for block in self.blocks])
        for block, part in zip(self.blocks[1:], others, strict=True):
            if len(block) < len(first):
                part = torch.zeros_like(first).index_copy(0, _index(block, part), part)
            first = first + part
        return first.to(dtype)


class GuidedDenoiser:
    """The two hooks, for one call of a pipeline."""

    def __init__(
        self,
        *,
        family: Family,
        models: Models,
        timesteps: Callable[[], torch.Tensor],
        cost: Cost,
    ) -> None:
        """Prepare the hooks.

        Args:
            family: names of the denoiser's arguments.
            models: which module predicts in which role.
            timesteps: gives the scheduler's timesteps, to find the step's position.
            cost: counts forwards and rows.
        """
        self._family = family
        self._models = models
        self._timesteps = timesteps
        self._cost = cost
        self._pictures: tuple[Picture, ...] = ()
        self._null: dict[str, Value] = {}
        self._last: tuple[dict[str, Value], _Plan, dict[str, Value]] | None = None
        self._plans: dict[tuple[tuple[Term, ...], ...], _Plan] = {}

    def set_pictures(self, pictures: tuple[Picture, ...], null: dict[str, Value]) -> None:
        """Tell what each picture asks for, and the null condition: argument -> (pictures, ...)."""
        self._pictures = pictures
        self._null = null

    @contextlib.contextmanager
    def attached(self, entry: nn.Module) -> Iterator[None]:
        """Hook `entry`, the module that the pipeline calls, while the context is open."""
        state: dict[str, Any] = {}
        names = list(inspect.signature(entry.forward).parameters)

        def expand(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
            if len(kwargs[names[0]]) != len(self._pictures):
                raise RuntimeError(
                    f"The pipeline called its denoiser with {len(kwargs[names[0]])} rows for "
                    f"{len(self._pictures)} encoded prompts; it should make one call per step."
                )
            plan = self._plan(entry, kwargs[self._family.timestep[0]])
            calls = self._calls(entry, plan, kwargs)
            state.update(plan=plan, calls=calls)
            return (), self._start(calls[0])

        def reduce(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            plan, calls = state.pop("plan"), state.pop("calls")
            parts = [_stacked(output[0])]
            for call in calls[1:]:
                parts.append(_stacked(call.module(**self._start(call))[0]))
            rows = parts[0]
            if len(parts) > 1:
                order = [row for call in calls for row in call.rows]
                rows = torch.cat(parts)[
                    _index(sorted(range(len(order)), key=order.__getitem__), rows)
                ]
            reduced = plan.reduce(rows)
            is_list = isinstance(output[0], list)
            return (list(reduced.unbind()) if is_list else reduced, *output[1:])

        with contextlib.ExitStack() as hooks:
            hooks.callback(entry.register_forward_pre_hook(expand, with_kwargs=True).remove)
            hooks.callback(entry.register_forward_hook(reduce, with_kwargs=True).remove)
            yield

    def _plan(self, entry: nn.Module, told: torch.Tensor | float) -> _Plan:
        whole = all(picture.interval == (0.0, 1.0) for picture in self._pictures)
        position = 0.0 if whole else self._position(entry, told)
        terms = tuple(picture.terms_at(position) for picture in self._pictures)
        return self._plans.setdefault(terms, _Plan(terms))

    def _position(self, entry: nn.Module, told: torch.Tensor | float) -> float:
        """Fraction of the scheduler's steps that come before the one the denoiser is told of.

        Looked up, not counted: schedulers of higher order call the denoiser twice a step.
        """
        told = torch.as_tensor(told).flatten()[0].cpu()
        steps = torch.unique_consecutive(self._timesteps().double().cpu())
        _, convert = self._family.timestep
        # Rounded to the number format of the latents first, as the pipelines round it.
        tellable = convert(steps.to(told.dtype), entry.config).double()
        distance = (tellable - told.double()).abs()
        if distance.min() > 1e-3 * (tellable.abs().max() + told.double().abs()):
            raise RuntimeError(f"Timestep {told} is not one of the scheduler's {tellable}.")
        return int(distance.argmin()) / len(steps)

    def _calls(self, entry: nn.Module, plan: _Plan, kwargs: dict[str, Any]) -> list["_Call"]:
        rows_of: dict[nn.Module, list[int]] = {entry: []}
        for row, (_, term) in enumerate(plan.rows):
            rows_of.setdefault(self._models.modules[term.role], []).append(row)
        expanded = self._expand(kwargs, plan)
        whole = len(rows_of) == 1
        return [
            _Call(
                module=module,
                rows=rows,
                names=self._names(plan, rows),
                kwargs=expanded if whole else self._take(expanded, rows, len(plan.rows)),
            )
            for module, rows in rows_of.items()
        ]

    def _start(self, call: "_Call") -> dict[str, Any]:
        self._models.names[:] = call.names
        self._cost.num_forwards += 1
        self._cost.num_rows += len(call.rows)
        return call.kwargs

    def _names(self, plan: _Plan, rows: list[int]) -> list[str]:
        adapters = self._models.adapters
        return [] if adapters is None else [adapters[plan.rows[row][1].role] for row in rows]

    def _expand(self, kwargs: dict[str, Any], plan: _Plan) -> dict[str, Any]:
        num_pictures = len(self._pictures)
        pictures = [picture for picture, _ in plan.rows]
        if pictures == list(range(num_pictures)) and all(
            term.condition == "prompt" for _, term in plan.rows
        ):
            return kwargs
        expanded = self._take(kwargs, pictures, num_pictures)
        for path, rows in self._conditions(kwargs, plan).items():
            _set(expanded, path, rows)
        return expanded

    def _conditions(self, kwargs: dict[str, Any], plan: _Plan) -> dict[str, Value]:
        """Build the text arguments of all rows, once for all steps with the same plan."""
        prompt = {
            path: _get(kwargs, path) for path in (*self._family.conditions, *self._family.masks)
        }
        if self._last is not None:
            known, last_plan, built = self._last
            if last_plan is plan and all(prompt[path] is known[path] for path in prompt):
                return built
        built = condition_rows(
            prompt,
            self._null,
            family=self._family,
            alphas=[picture.alpha for picture in self._pictures],
            rows=[(picture, term.condition) for picture, term in plan.rows],
        )
        self._last = prompt, plan, built
        return built

    def _take(self, kwargs: dict[str, Any], rows: list[int], num_rows: int) -> dict[str, Any]:
        return {
            name: value
            if name in self._family.unbatched
            else self._pick(name, value, rows, num_rows)
            for name, value in kwargs.items()
        }

    def _pick(self, name: str, value: Any, rows: list[int], num_rows: int) -> Any:
        if name in self._family.per_sample:
            return [value[row] for row in rows] if len(value) == num_rows else value
        return _take_rows(value, rows, num_rows)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of one module: which rows of the plan it predicts, and its arguments."""

    module: nn.Module
    rows: list[int]
    names: list[str]
    kwargs: dict[str, Any]


def _take_rows(value: Any, rows: list[int], num_rows: int) -> Any:
    """Pick rows of every batched tensor in a nested argument; what has no batch axis stays."""
    if torch.is_tensor(value):
        is_batched = value.ndim > 0 and value.shape[0] == num_rows
        return value.index_select(0, _index(rows, value)) if is_batched else value
    if isinstance(value, dict):
        return {key: _take_rows(part, rows, num_rows) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_take_rows(part, rows, num_rows) for part in value)
    return value


def _stacked(output: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    """Return predictions as one tensor; some denoisers give a list with one per row."""
    return torch.stack(output) if isinstance(output, list) else output


def _index(places: list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(places, device=like.device)


def _get(kwargs: dict[str, Any], path: str) -> Any:
    value: Any = kwargs
    for key in path.split("."):
        value = None if value is None else value.get(key)
    return value


def _set(kwargs: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        kwargs = kwargs[key]
    kwargs[last] = value
