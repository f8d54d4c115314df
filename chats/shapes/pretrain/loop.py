"""What the three pretraining stages share: schedule, random draws, resumable training state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

_CLIP_NORM = 1.0
_FINAL_RATE = 0.02


class Loop:
    """Runs `step(index, generator) -> loss` with AdamW, cosine decay, EMA and saved states.

    The random draws of a step depend on (seed, index) alone, so a resumed training goes on as if
    it had never stopped. States are safetensors, written beside and then renamed.
    """

    def __init__(
        self,
        *,
        name: str,
        workdir: Path,
        modules: dict[str, nn.Module],
        rates: dict[str, float],
        num_steps: int,
        seed: int,
        save_every: int,
        warmup_steps: int = 100,
        ema_decay: float | None = None,
    ) -> None:
        """`modules` are trained with the peak learning rates of the same names in `rates`."""
        self.name, self.num_steps, self.seed = name, num_steps, seed
        self.save_every, self.warmup_steps, self.ema_decay = save_every, warmup_steps, ema_decay
        self.path = workdir / f"{name}.state.safetensors"
        self.modules = nn.ModuleDict(modules)
        self.rates = rates
        self.optimizer = torch.optim.AdamW(
            [{"params": list(module.parameters()), "name": key} for key, module in modules.items()],
            lr=1e-3,
            betas=(0.9, 0.99),
            weight_decay=1e-2,
            fused=True,
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = [p.detach().clone() for p in self.parameters]
        self.start = self._load() if self.path.exists() else 0

    def run(self, step: Callable[[int, torch.Generator], torch.Tensor]) -> None:
        """Train from the newest saved state to the end; weights are the EMA's afterwards."""
        began, total = time.monotonic(), 0.0
        for index in range(self.start, self.num_steps):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
            self._set_rates(index)
            loss = step(index, generator)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{self.name}: loss is {loss.item()} at step {index}.")
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, _CLIP_NORM)
            self.optimizer.step()
            self._update_ema(index)
            total += loss.item()
            if (index + 1) % 100 == 0:
                rate = (index + 1 - self.start) / (time.monotonic() - began)
                print(  # noqa: T201 - the progress of a command-line script
                    f"{self.name} {index + 1}/{self.num_steps} loss {total / 100:.4f} "
                    f"{rate:.2f} steps/s",
                    flush=True,
                )
                total = 0.0
            if (index + 1) % self.save_every == 0 or index + 1 == self.num_steps:
                self._save(index + 1)
        if self.ema_decay is not None:
            self.copy_ema_to_weights()

    @torch.no_grad()
    def copy_ema_to_weights(self) -> None:
        """Replace the trained weights by their moving average."""
        for parameter, average in zip(self.parameters, self.ema, strict=True):
            parameter.copy_(average)

    def _set_rates(self, index: int) -> None:
        progress = index / self.num_steps
        cosine = _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))
        factor = min(1, (index + 1) / self.warmup_steps) * cosine
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[group["name"]] * factor

    @torch.no_grad()
    def _update_ema(self, index: int) -> None:
        if self.ema_decay is not None:
            decay = min(self.ema_decay, (20 + index) / (40 + index))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)

    def _save(self, step: int) -> None:
        tensors = {"step": torch.tensor(step)}
        moments = [self.optimizer.state[p] for p in self.parameters]
        for index, parameter in enumerate(self.parameters):
            tensors[f"{index}.weight"] = parameter.detach()
            tensors[f"{index}.ema"] = self.ema[index]
            tensors[f"{index}.exp_avg"] = moments[index]["exp_avg"]
            tensors[f"{index}.exp_avg_sq"] = moments[index]["exp_avg_sq"]
        staged = self.path.with_suffix(".tmp")
        save_file({key: value.contiguous() for key, value in tensors.items()}, staged)
        staged.replace(self.path)

    @torch.no_grad()
    def _load(self) -> int:
        tensors = load_file(self.path)
        step = int(tensors["step"])
        for index, parameter in enumerate(self.parameters):
            parameter.copy_(tensors[f"{index}.weight"])
            self.ema[index].copy_(tensors[f"{index}.ema"])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": torch.empty_like(parameter).copy_(tensors[f"{index}.exp_avg"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"{index}.exp_avg_sq"]),
            }
        return step
