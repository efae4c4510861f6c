"""The density of a site of a trained run, as a part of the next."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.conditionals import SiteDensity
from vae_lightning.core import Shape
from vae_lightning.models.frozen import FromRun


class FrozenSite(FromRun, SiteDensity):
    """The density of one site of a trained run's story, in the place of such a one.

    Args:
        event_shape: of the site's value, as the run has it.
        conditions: {name: numbers of a condition's vector}, as the run has them.
        run: checkpoint file or run folder.
        name: the attribute of the run's model: "prior" or "decoder" of an `UnCLIP`.
        record: see `FrozenWhole`.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the run's model has no such density, or one of another shape.
    """

    def __init__(
        self,
        event_shape: Shape,
        conditions: Mapping[str, int],
        run: str,
        name: str = "prior",
        record: str | None = None,
    ) -> None:
        super().__init__(event_shape, conditions)
        model, _ = self._open(run, record)
        part = getattr(model, name, None)
        if not isinstance(part, SiteDensity):
            raise ValueError(f"{run}: expected a model with a density `{name}`, got {type(model).__name__}.")
        found, asked = (part.event_shape, part.sizes), (self.event_shape, self.sizes)
        if found != asked:
            raise ValueError(
                f"{run}: expected a density of a value of shape {asked[0]} given {asked[1]}, got {found[0]} given "
                f"{found[1]}: choose a run with the same image-text model and latents."
            )
        self.part = part
        self._freeze()

    def forward(self, context: Mapping[str, Tensor] | None = None) -> Distribution:
        self._require_weights()
        distribution: Distribution = self.part(context)
        return distribution

    def fit(self, value: Tensor, context: Mapping[str, Tensor]) -> None:
        """Nothing: it was fitted once."""
