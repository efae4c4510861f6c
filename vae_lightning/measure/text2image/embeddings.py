"""Whether the prior of a text-to-image model is that of real images' embeddings: as varied, and in the same place."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from vae_lightning.measure.context import percent
from vae_lightning.measure.text2image.chain import Chain
from vae_lightning.metrics import mean_error
from vae_lightning.metrics.retrieval import median_error
from vae_lightning.metrics.text2image import cosine_to_others, matched, spread_of_each, spread_ratio, two_sample
from vae_lightning.report.results import Section

FEWEST = 20
"""Images of a caption from which on its own spread is told."""
FEWEST_TOLD_APART = 100
"""Pairs of embeddings from which on a classifier is trained to tell them apart."""


def prior(chain: Chain) -> Section:
    """Whether the prior's embeddings are those of real images of the same caption."""
    section, caption = Section("Prior: embeddings of images, from their captions"), chain.caption
    made, real, text = chain.embedding, chain.real_embedding, chain.text_embedding
    label = "spread within a caption, over the real embeddings'"
    section.add("embedding_spread", label, spread_ratio(made, real, caption), "")
    of_each_caption(section, "embedding_spread", made, real, caption)
    held_out = chain.held_out
    for of, which in (("seen", ~held_out), ("held_out", held_out)) if held_out.any() else ():
        if not math.isnan((found := spread_ratio(made[which], real[which], caption[which])).value):
            section.add(f"embedding_spread_{of}", f"the same, {of.replace('_', '-')} combinations", found, "")
    to_text = [F.cosine_similarity(it.double(), text.double(), dim=1) for it in (made, real)]
    to_others = [cosine_to_others(it, real, caption, own=own) for it, own in ((made, False), (real, True))]
    for name, what, (ours, theirs) in (
        ("text", "the caption's embedding", to_text),
        ("others", "other real embeddings of the caption", to_others),
    ):
        section.add(f"cosine_{name}", f"cosine to {what}", mean_error(ours), "")
        section.add(f"cosine_{name}_real", f"cosine to {what}, real embeddings", mean_error(theirs), "")
        section.add(f"cosine_{name}_gap", "the difference", mean_error(ours - theirs), "")
    _told_apart(section, chain)
    return section


def _told_apart(section: Section, chain: Chain) -> None:
    """The two-sample test of the prior, on the captions of which training has images, beside that of training images'
    embeddings, which no prior can be asked to go below."""
    train = chain.tested.data.fixed("train")
    assert train.captions is not None
    rows, partners = matched(chain.caption, train.captions.meaning)
    made, real, text = chain.embedding, chain.real_embedding, chain.text_embedding
    if len(rows) >= FEWEST_TOLD_APART:
        seen = chain.embedded(train.take(partners))
        found, floor = (two_sample(it, real[rows], text[rows]) for it in (made[rows], seen))
        section.add("two_sample", "told from the real embeddings", percent(found), "%", "lower")
        section.add("two_sample_floor", "training images' told from them", percent(floor), "%")
        own = spread_ratio(seen, real[rows], chain.caption[rows])
        section.add("embedding_spread_train", "spread of training images', over the real embeddings'", own, "")
    which = chain.held_out
    if int(which.sum()) >= FEWEST_TOLD_APART:
        found = two_sample(made[which], real[which], text[which])
        section.add("two_sample_held_out", "told apart, held-out combinations", percent(found), "%", "lower")
    elif which.any():
        section.notes.append(
            f"Whether held-out combinations are told apart takes {FEWEST_TOLD_APART} of their images, and the test "
            f"looked at {int(which.sum())}: raise --model.evaluation.generated."
        )
    section.notes.append("Told from the real embeddings: 50 % is chance; the classifier knows the caption, too.")


def of_each_caption(section: Section, name: str, made: Tensor, real: Tensor, caption: Tensor) -> None:
    """The median over captions, the smallest and the largest, where captions have images enough."""
    each = spread_of_each(made, real, caption, FEWEST)
    if not len(each):
        section.notes.append(f"No caption has the {FEWEST} images that its own spread takes.")
        return
    section.add(f"{name}_median", "the median over captions", median_error(each[:, 0]), "")
    for what, row in (("smallest", each[:, 0].argmin()), ("largest", each[:, 0].argmax())):
        value, error = each[row].tolist()
        section.add(f"{name}_{what}", f"the {what}", (value, error), "")
    section.notes.append(f"Of the {len(each)} captions with {FEWEST} images or more, each.")
