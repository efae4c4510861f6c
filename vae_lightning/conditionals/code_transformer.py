"""p(codes) by an autoregressive transformer (van den Oord et al. 2017, section 4.1, has a PixelCNN there)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from vae_lightning.conditionals.codes import PriorOfCodes
from vae_lightning.core import Shape, Spec
from vae_lightning.distributions import AutoregressiveCategorical, Choice, Codes, Step
from vae_lightning.nets import Cache, Transformer, at_least_float32, zeroed


class CodeTransformer(PriorOfCodes):
    """p(z) = prod_i p(c_i | c_1 .. c_{i-1}), or given a label too: exact, in one pass; a sample takes a pass of one
    position a code, with a cache. Codes come in the order of a map's rows. Uniform at the start.

    It is learned with the model, to which it passes no gradient through codes that are chosen by a quantiser, or as a
    second stage on a frozen one by `SiteNLL`.

    Args:
        latent_shape: (d,).
        spec: of the images, with their classes where it is told labels.
        width: numbers at a position of the transformer.
        depth: its blocks.
        heads: of each attention.
        dropout: probability of dropping in training.
        labels: be told the label, p(z|y).
    """

    start: nn.Embedding
    place: nn.Parameter
    code: nn.Embedding
    logits: nn.Linear

    def __init__(
        self,
        latent_shape: Shape,
        spec: Spec,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        labels: bool = False,
    ) -> None:
        super().__init__(latent_shape)
        self.needs = ("label",) if labels else ()
        self.classes = spec.require_classes("CodeTransformer.labels") if labels else 1
        self.choice = Choice()
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout)

    def build(self, positions: int, codes: int) -> None:
        width = self.transformer.width
        self.start, self.code = nn.Embedding(self.classes, width), nn.Embedding(codes, width)
        self.place = nn.Parameter(0.02 * torch.randn(positions, width))
        self.logits = zeroed(nn.Linear(width, codes))
        for embedding in (self.start, self.code):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, context: Mapping[str, Tensor] | None = None) -> Distribution:
        """{"label": (B,)} -> a distribution with batch_shape (B,); () of none."""
        book = self.book
        label = context["label"] if context and self.needs else torch.zeros((), dtype=torch.long).to(self.place.device)

        def first(lead: Size) -> Tensor:
            """(N, 1, width): what asks for the first code."""
            start: Tensor = self.start(label) + self.place[0]
            return start.expand(*lead, -1).reshape(-1, 1, start.shape[-1])

        def teach(codes: Tensor) -> Tensor:
            *lead, count = codes.shape
            seen = self.code(codes.reshape(-1, count)[:, :-1]) + self.place[1:]
            out = self.transformer(torch.cat((first(Size(lead)), seen), 1))
            return at_least_float32(self.logits(out)).reshape(*lead, count, -1)

        def begin(lead: Size) -> Step:
            cache = Cache()

            def step(before: Tensor | None) -> Tensor:
                if before is None:
                    x = first(lead)
                else:
                    x = (self.code(before) + self.place[len(cache)]).reshape(-1, 1, self.transformer.width)
                return at_least_float32(self.logits(self.transformer(x, cache)[:, 0])).reshape(*lead, -1)

            return step

        indices = AutoregressiveCategorical(teach, begin, len(self.place), label.shape, self.choice)
        return Codes(book, indices)
