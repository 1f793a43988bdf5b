"""The training loop of recovery: AdamW, warm-up and cosine, a watched held-out loss, resumable.

Everything random is derived from the seed and the step's number, and everything that changes is in
the saved state, so that a run which was killed and resumed ends at the very same weights.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from paredown.errors import DivergedError
from paredown.spec.units import human_seconds
from paredown.store.cache import Cache

log = logging.getLogger(__name__)

WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""
CLIP = 1.0
"""Largest norm of the gradient."""
SAVE_S = 120.0
"""Seconds between saved states, or `SAVE_COST` times as long as saving takes."""
SAVE_COST = 20
_BETAS = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        learning_rate: its peak.
        batch: windows per step.
        forward: windows per forward pass; gradients of a step's passes are summed up.
        epochs: passes over the text.
        minutes: end early after so many minutes of training; None = when the text ends.
        checks: how often the held-out loss is measured on the way, the end included.
        seed: decides order and dropout.
    """

    learning_rate: float
    batch: int
    forward: int
    epochs: int
    minutes: float | None
    checks: int
    seed: int


@dataclass
class Record:
    """What a training did; JSON-able."""

    before: float
    """Held-out loss before the first step."""
    best: float
    """Lowest held-out loss on the way, `before` included."""
    best_step: int = 0
    step: int = 0
    seconds: float = 0.0
    held_out: list[tuple[int, float]] = field(default_factory=list)
    """(step, held-out loss)"""


class Resumable:
    """The state of an unfinished training in the cache: one file, replaced as a whole."""

    def __init__(self, cache: Cache, key: dict[str, Any]) -> None:
        """`key` names everything that decides the result."""
        self.cache, self.key = cache, key

    def read(self) -> tuple[dict[str, Tensor], Record] | None:
        """The stored tensors and record, if there are any."""
        path = self.cache.get("training", self.key, ".safetensors")
        if path is None:
            return None
        with safe_open(path, framework="pt") as file:
            record = Record(**json.loads(file.metadata()["record"]))
            record.held_out = [(step, loss) for step, loss in record.held_out]  # JSON has lists
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118

    def write(self, tensors: dict[str, Tensor], record: Record) -> None:
        """Replace the state."""
        metadata = {"record": json.dumps(asdict(record))}

        def write(path: Path) -> None:
            save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)

        self.cache.put("training", self.key, ".safetensors", write)

    def remove(self) -> None:
        """Forget the state: the training is over."""
        self.cache.drop("training", self.key, ".safetensors")


def learning_rate(peak: float, share: float) -> float:
    """Linear warm-up over the first tenth, then half a cosine down to 0, at `share` of the way."""
    if share < WARM_UP:
        return peak * share / WARM_UP
    return peak * 0.5 * (1 + math.cos(math.pi * (min(share, 1.0) - WARM_UP) / (1 - WARM_UP)))


