"""How a diffusion mixes data and noise, x_t = a(t) x + s(t) e with e ~ N(0, I); what its net says of them; and at which
times it is trained. Three slots that know nothing of each other: v-prediction (Salimans & Ho 2022) is the velocity on
the cosine path, flow prediction (Lipman et al. 2023; Liu et al. 2023) the velocity on the straight one.

Times run from 0, the data, to 1, the noise. Tensors of times broadcast with those of values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

LOG_SNR = 10.0
"""Log signal-to-noise ratio, log a^2 / s^2, of the data's end of a path, and its negative of the noise's end: noise of
0.7 % of the data's standard deviation is taken for none, and data of 0.7 % of the noise's for none."""


class Mix(NamedTuple):
    """Of a time: x_t = signal x + noise e, and its derivative signal_rate x + noise_rate e."""

    signal: Tensor
    noise: Tensor
    signal_rate: Tensor
    noise_rate: Tensor

    @property
    def turn(self) -> Tensor:
        """The determinant by which x and e follow from x_t and its derivative; above 0."""
        return self.signal * self.noise_rate - self.signal_rate * self.noise

    @property
    def speed(self) -> Tensor:
        """Standard deviation of the derivative for data of unit variance."""
        return (self.signal_rate**2 + self.noise_rate**2).sqrt()


class Path(ABC):
    """a(t) and s(t)."""

    @abstractmethod
    def at(self, time: Tensor) -> Mix:
        """Of times in 0 .. 1."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The time at which log a^2 / s^2 is this."""

    def ends(self) -> tuple[float, float]:
        """The times of the data's and of the noise's end, just within 0 and 1."""
        first, last = self.time_of(torch.tensor([LOG_SNR, -LOG_SNR], dtype=torch.float64)).tolist()
        return first, last


class CosinePath(Path):
    """a = cos(pi t / 2), s = sin(pi t / 2): keeps unit variance (Nichol & Dhariwal 2021)."""

    def at(self, time: Tensor) -> Mix:
        half = math.pi / 2
        signal, noise = (half * time).cos(), (half * time).sin()
        return Mix(signal, noise, -half * noise, half * signal)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return 2 / math.pi * (-log_snr / 2).exp().atan()


class StraightPath(Path):
    """a = 1 - t, s = t: a straight line from data to noise (rectified flow)."""

    def at(self, time: Tensor) -> Mix:
        one = torch.ones_like(time)
        return Mix(1 - time, time, -one, one)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2).sigmoid()


class Prediction(ABC):
    """What a net says of x_t."""

    @abstractmethod
    def target(self, mix: Mix, x: Tensor, e: Tensor) -> Tensor:
        """What it should say, of unit variance where the data are."""

    @abstractmethod
    def read(self, mix: Mix, x_t: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """x and e by what it says."""


class PredictClean(Prediction):
    """The data, x."""

    def target(self, mix: Mix, x: Tensor, e: Tensor) -> Tensor:
        return x

    def read(self, mix: Mix, x_t: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        return said, (x_t - mix.signal * said) / mix.noise


class PredictVelocity(Prediction):
    """The derivative of x_t by the time, divided by its standard deviation for data of unit variance: on the cosine
    path v = a e - s x, on the straight one (e - x) / sqrt 2."""

    def target(self, mix: Mix, x: Tensor, e: Tensor) -> Tensor:
        return (mix.signal_rate * x + mix.noise_rate * e) / mix.speed

    def read(self, mix: Mix, x_t: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        rate = said * mix.speed
        x = (mix.noise_rate * x_t - mix.noise * rate) / mix.turn
        return x, (mix.signal * rate - mix.signal_rate * x_t) / mix.turn


class Times(ABC):
    """The density of the times of training: with the prediction, it is the weight of the loss."""

    @abstractmethod
    def of(self, share: Tensor) -> Tensor:
        """The quantile function: shares in (0, 1) -> times in (0, 1)."""


class UniformTimes(Times):
    """Every time alike."""

    def of(self, share: Tensor) -> Tensor:
        return share


class LogitNormalTimes(Times):
    """logit t ~ N(mean, scale^2): most in the middle, where the net has most to learn (Esser et al. 2024, section 3.1,
    with a scale of 1). At that scale the data's end is seldom seen, and a small net's samples lose 2 to 8 % of their
    spread within a condition; at 1.5 they keep it to 1 % (tests/test_diffusion.py).

    Args:
        mean: above 0 for more noise.
        scale: standard deviation of the logit; 1.8 is nearly every time alike.
    """

    def __init__(self, mean: float = 0.0, scale: float = 1.5) -> None:
        if scale <= 0:
            raise ValueError(f"LogitNormalTimes.scale: expected a standard deviation above 0, got {scale}.")
        self.mean, self.scale = mean, scale

    def of(self, share: Tensor) -> Tensor:
        return (self.mean + self.scale * torch.special.ndtri(share)).sigmoid()
