"""Whether a text-to-image model's images show what is asked for, and are as varied as real ones.

Each figure stands beside its ceilings, by the same judge and measures: real test images, the VAE's reconstructions, and
images decoded from the real embedding without text. High accuracy alone is no success: a collapsed model, which draws
the same seven for every "seven", has it, too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae_lightning.measure.context import percent
from vae_lightning.measure.text2image.chain import ASKED_FOR, Chain
from vae_lightning.measure.text2image.embeddings import of_each_caption
from vae_lightning.metrics import mean_error
from vae_lightning.metrics.representation import share
from vae_lightning.metrics.samples import frechet_distance, nearest_distances
from vae_lightning.metrics.text2image import rank_correlation, spread_ratio, wilson_lower_bound
from vae_lightning.report.results import Section

LOOKED_AT = 1_000
"""Images whose nearest real ones are sought."""
KINDS = {
    "chain": "generated",
    "real_embedding": "from the real embedding, no text",
    "reconstruction": "VAE reconstructions",
    "real": "test images",
}


def images_of(chain: Chain) -> dict[str, Tensor]:
    """The generated images and their ceilings, by `KINDS`."""
    return dict(zip(KINDS, (chain.images, chain.from_real, chain.reconstructions, chain.real), strict=True))


def captions(chain: Chain) -> Section:
    """Whether generated images show the class and the style that their captions ask for."""
    section = Section("Captions: do the images show what is asked for")
    asked, traits = chain.asked, list(chain.source.grammar.traits)
    right_label = share(chain.judged(chain.real) == chain.label)
    section.add("judge_accuracy", "the judge's accuracy, test images", percent(right_label), "%")
    held_out = chain.held_out
    for kind, images in images_of(chain).items():
        seen_as = torch.cat([chain.judged(images)[:, None], chain.measured(images)[1]], 1)
        right = seen_as == asked  # (N, 1 + traits)
        parts = {"class": right[:, 0], **{name: right[:, 1 + i] for i, name in enumerate(traits)}, "all": right.all(1)}
        for name, values in parts.items():
            section.add(f"caption_{name}_{kind}", f"{name} right, {KINDS[kind]}", percent(share(values)), "%", "higher")
        for name in ("class", "all") if kind == "chain" else ():
            bound = 100 * wilson_lower_bound(parts[name]), math.nan
            section.add(f"caption_{name}_wilson", f"{name} right, lower end of the 95 % interval", bound, "%", "higher")
        for of, which in (("seen", ~held_out), ("held_out", held_out)) if held_out.any() else ():
            for name, values in parts.items():
                label = f"{name} right, {of.replace('_', '-')} combinations, {KINDS[kind]}"
                section.add(f"caption_{name}_{of}_{kind}", label, percent(share(values[which])), "%", "higher")
        if kind == "chain":
            chance = (seen_as == asked[chain.order])[:, 0], (seen_as == asked[chain.order]).all(1)
            for name, values in zip(("class", "all"), chance, strict=True):
                section.add(f"caption_{name}_shuffled", f"{name} right, shuffled captions", percent(share(values)), "%")
    if chain.new_order is not None:
        images = chain.from_text(chain.new_order)
        right = torch.cat([chain.judged(images)[:, None], chain.measured(images)[1]], 1) == asked
        for name, values in (("class", right[:, 0]), ("all", right.all(1))):
            label = f"{name} right, held-out order of words"
            section.add(f"caption_{name}_new_order", label, percent(share(values)), "%", "higher")
    for name, label, images in (
        ("text_embedding", "the caption's embedding in the image's place", chain.from_text_embedding),
        ("strange", "words permuted", chain.from_strange_words),
    ):
        found = share(chain.judged(images) == chain.label)
        section.add(f"caption_class_{name}", f"class right, {label}", percent(found), "%")
    for kind, images in images_of(chain).items():
        measured = chain.measured(images)[0]
        for i, name in enumerate(traits):
            found = rank_correlation(asked[:, 1 + i], measured[:, i])
            section.add(f"rank_{name}_{kind}", f"{name}, rank correlation, {KINDS[kind]}", found, "", "higher")
    section.notes.append(
        "The class is seen by a classifier that is trained here, on real training images; style is measured. Accuracy "
        "counts only beside the spread: a collapsed model is always right."
    )
    return section


def spread(chain: Chain) -> Section:
    """Whether the images of one caption are as varied as real ones."""
    section = Section("Spread of pixels within a caption, over that of the test images")
    unit = {kind: chain.tested.unit(images) for kind, images in images_of(chain).items()}
    real = unit.pop("real")
    for kind, images in unit.items():
        section.add(f"pixel_spread_{kind}", KINDS[kind], spread_ratio(images, real, chain.caption), "")
    of_each_caption(section, "pixel_spread", unit["chain"], real, chain.caption)
    back = spread_ratio(unit["chain"], unit["reconstruction"], chain.caption)
    section.add("pixel_spread_reconstructions", "generated, over the VAE reconstructions'", back, "")
    return section


def decoder(chain: Chain) -> Section:
    """Whether the decoder follows the embedding that it is given, or the text."""
    section, label, order = Section("Decoder: what it follows"), chain.label, chain.order
    kept = chain.judged(chain.from_real) == label
    section.add("real_embedding", "class of the real embedding kept, text dropped", percent(share(kept)), "%", "higher")
    own = chain.decoded({"embedding": chain.real_embedding, "text": chain.text_embedding})
    both = percent(share(chain.judged(own) == label))
    section.add("real_embedding_text", "class of the real embedding kept, its text told", both, "%", "higher")
    swapped = chain.decoded({"embedding": chain.real_embedding, "text": chain.text_embedding[order]})
    seen_as, other = chain.judged(swapped), label[order] != label
    image, text = (percent(share((seen_as == asked)[other])) for asked in (label, label[order]))
    section.add("swapped_embedding", "another caption's embedding: follows the embedding", image, "%", "higher")
    section.add("swapped_text", "another caption's embedding: follows the text", text, "%", "lower")
    return section


def distance(chain: Chain) -> Section:
    """How far generated images are from test images, in the judge's features."""
    section = Section("Fréchet distance to the test images, in the judge's features")
    real = chain.features(chain.real)
    train = chain.tested.train(len(real)).image
    for name, label, images in (
        ("chain", "generated", chain.images),
        ("reconstruction", "VAE reconstructions", chain.reconstructions),
        ("real_embedding", "from the real embedding, no text", chain.from_real),
        ("caption_only", "from the caption, no embedding", chain.from_caption),
        ("text_embedding", "from the caption's embedding in the image's place", chain.from_text_embedding),
        ("real", "training images", train),
    ):
        section.add(f"chain_frechet_{name}", label, (frechet_distance(real, chain.features(images)), math.nan), "", "")
    return section


def neighbours(chain: Chain) -> Section:
    """Whether images are nearer to training images than to test images, as copies are; and how long they take."""
    section = Section("Nearest training image over nearest test image, distances of pixels")
    train, test, val = (chain.tested.data.fixed(split) for split in ("train", "test", "val"))
    assert test.captions is not None
    known = test[(test.captions.held_out == 0).nonzero()[:, 0]].image  # validation images are of no other captions
    made = chain.images[~chain.held_out][:LOOKED_AT]
    for name, label, images in (("chain", "generated", made), ("real", "validation images", val.some(LOOKED_AT).image)):
        near, far = (nearest_distances(images, others).distances.double() for others in (train.image, known))
        section.add(f"nearest_{name}", label, mean_error(near / far.clamp_min(1e-9)), "")
    section.notes.append("Of seen combinations; below the validation images' it would be copying.")
    section.add("generation_seconds", f"generating {ASKED_FOR} images", (chain.seconds(), math.nan), "s", "lower")
    return section