class Trainer:
    """Trains `parameters` (float32, by name) on windows of text; leaves the best state in them."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        windows: Tensor,
        recipe: Recipe,
        *,
        loss: Callable[[Tensor], Tensor],
        held_out: Callable[[], float],
        resumable: Resumable,
        progress: Callable[[float, str], None],
    ) -> None:
        """Nothing runs yet.

        Args:
            windows: (n, length) int64 token ids.
            loss: mean loss of some windows, to be differentiated.
            held_out: the loss that decides, on text that is not trained on.
            resumable: where the state of an earlier, unfinished run is, or will be.
        """
        self.parameters, self.windows, self.recipe = parameters, windows, recipe
        self.loss, self.held_out = loss, held_out
        self.resumable, self.progress = resumable, progress
        self.steps = max(1, len(windows) * recipe.epochs // recipe.batch)
        self.optimizer = torch.optim.AdamW(
            list(parameters.values()), lr=0.0, betas=_BETAS, weight_decay=0.0
        )
        self.best: dict[str, Tensor] = {}

    def run(self) -> Record:
        """Train to the end.

        Raises:
            DivergedError: a loss is not finite, or the held-out loss never fell.
        """
        record = self._resume() or self._begin()
        started = last_saved = time.monotonic()
        already, interval = record.seconds, SAVE_S
        # Rounded up, so that the last check falls on the last step.
        checks = {-(-self.steps * (i + 1) // self.recipe.checks) for i in range(self.recipe.checks)}
        while record.step < self.steps and not self._is_late(record):
            share = self._share(record) + 0.5 / self.steps  # the middle of the step
            loss = self._step(record.step, learning_rate(self.recipe.learning_rate, share))
            record.step += 1
            record.seconds = already + time.monotonic() - started
            if record.step in checks or self._is_late(record):
                self._check(record)
            self.progress(self._share(record), self._message(record, loss))
            if time.monotonic() - last_saved >= interval:
                begun = time.monotonic()
                self._save(record)
                last_saved = time.monotonic()
                # Saving takes at most one SAVE_COST-th of the time, however large the state.
                interval = max(SAVE_S, SAVE_COST * (last_saved - begun))
        self._finish(record)
        return record

    def _begin(self) -> Record:
        before = self._finite(self.held_out(), "the held-out loss before training")
        log.info("held-out loss before training %.4f", before)
        return Record(before=before, best=before)

    def _resume(self) -> Record | None:
        found = self.resumable.read()
        if found is None:
            return None
        tensors, record = found
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"now.{name}"])
                if f"best.{name}" in tensors:
                    self.best[name] = tensors[f"best.{name}"].to(parameter.device)
                self.optimizer.state[parameter] = {
                    # A float tensor is what AdamW keeps; its bias correction depends on it.
                    "step": torch.tensor(float(record.step)),
                    "exp_avg": tensors[f"mean.{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"square.{name}"].to(parameter.device),
                }
        log.info("resumed at step %d of %d", record.step, self.steps)
        return record

    def _save(self, record: Record) -> None:
        tensors: dict[str, Tensor] = {f"best.{k}": v for k, v in self.best.items()}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            tensors[f"now.{name}"] = parameter.detach()
            tensors[f"mean.{name}"] = state["exp_avg"]
            tensors[f"square.{name}"] = state["exp_avg_sq"]
        self.resumable.write(tensors, record)

    def _share(self, record: Record) -> float:
        """Share of the way that is done: of the steps, or of the minutes if they end first."""
        by_steps = record.step / self.steps
        if self.recipe.minutes is None:
            return by_steps
        return min(1.0, max(by_steps, record.seconds / (60 * self.recipe.minutes)))

    def _is_late(self, record: Record) -> bool:
        limit = self.recipe.minutes
        return limit is not None and record.seconds >= 60 * limit

    def _step(self, number: int, rate: float) -> float:
        """One update; returns the mean loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self._batch(number)
        total = 0.0
        # By the step's number, not by what was drawn before: a resumed run drops out the same
        # units.
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed * 1_000_003 + number)  # dropout
            for part in batch.split(self.recipe.forward):
                # Weighted, so that gradients add up to those of the whole batch's mean.
                loss = self.loss(part) * (len(part) / len(batch))
                loss.backward()
                total += float(loss.detach())
        self._finite(total, f"the loss of step {number + 1}")
        nn.utils.clip_grad_norm_(list(self.parameters.values()), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _batch(self, number: int) -> Tensor:
        """Windows of step `number`: every epoch goes through all of them in an order of its own."""
        first = number * self.recipe.batch
        places = range(
            first, min(first + self.recipe.batch, len(self.windows) * self.recipe.epochs)
        )
        # A batch may hold the end of one epoch and the beginning of the next.
        orders: dict[int, Tensor] = {}
        chosen = []
        for place in places:
            epoch, index = divmod(place, len(self.windows))
            if epoch not in orders:
                generator = torch.Generator().manual_seed(self.recipe.seed + epoch)
                orders[epoch] = torch.randperm(len(self.windows), generator=generator)
            chosen.append(int(orders[epoch][index]))
        return self.windows[chosen]

    def _check(self, record: Record) -> None:
        """Measure the held-out loss and keep the state if it is the best so far."""
        value = self._finite(self.held_out(), f"the held-out loss after step {record.step}")
        record.held_out.append((record.step, value))
        log.info("step %d of %d: held-out loss %.4f", record.step, self.steps, value)
        if value < record.best:
            record.best, record.best_step = value, record.step
            for name, parameter in self.parameters.items():
                if name in self.best:
                    self.best[name].copy_(parameter.detach())
                else:
                    self.best[name] = parameter.detach().clone()

    def _finish(self, record: Record) -> None:
        # Before the verdict: a training without gain would come to the same end if it were resumed.
        self.resumable.remove()
        if record.best_step == 0:
            raise DivergedError(
                f"training made the held-out loss no better: {record.before:.4f} before, "
                f"{min(v for _, v in record.held_out):.4f} at best in {record.step} steps; "
                "use a lower learning_rate or more tokens, or leave the step out"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])

    def _message(self, record: Record, loss: float) -> str:
        share = self._share(record)
        left = human_seconds(record.seconds * (1 - share) / share)
        now = record.held_out[-1][1] if record.held_out else record.before
        return (
            f"step {record.step} of {self.steps}, loss {loss:.3f}, held out {now:.3f} "
            f"({record.before:.3f} before), {left} left"
        )

    def _finite(self, value: float, what: str) -> float:
        if not math.isfinite(value):
            self.resumable.remove()
            raise DivergedError(f"{what} is {value}; use a lower learning_rate")
        return value
