"""p(embedding | text) by an autoregressive transformer (Ramesh et al. 2022, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vae_lightning.conditionals.conditions import Conditions, SiteDensity
from vae_lightning.core import Shape
from vae_lightning.distributions import Autoregressive, Bins, Step
from vae_lightning.nets import Cache, PrincipalComponents, Transformer, at_least_float32, zeroed

NARROWEST = 1e-3
"""The narrowest bin, in standard deviations, so that ties of the training data make no infinite density."""


class AutoregressivePrior(SiteDensity):
    """p(value | conditions), principal component for principal component, the largest first: each is cut into bins at
    the training data's quantiles, and a causal transformer gives the bins' probabilities by those of the components
    before. Uniform inside a bin, and exponential beyond the outermost, it is a density of the continuous value, and
    `log_prob` is exact: one pass, teacher-forced. `sample` takes a pass of one position a component, with a cache.

    Components that are left out are Gaussian and hang on nothing.

    Args:
        event_shape: (E,).
        conditions: {name: numbers of a condition's vector}; each is a position of the prefix.
        components: how many principal components; null for all.
        bins: of each component, at least 4.
        width: numbers at a position of the transformer.
        depth: its blocks.
        heads: of each attention.
        dropout: probability of dropping in training.
        drop: {name: probability of dropping a condition in training}; 0 for those that are not named.
    """

    edges: Tensor
    tails: Tensor

    def __init__(
        self,
        event_shape: Shape,
        conditions: Mapping[str, int],
        components: int | None = None,
        bins: int = 32,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
        drop: dict[str, float] | None = None,
    ) -> None:
        super().__init__(event_shape, conditions)
        if bins < 4:
            raise ValueError(f"AutoregressivePrior.bins: expected at least 4, got {bins}.")
        self.standardisation = PrincipalComponents(event_shape, components)
        self.conditions = Conditions(conditions, drop or {})
        self.prefix = nn.ModuleDict({name: nn.Linear(size, width) for name, size in conditions.items()})
        count = self.standardisation.inner_shape[0]
        quantiles = torch.special.ndtri(torch.linspace(0, 1, bins + 1)[1:-1])  # N(0, 1)'s, until data are seen
        self.register_buffer("edges", quantiles.repeat(count, 1))
        self.register_buffer("tails", torch.full((count, 2), 0.5))
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Parameter(0.02 * torch.randn(count, width))  # of the component that a position tells of
        self.bin = nn.Embedding(count * bins, width)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout)
        self.logits = zeroed(nn.Linear(width, bins))  # every bin alike, as the quantiles say
        self.count, self.bins = count, bins

    def forward(self, context: Mapping[str, Tensor] | None = None) -> Autoregressive:
        """{name: (*S, size)} of conditions, any of which may be missing -> a distribution with batch_shape S."""
        context = context or {}
        told = self.conditions(context)
        front = [layer(told[name]) for name, layer in self.prefix.items()]  # each (*S, width)

        def prefix(lead: torch.Size) -> Tensor:
            """(N, conditions + 1, width): the conditions, and the start."""
            shape = (*lead, self.start.shape[0])
            return torch.stack([part.expand(shape) for part in (*front, self.start)], -2).flatten(0, len(lead) - 1)

        def teach(bins: Tensor) -> Tensor:
            lead = bins.shape[:-1]
            flat = bins.reshape(-1, self.count)
            first = prefix(torch.Size(lead) if lead else torch.Size((1,)))
            x = torch.cat((first[:, :-1], first[:, -1:] + self.place[0], self._seen(flat[:, :-1], 0)), 1)
            out = self.transformer(x, prefix=len(front))[:, len(front) :]
            return at_least_float32(self.logits(out)).reshape(*lead, self.count, self.bins)

        def begin(lead: torch.Size) -> Step:
            cache = Cache()

            def step(before: Tensor | None) -> Tensor:
                told_of = max(0, len(cache) - len(front))  # how many components the cache knows of
                if before is None:
                    first = prefix(lead or torch.Size((1,)))
                    x = torch.cat((first[:, :-1], first[:, -1:] + self.place[0]), 1)
                    out = self.transformer(x, cache, prefix=len(front))
                else:
                    out = self.transformer(self._seen(before.reshape(-1, 1), told_of - 1), cache)
                return at_least_float32(self.logits(out[:, -1])).reshape(*lead, self.bins)

            return step

        return Autoregressive(
            teach, begin, Bins(self.edges, self.tails), self.conditions.lead(context), self.standardisation
        )

    def _seen(self, bins: Tensor, first: int) -> Tensor:
        """The positions (N, n, width) that tell the bins (N, n) of components from `first` on, and ask for the next."""
        number = torch.arange(first, first + bins.shape[1], device=bins.device)
        told: Tensor = self.bin(bins + number * self.bins)
        return told + self.place[number + 1]

    @torch.no_grad()
    def fit(self, value: Tensor, context: Mapping[str, Tensor]) -> None:
        """Fits components, bins and the conditions' standardisation to training values (N, *event) with conditions."""
        self.standardisation.fit(value)
        self.conditions.fit(context)
        y = self.standardisation(value)[0].T  # (k, N)
        shares = torch.linspace(0, 1, self.bins + 1, dtype=y.dtype, device=y.device)[1:-1]
        rising = NARROWEST * torch.arange(self.bins - 1, dtype=y.dtype, device=y.device)
        edges = (y.quantile(shares, 1).T - rising).cummax(1).values + rising
        self.edges.copy_(edges)
        below, above = (edges[:, :1] - y).clamp_min(0), (y - edges[:, -1:]).clamp_min(0)
        for side, beyond in enumerate((below, above)):
            mean = beyond.sum(1) / (beyond > 0).sum(1).clamp_min(1)
            self.tails[:, side] = mean.clamp_min(NARROWEST)
