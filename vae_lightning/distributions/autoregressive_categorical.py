"""Categorical numbers one after the other, and how the next is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.types import _size

from vae_lightning.distributions.bins import Step


@dataclass(frozen=True)
class Choice:
    """How a next code is drawn by its logits: what a sampler leaves out for the sake of likely samples.

    Args:
        temperature: divides the logits; 1 leaves them.
        top_k: only so many of the likeliest; None for all (Fan et al. 2018).
        top_p: only the likeliest whose probabilities sum to this (Holtzman et al. 2020); 1 for all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                "expected temperature > 0, top_k >= 1 and 0 < top_p <= 1, got "
                f"temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}."
            )

    def __call__(self, logits: Tensor) -> Tensor:
        """(*S, K) -> logits of the codes that are left, -inf for the others."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            falling, order = logits.softmax(-1).sort(-1, descending=True)
            beyond = falling.cumsum(-1) - falling >= self.top_p  # the likeliest is never left out
            logits = logits.masked_fill(beyond.gather(-1, order.argsort(-1)), -torch.inf)
        return logits


class AutoregressiveCategorical(Distribution):
    """p(c) = prod_i p(c_i | c_1 .. c_{i-1}) over n categorical numbers, event_shape (n,), int64; exact.

    Args:
        teach: (*S, n) int64 -> logits (*S, n, K) of each, given those before it.
        begin: leading shape S -> a step that is called n times.
        positions: n.
        batch_shape: of what it is conditional on.
        choice: what is done to the logits, of samples and of probabilities alike.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(
        self,
        teach: Callable[[Tensor], Tensor],
        begin: Callable[[Size], Step],
        positions: int,
        batch_shape: Sequence[int],
        choice: Choice | None = None,
    ) -> None:
        self.teach, self.begin, self.choice = teach, begin, Choice() if choice is None else choice
        super().__init__(Size(batch_shape), Size((positions,)), validate_args=False)

    def chosen(self, choice: Choice) -> AutoregressiveCategorical:
        """The same with the codes drawn otherwise."""
        return AutoregressiveCategorical(self.teach, self.begin, self.event_shape[0], self.batch_shape, choice)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> AutoregressiveCategorical:
        return AutoregressiveCategorical(self.teach, self.begin, self.event_shape[0], batch_shape, self.choice)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(c), nats, (*S, n) -> S."""
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        value = value.expand(*lead, -1)
        logits = self.choice(self.teach(value))
        return logits.log_softmax(-1).gather(-1, value[..., None]).squeeze(-1).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        step, found = self.begin(Size(sample_shape) + self.batch_shape), list[Tensor]()
        for _ in range(self.event_shape[0]):
            logits = self.choice(step(found[-1] if found else None))
            found.append(Categorical(logits=logits, validate_args=False).sample())
        return torch.stack(found, -1)
