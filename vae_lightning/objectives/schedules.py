"""Weights that change with the training step, and only with it."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Schedule(ABC):
    """step (0, 1, ...) -> weight."""

    @abstractmethod
    def __call__(self, step: int) -> float: ...

    @property
    @abstractmethod
    def last_step(self) -> int:
        """The first step from which the weight stays as it is."""


def _require_steps(name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{name}: expected at least one step, got {steps}.")


def _require_weights(name: str, *weights: float) -> None:
    if min(weights) < 0:
        raise ValueError(f"{name}: expected weights of at least 0, got {min(weights)}: a bound has no negative weight.")


class Constant(Schedule):
    """The same weight at every step."""

    def __init__(self, value: float = 1.0) -> None:
        _require_weights("Constant", value)
        self.value = value

    def __call__(self, step: int) -> float:
        return self.value

    @property
    def last_step(self) -> int:
        return 0


class Linear(Schedule):
    """From `start` at step 0 to `end` at step `steps`, and `end` from there on (Bowman et al. 2016)."""

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0) -> None:
        _require_steps("Linear.steps", steps)
        _require_weights("Linear", start, end)
        self.steps, self.start, self.end = steps, start, end

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)

    @property
    def last_step(self) -> int:
        return self.steps


class Cyclical(Schedule):
    """`cycles` saws of `steps` steps each, linear from `start` to `end` over the first `ratio` of a cycle and at `end`
    for the rest; `end` after the last (Fu et al. 2019)."""

    def __init__(self, steps: int, cycles: int = 4, ratio: float = 0.5, start: float = 0.0, end: float = 1.0) -> None:
        _require_steps("Cyclical.steps", steps)
        _require_weights("Cyclical", start, end)
        if cycles < 1 or not 0 < ratio <= 1:
            raise ValueError(f"Cyclical: expected cycles >= 1 and 0 < ratio <= 1, got cycles={cycles}, ratio={ratio}.")
        self.steps, self.cycles, self.ratio, self.start, self.end = steps, cycles, ratio, start, end

    def __call__(self, step: int) -> float:
        if step >= self.last_step:
            return self.end
        progress = (step % self.steps) / self.steps
        return self.start + (self.end - self.start) * min(progress / self.ratio, 1.0)

    @property
    def last_step(self) -> int:
        return self.steps * self.cycles
