"""Numbers that change with the share of the training that is done, and only with it: weights of the KL term, and
factors on the learning rate. However long a training is, a schedule comes to its end with it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right

import torch
from torch import Tensor


class Schedule(ABC):
    """Share of the training that is done, 0.0 .. 1.0 -> weight or factor."""

    @abstractmethod
    def __call__(self, share: float) -> float: ...

    @torch._disable_dynamo
    def at(self, share: float) -> Tensor:
        """The number as a tensor (), for use in compiled code, which is not compiled anew when it changes."""
        return torch.tensor(float(self(float(share))))


def _require_weights(name: str, *weights: float) -> None:
    if not min(weights) >= 0:
        raise ValueError(
            f"{name}: expected weights of at least 0, got {min(weights)}: a bound and a rate have no negative one."
        )


def _require_share(name: str, share: float, zero: bool = False) -> None:
    if not (0 < share <= 1 or (zero and share == 0)):
        raise ValueError(
            f"{name}: expected a share of the training {'from' if zero else 'above'} 0 up to 1, got {share}: give 0.2 "
            "for its first fifth, be it of epochs, steps or time."
        )


class Constant(Schedule):
    """The same number from beginning to end."""

    def __init__(self, value: float = 1.0) -> None:
        _require_weights("Constant", value)
        self.value = value

    def __call__(self, share: float) -> float:
        return self.value


class Linear(Schedule):
    """From `start` to `end`, which is reached at the share `until` of the training and kept (Bowman et al. 2016)."""

    def __init__(self, until: float = 0.2, start: float = 0.0, end: float = 1.0) -> None:
        _require_share("Linear.until", until)
        _require_weights("Linear", start, end)
        self.until, self.start, self.end = until, start, end

    def __call__(self, share: float) -> float:
        return self.start + (self.end - self.start) * min(share / self.until, 1.0)


class Cyclical(Schedule):
    """`cycles` saws of equal length up to the share `until` of the training, each linear from `start` to `end` over its
    first `ratio` and at `end` for the rest; `end` after the last (Fu et al. 2019)."""

    def __init__(
        self, cycles: int = 4, ratio: float = 0.5, until: float = 1.0, start: float = 0.0, end: float = 1.0
    ) -> None:
        _require_share("Cyclical.until", until)
        _require_weights("Cyclical", start, end)
        if cycles < 1 or not 0 < ratio <= 1:
            raise ValueError(f"Cyclical: expected cycles >= 1 and 0 < ratio <= 1, got cycles={cycles}, ratio={ratio}.")
        self.cycles, self.ratio, self.until, self.start, self.end = cycles, ratio, until, start, end

    def __call__(self, share: float) -> float:
        if share >= self.until:
            return self.end
        progress = share / self.until * self.cycles % 1.0
        return self.start + (self.end - self.start) * min(progress / self.ratio, 1.0)


class WarmupConstant(Schedule):
    """A learning rate's linear warm-up from `start` to 1 at the share `warmup` of the training, and 1 from there on.

    Args:
        warmup: share of the training; 0 for none.
        start: the factor at the first step, above 0, since a step at a rate of 0 trains nothing.
    """

    def __init__(self, warmup: float = 0.02, start: float = 0.01) -> None:
        _require_share(f"{type(self).__name__}.warmup", warmup, zero=True)
        _require_weights(type(self).__name__, start)
        self.warmup, self.start = warmup, start

    def __call__(self, share: float) -> float:
        if share < self.warmup:
            return self.start + (1 - self.start) * share / self.warmup
        return 1.0


class WarmupCosine(WarmupConstant):
    """The same warm-up, then half a cosine from 1 to `final` at the training's end (Loshchilov and Hutter 2017, without
    restarts).

    Args:
        warmup: share of the training; 0 for none.
        final: the factor at the end.
        start: the factor at the first step.
    """

    def __init__(self, warmup: float = 0.02, final: float = 0.02, start: float = 0.01) -> None:
        super().__init__(warmup, start)
        _require_weights("WarmupCosine", final)
        self.final = final

    def __call__(self, share: float) -> float:
        if share < self.warmup or self.warmup == 1:
            return super().__call__(share)
        fallen = (1 - math.cos(math.pi * (share - self.warmup) / (1 - self.warmup))) / 2
        return 1 + (self.final - 1) * fallen


class Stages(Schedule):
    """A learning rate that falls in `count` stages, each `growth` times as long as the one before, from 1 to `final` by
    equal factors: 8, 3 and 0.1 are those of Burda et al. (2016), of 1, 3, 9, ... 2187 in 3280 epochs."""

    def __init__(self, count: int = 8, growth: float = 3.0, final: float = 0.1) -> None:
        if count < 2 or not growth > 0 or not final > 0:
            raise ValueError(
                f"Stages: expected count >= 2, growth > 0 and final > 0, got count={count}, growth={growth}, "
                f"final={final}."
            )
        lengths = [growth**stage for stage in range(count)]
        self.ends = [sum(lengths[: stage + 1]) / sum(lengths) for stage in range(count - 1)]
        self.count, self.final = count, final

    def __call__(self, share: float) -> float:
        return self.final ** (bisect_right(self.ends, share) / (self.count - 1))
