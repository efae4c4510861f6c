"""Why the cosine to the text tells nothing of a diffusion prior: it rises as steps are taken away."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vae_lightning.core import seeded
from vae_lightning.distributions import Diffused, Sampler
from vae_lightning.measure.text2image.chain import Chain
from vae_lightning.metrics import mean_error
from vae_lightning.metrics.samples import in_batches
from vae_lightning.metrics.text2image import spread_ratio
from vae_lightning.report.results import Section

STEPS = (1, 2, 3, 5, 10, 20)


def steps(chain: Chain) -> Section:
    """The prior's cosine to the text and its spread by steps of Euler's method, which is DDIM's (Song, Meng & Ermon
    2021), from the same noise."""
    section, text = Section("Prior: by steps of Euler's method (DDIM)"), chain.text_embedding
    if not isinstance(chain.model.prior({"text": text[:1].to(chain.tested.device)}), Diffused):
        return section
    for count in STEPS:
        made = _embeddings(chain, count)
        unit = "step" if count == 1 else "steps"
        cosine = mean_error(F.cosine_similarity(made.double(), text.double(), dim=1))
        section.add(f"cosine_text_{count}_steps", f"cosine to the caption's embedding, {count} {unit}", cosine, "")
        spread = spread_ratio(made, chain.real_embedding, chain.caption)
        label = f"spread within a caption, over the real embeddings', {count} {unit}"
        section.add(f"embedding_spread_{count}_steps", label, spread, "")
    section.notes.append(
        "A cosine that rises as steps are taken away, or that lies above the real embeddings', is spread that is lost: "
        "the mean of a caption's embeddings lies nearer to its text than the embeddings do. Look at the spread."
    )
    return section


def _embeddings(chain: Chain, count: int) -> Tensor:
    """One draw for each caption by so many steps, (N, E)."""

    def drawn(text: Tensor) -> Tensor:
        p = chain.model.prior({"text": text.to(chain.tested.device)})
        assert isinstance(p, Diffused)
        p.sampler = Sampler(steps=count, heun=False)
        return p.sample().cpu()

    with seeded(2, chain.tested.device):
        return in_batches(drawn, chain.text_embedding)
