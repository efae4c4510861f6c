"""The objective of vector quantisation."""

from __future__ import annotations

from vae_lightning.core import Batch, Loss, Model, Objective
from vae_lightning.objectives.elbo import commitment, require_a_prior_of_codes, require_stories


class VQ(Objective):
    """-log p(x|codes) - log p(codes) + w |e - codes|^2, e the encoder's vectors, averaged over the batch: the bound in
    nats per image, and a commitment loss that draws the vectors to their codes (van den Oord et al. 2017, eq. 3; the
    codes follow the vectors by averages, not by this loss). The squares are summed over the numbers of all positions,
    as the other terms are over an image, so that w means the same at any batch size and any size of the map.

    No gradient passes from the rate to the encoder: it is what the prior learns by.

    Args:
        commitment: w.
    """

    def __init__(self, commitment: float = 0.25) -> None:
        super().__init__()
        if commitment < 0:
            raise ValueError(f"VQ.commitment: expected at least 0, got {commitment}.")
        self.commitment = commitment

    def check(self, model: Model, batch: Batch) -> None:
        trace = require_stories(model, "VQ").trace(batch)
        if commitment(trace) is None:
            got = ", ".join(type(site.q).__name__ for site in trace.sites.values())
            raise ValueError(
                "the objective VQ expects an encoder with a learned codebook (CodePosterior with VectorQuantiser), got "
                f"{got}: choose the objective ELBO, or such an encoder (configs/encoder/codes_vector.yaml)."
            )
        require_a_prior_of_codes(trace)

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "VQ")
        trace = model.trace(batch)
        terms = {name: value.mean() for name, value in trace.scores().items()}
        distance = commitment(trace)
        assert distance is not None
        terms["commitment"] = distance.mean()
        value = terms["distortion"] + terms["rate"] + self.commitment * terms["commitment"]
        return Loss(value, {name: term.detach() for name, term in terms.items()}, model.statistics(trace))
