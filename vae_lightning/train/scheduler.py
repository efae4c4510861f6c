"""torch's own learning-rate schedulers: how often each is stepped, and whether its course fits the training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

Interval = Literal["epoch", "step"]
Scheduler = LRScheduler | ReduceLROnPlateau
TorchScheduler = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
PER_STEP = (torch_schedulers.OneCycleLR, torch_schedulers.CyclicLR)
"""Whose documentation has them stepped after every batch."""
WARM_UPS = (torch_schedulers.LinearLR, torch_schedulers.ConstantLR)
SWINGING = (torch_schedulers.CyclicLR, torch_schedulers.CosineAnnealingWarmRestarts)
COURSE = ("T_max", "total_steps", "total_iters", "T_0", "step_size")
"""What torch's schedulers call the length of their course, or of the first part of it."""
SPANS = "let --model.lr_schedule WarmupCosine span the training, whatever its length (--model.lr_scheduler null)"
SIMULATED = 100_000
"""Steps of a scheduler that are looked at: a second's worth."""


@dataclass(frozen=True)
class Length:
    """How long a training is: epochs and the optimiser's steps; None where there is no such limit."""

    epochs: int | None
    steps: int | None

    @classmethod
    def of(cls, max_epochs: int | None, max_steps: int, epoch_steps: int) -> Length:
        """By the Trainer's limits, of which None and -1 mean none."""
        epochs = None if max_epochs is None or max_epochs < 0 else max_epochs
        steps = [epochs * epoch_steps] if epochs is not None else []
        steps += [max_steps] if max_steps >= 0 else []
        if not steps:
            return cls(None, None)
        return cls(math.ceil(min(steps) / epoch_steps), min(steps))

    def count(self, interval: Interval) -> int | None:
        """How often a scheduler is stepped."""
        return self.epochs if interval == "epoch" else self.steps


def interval_of(scheduler: Scheduler, said: Interval | None, length: Length) -> Interval:
    """How often a scheduler is stepped: as the setting says, or by its kind where that is null: OneCycleLR and CyclicLR
    at every step, also a warm-up (LinearLR, ConstantLR) that is longer than the training has epochs; others once an
    epoch. A chain of schedulers goes by the first that says step."""
    if said is not None:
        return said
    if isinstance(scheduler, PER_STEP):
        return "step"
    if isinstance(scheduler, WARM_UPS) and length.epochs is not None and scheduler.total_iters > length.epochs:
        return "step"
    inner = [interval_of(part, None, length) for part in getattr(scheduler, "_schedulers", [])]
    return "step" if "step" in inner else "epoch"


class Misfit(NamedTuple):
    """What does not fit between a scheduler and a training, and what to do: a sentence each."""

    what: str
    remedy: str
    fatal: bool = False
    """Whether the training would end with an error."""


def misfit(make: Callable[[], Scheduler], interval: Interval, length: Length) -> Misfit | None:
    """The first thing that does not fit; None where nothing is, or the length is not known.

    Args:
        make: a new scheduler, of an optimiser that trains nothing.
        interval: how often it is stepped.
        length: of the training.
    """
    count = length.count(interval)
    if count is None or count < 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimiser's step comes between a scheduler's here
        scheduler, units = make(), f"{interval}s"
        return next(_complaints(scheduler, units, count), None)


def _complaints(scheduler: Scheduler, units: str, count: int) -> Iterator[Misfit]:
    if isinstance(scheduler, ReduceLROnPlateau):
        if scheduler.patience >= count:
            yield Misfit(
                f"{type(scheduler).__name__} waits for {scheduler.patience} {units} without progress, and the training "
                f"has {count}: the rate never changes.",
                "Set --model.lr_scheduler.patience to a tenth of them.",
            )
        return
    yield from _of_course(scheduler, units, count)
    if count <= SIMULATED:
        yield from _of_rates(scheduler, units, count)


