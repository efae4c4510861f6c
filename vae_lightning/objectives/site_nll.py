"""A story's sites, fitted one by one."""

from __future__ import annotations

from vae_lightning.core import Batch, Loss, Model, Objective
from vae_lightning.distributions import Diffused
from vae_lightning.objectives.elbo import require_stories


class SiteNLL(Objective):
    """-log p(value | what comes before it) at one site, for draws of the sites' posteriors, averaged over the batch:
    the site's own density is fitted to what the posteriors say, and nothing behind it is told. In nats per image where
    the density has a log_prob of its own, such as an autoregressive one. A diffusion is trained by its `loss`, the
    squared error of its net at times of its own choice, of which -log p has another weight; what validation shows is
    always -log p, or its bound.

    Args:
        site: the site's name, such as "embedding" or "z" of an `UnCLIP`.
    """

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def check(self, model: Model, batch: Batch) -> None:
        require_stories(model, "SiteNLL").trace(batch, until=self.site)

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        site = require_stories(model, "SiteNLL").trace(batch, until=self.site).sites[self.site]
        if isinstance(site.p, Diffused):
            value = site.p.loss(site.z).mean()
            return Loss(value, {f"squared_error_{self.site}": value.detach()})
        value = -site.p.log_prob(site.z).mean()
        return Loss(value, {f"nll_{self.site}": value.detach()})
