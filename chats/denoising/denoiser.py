"""Guidance on the real denoiser: a forward pre-hook expands its rows, a post-hook reduces them.

The pipeline calls its denoiser once per step, with the prompt's condition only. The pre-hook turns
that call into one row for each prediction that the methods combine; the post-hook reduces the rows
by their weights. The sampling loop, the scheduler and the model stay what they are.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from chats.denoising.adapter_rows import AdaptedLayers
from chats.denoising.conditions import Value, condition_rows
from chats.denoising.family import Family
from chats.denoising.masked_rows import RowMask
from chats.denoising.methods import Role, Term
from chats.denoising.pictures import Picture
from chats.denoising.rows import RowPlan, get_nested, index_of, set_nested, stacked, take_rows
from chats.denoising.shaping import Differences


@dataclass
class Cost:
    """What guidance has cost so far."""

    num_forwards: int = 0
    """Calls of a model, whatever their number of rows."""

    num_rows: int = 0
    """Predictions: rows over all calls."""


@dataclass(kw_only=True)
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

    mask: RowMask | None = None
    """The same for layers inside compiled blocks; none where there are none."""


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
        self._last: tuple[dict[str, Value], RowPlan, dict[str, Value]] | None = None
        self._plans: dict[tuple[tuple[tuple[Term, ...], ...], frozenset[int]], RowPlan] = {}
        self._differences = Differences()

    def set_pictures(self, pictures: tuple[Picture, ...], null: dict[str, Value]) -> None:
        """Tell what each picture asks for, and the null condition: argument -> (pictures, ...)."""
        self._pictures = pictures
        self._null = null

    @contextlib.contextmanager
    def attached(self, entry: nn.Module, control: nn.Module | None = None) -> Iterator[None]:
        """Hook the modules that the pipeline calls while the context is open.

        Args:
            entry: the denoiser.
            control: a ControlNet, whose residuals the denoiser is given: it sees the same rows.
        """
        state: dict[str, Any] = {}

        def expand(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            kwargs, latents = self._named(module, args, kwargs)
            step = self._step(entry, kwargs[self._family.timestep[0]])
            plan = self._plan(*step)
            calls = self._calls(entry, plan, kwargs)
            state.update(plan=plan, calls=calls, step=step[0], latents=latents)
            return (), self._start(calls[0])

        def expand_control(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            kwargs, _ = self._named(module, args, kwargs)
            plan = self._plan(*self._step(entry, kwargs[self._family.timestep[0]]))
            return (), self._expand(kwargs, plan)

        def reduce(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            plan, calls, step, latents = (
                state.pop(key) for key in ("plan", "calls", "step", "latents")
            )
            parts = [stacked(output[0])]
            for call in calls[1:]:
                parts.append(stacked(call.module(**self._start(call))[0]))
            rows = parts[0]
            if len(parts) > 1:
                order = [row for call in calls for row in call.rows]
                rows = torch.cat(parts)[
                    index_of(sorted(range(len(order)), key=order.__getitem__), rows)
                ]
            reduced = plan.reduce(rows)
            if any(picture.is_shaped for picture in self._pictures):
                reduced = self._differences.shaped(
                    reduced, rows=rows, plan=plan, pictures=self._pictures, step=step, like=latents
                )
            reduced = reduced.to(rows.dtype)
            is_list = isinstance(output[0], list)
            return (list(reduced.unbind()) if is_list else reduced, *output[1:])

        with contextlib.ExitStack() as hooks:
            hooks.callback(entry.register_forward_pre_hook(expand, with_kwargs=True).remove)
            hooks.callback(entry.register_forward_hook(reduce, with_kwargs=True).remove)
            if control is not None:
                hooks.callback(
                    control.register_forward_pre_hook(expand_control, with_kwargs=True).remove
                )
            yield

    def _named(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """Return all arguments by name, and the latents among them, one row a picture."""
        names = list(inspect.signature(module.forward).parameters)
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        latents = kwargs[names[0]]
        if len(latents) != len(self._pictures):
            raise RuntimeError(
                f"The pipeline called its denoiser with {len(latents)} rows for "
                f"{len(self._pictures)} encoded prompts; it should make one call per step."
            )
        return kwargs, latents

    def _plan(self, step: int, num_steps: int) -> RowPlan:
        position = step / num_steps
        reused = frozenset(
            i
            for i, picture in enumerate(self._pictures)
            if picture.is_guided_at(position)
            and not self._differences.is_due(i, step, every=picture.shaping.refresh_every)
        )
        terms = tuple(
            picture.terms_at(position, alone=i in reused)
            for i, picture in enumerate(self._pictures)
        )
        return self._plans.setdefault((terms, reused), RowPlan(terms, reused))

    def _step(self, entry: nn.Module, told: torch.Tensor | float) -> tuple[int, int]:
        """Number of the scheduler's steps before the one the denoiser is told of, and of all.

        Looked up, not counted: schedulers of higher order call the denoiser twice a step.
        """
        if all(
            picture.interval == (0.0, 1.0) and picture.shaping.refresh_every == 1
            for picture in self._pictures
        ):
            return 0, 1
        told = torch.as_tensor(told).flatten()[0].cpu()
        steps = torch.unique_consecutive(self._timesteps().double().cpu())
        _, convert = self._family.timestep
        # Rounded to the number format of the latents first, as the pipelines round it.
        tellable = convert(steps.to(told.dtype), entry.config).double()
        distance = (tellable - told.double()).abs()
        if distance.min() > 1e-3 * (tellable.abs().max() + told.double().abs()):
            raise RuntimeError(f"Timestep {told} is not one of the scheduler's {tellable}.")
        return int(distance.argmin()), len(steps)

    def _calls(self, entry: nn.Module, plan: RowPlan, kwargs: dict[str, Any]) -> list["_Call"]:
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
        if self._models.mask is not None:
            self._models.mask.choose(call.names)
        self._cost.num_forwards += 1
        self._cost.num_rows += len(call.rows)
        return call.kwargs

    def _names(self, plan: RowPlan, rows: list[int]) -> list[str]:
        adapters = self._models.adapters
        return [] if adapters is None else [adapters[plan.rows[row][1].role] for row in rows]

    def _expand(self, kwargs: dict[str, Any], plan: RowPlan) -> dict[str, Any]:
        num_pictures = len(self._pictures)
        pictures = [picture for picture, _ in plan.rows]
        if pictures == list(range(num_pictures)) and all(
            term.condition == "prompt" for _, term in plan.rows
        ):
            return kwargs
        expanded = self._take(kwargs, pictures, num_pictures)
        for path, rows in self._conditions(kwargs, plan).items():
            set_nested(expanded, path, rows)
        return expanded

    def _conditions(self, kwargs: dict[str, Any], plan: RowPlan) -> dict[str, Value]:
        """Build the text arguments of all rows, once for all steps with the same plan."""
        prompt = {
            path: get_nested(kwargs, path)
            for path in (*self._family.conditions, *self._family.masks)
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
        return take_rows(value, rows, num_rows)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of one module: which rows of the plan it predicts, and its arguments."""

    module: nn.Module
    rows: list[int]
    names: list[str]
    kwargs: dict[str, Any]