def _of_course(scheduler: Any, units: str, count: int) -> Iterator[Misfit]:
    """By the lengths that a scheduler declares."""
    name, has = type(scheduler).__name__, f"and the training has {count}"
    parts, milestones = getattr(scheduler, "_schedulers", []), getattr(scheduler, "_milestones", None)
    begins = [0] * len(parts) if milestones is None else [0, *milestones]
    ends = [count] * len(parts) if milestones is None else [*milestones, count]
    for part, begin, end in zip(parts, begins, ends, strict=True):
        if begin >= count:
            inner = type(part).__name__
            yield Misfit(
                f"{name} begins its {inner} after {begin} {units}, {has}.", f"Set earlier milestones, or {SPANS}."
            )
        else:
            yield from _of_course(part, units, min(end, count) - begin)
    late = [place for place in sorted(getattr(scheduler, "milestones", [])) if place >= count]
    if late:
        places = ", ".join(map(str, late))
        yield Misfit(
            f"{name} changes the rate after {places} {units}, {has}.",
            f"Set earlier --model.lr_scheduler.milestones, or {SPANS}.",
        )
    key = next((key for key in COURSE if isinstance(getattr(scheduler, key, None), int)), None)
    if key is None:
        return
    span = getattr(scheduler, key)
    said, remedy = f"{name} has {key} {span} ({units}), {has}", f"Set --model.lr_scheduler.{key} {count}, or {SPANS}."
    if key == "total_steps" and span < count:
        yield Misfit(f"{said}: torch ends the training with an error there.", remedy, fatal=True)
    elif key == "step_size" and span >= count:
        less = remedy.replace(f"{count},", f"{max(1, count // 3)},") if count > 1 else f"{SPANS[0].upper()}{SPANS[1:]}."
        yield Misfit(f"{said}: the rate never changes.", less)
    elif key != "step_size" and span > 1.1 * count + 1:
        steps = " Where these are meant to be steps: --model.lr_interval step." if units == "epochs" else ""
        yield Misfit(f"{said}: it ends after {count / span:.0%} of its course.", remedy + steps)
    elif key == "T_max" and span < 0.95 * count - 1:
        times = math.ceil(count / span / 2)
        swings = "once" if times == 1 else f"{times} times"
        yield Misfit(f"{said}: the rate swings down and up again {swings}, and the loss with it.", remedy)


def _of_rates(scheduler: Any, units: str, count: int) -> Iterator[Misfit]:
    """By the learning rates themselves."""
    name, rates = type(scheduler).__name__, list[float]()
    for _ in range(count):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.step()
    low, high = min(rates), max(rates)
    if high == low:
        if count > 1:
            yield Misfit(f"{name} never changes the rate within the training's {count} {units}.", f"{_upper(SPANS)}.")
        return
    alive = max(i for i, rate in enumerate(rates) if rate > 1e-4 * high)
    if alive + 1 < 0.9 * count - 1:
        yield Misfit(
            f"{name} has brought the rate to nothing after {alive + 1} {units}, and the training has {count}: it "
            "learns no more from there on.",
            f"Spread it over all of them, or {SPANS}.",
        )
    rises = _rises(rates, 0.1 * (high - low))
    if isinstance(scheduler, SWINGING):
        if rates[-1] > low + 0.5 * (high - low):
            yield Misfit(
                f"{name} is in the upper half of a cycle when the training ends after {count} {units}, at a rate of "
                f"{rates[-1]:.2g}.",
                f"Choose a cycle that ends with the training, or {SPANS}.",
            )
    elif rises:
        times = "once" if rises == 1 else f"{rises} times"
        yield Misfit(
            f"{name} lets the rate rise again {times} within the training's {count} {units}, and the loss with it.",
            f"Choose a course that falls to its end, or {SPANS}.",
        )


def _upper(remedy: str) -> str:
    return remedy[0].upper() + remedy[1:]


def _rises(rates: list[float], least: float) -> int:
    """How often they rise by more than `least` after they have fallen by as much."""
    count, top, bottom, falling = 0, rates[0], rates[0], False
    for rate in rates:
        if falling:
            bottom = min(bottom, rate)
            if rate > bottom + least:
                count, top, falling = count + 1, rate, False
        else:
            top = max(top, rate)
            if rate < top - least:
                bottom, falling = rate, True
    return count
