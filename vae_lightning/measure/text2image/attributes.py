"""Whether generated images show what captions say, where an `Attributes` finds it in them; and what of it is memory.

Kinds are seen by classifiers, colours are measured, neither by CLIP. The classifiers are trained on all images of every
split: they are to know each combination that may be asked for. How well one does that has never seen the test images
stands beside it. Several images are made of each caption; standard errors are over captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.data import Images
from vae_lightning.data.captions import Captions
from vae_lightning.measure.context import HELD_VALUES, percent
from vae_lightning.measure.text2image.chain import Chain
from vae_lightning.measure.text2image.images import KINDS, images_of
from vae_lightning.metrics import mean_error
from vae_lightning.metrics.samples import in_batches, nearer, nearest_distances, train_classifier
from vae_lightning.metrics.text2image import Attributes, ColourJudge, Said
from vae_lightning.report.results import Section

MOST_SAMPLES = 8
"""Images of each caption."""
STEPS = 300
"""Of training a judge, on batches of at most 256 images."""
JUDGED_BY = 60_000

Judge = Callable[[Tensor, Sequence[Said]], Tensor]
"""Images (N, C, H, W), and what is said of them, of which all but the attribute may be looked at -> (N,), values."""


class Pictures(NamedTuple):
    """Images whose captions say something of their attributes."""

    image: Tensor  # (N, C, H, W) uint8
    said: list[Said]

    def of(self, name: str) -> list[str]:
        return [said.values[name] for said in self.said]


class Asked(NamedTuple):
    """N captions of test images, R images of each: rows of one caption are N apart."""

    chain: Chain
    said: list[Said]  # R N
    captions: int  # N

    @property
    def each(self) -> int:
        """R."""
        return len(self.said) // self.captions

    def mean(self, values: Tensor, which: Tensor | None = None) -> tuple[float, float]:
        """Of (R N,) values, and its error over captions; of some captions (N,) bool."""
        by_caption = values.double().view(-1, self.captions).mean(0)
        return mean_error(by_caption if which is None else by_caption[which])


def asked_for(chain: Chain, held_out: bool = False) -> Asked | None:
    """The test images that are judged, or those of held-out combinations alone; None where there are none."""
    wanted = wanted_of(chain)
    is_judged = torch.tensor([it is not None for it in wanted.said(texts(chain.captions))])
    if held_out:
        is_judged &= chain.held_out
    rows = chain.chosen[is_judged.to(chain.chosen.device)]
    if not len(rows):
        return None
    chain = replace(chain, rows=rows.repeat(max(1, min(MOST_SAMPLES, chain.generated // len(rows)))))
    return Asked(chain, [it for it in wanted.said(texts(chain.captions)) if it is not None], len(rows))


def attributes(chain: Chain) -> Section:
    """Whether generated images show what their captions say of each attribute, in seen and in held-out combinations."""
    section, asked = Section("Attributes: do the images show what is asked for"), asked_for(chain)
    if asked is None:
        section.notes.append("No test image's caption is one that --model.evaluation.attributes describes.")
        return section
    chain, wanted = asked.chain, wanted_of(chain)
    parts = {name: pictures(chain.tested.data.fixed(name), wanted) for name in ("train", "val", "test")}
    known = joined(parts["train"], parts["val"])
    everything = joined(known, parts["test"])
    right = {kind: dict[str, Tensor]() for kind in (*KINDS, "shuffled")}
    new = {}
    for name in wanted.names:
        values = {value: i for i, value in enumerate(sorted(set(everything.of(name))))}
        label = torch.tensor([values[it.values[name]] for it in asked.said])
        if name in wanted.colours:
            judge = colour_judge(known, name, values, chain)
        else:
            judge = kind_judge(everything, name, values, chain)
            new[name] = kind_judge(known, name, values, chain)(chain.real, asked.said) == label
        for kind, images in images_of(chain).items():
            seen_as = judge(images, asked.said)
            right[kind][name] = seen_as == label
            if kind == "chain":
                right["shuffled"][name] = seen_as == label[chain.order]
    for by_name in right.values():
        by_name["all"] = torch.stack(list(by_name.values())).all(0)
    held_out = chain.held_out[: asked.captions]
    both = {"_seen": ~held_out, "_held_out": held_out} if held_out.any() and not held_out.all() else {}
    for of, which in {"": None, **both}.items():
        combinations = f", {of[1:].replace('_', '-')} combinations" if of else ""
        for kind, described in KINDS.items():
            for name, hits in right[kind].items():
                label_of, found = f"{name} right{combinations}, {described}", percent(asked.mean(hits, which))
                section.add(f"attribute_{name}{of}_{kind}", label_of, found, "%", "higher")
        for name, hits in new.items():
            label_of = f"{name} right{combinations}, test images, a judge that never saw them"
            section.add(f"attribute_{name}{of}_new", label_of, percent(asked.mean(hits, which)), "%")
    for name, hits in right["shuffled"].items():
        section.add(f"attribute_{name}_shuffled", f"{name} right, shuffled captions", percent(asked.mean(hits)), "%")
    count = ", ".join(f"{len(set(everything.of(name)))} values of {name}" for name in wanted.names)
    section.notes.append(f"{asked.each} images of each of {asked.captions} captions; {count}.")
    return section


def memory(chain: Chain) -> Section:
    """Whether images of held-out combinations are copies of training images, none of which shows the combination."""
    section, asked = Section("Held-out combinations: memory or composition"), asked_for(chain, held_out=True)
    if asked is None:
        return section
    chain, wanted = asked.chain, wanted_of(chain)
    train = chain.tested.data.fixed("train")
    assert train.captions is not None
    of_train = wanted.said(texts(train.captions))
    distances = {}
    for kind, images in images_of(chain).items():
        found = nearest_distances(images, train.image)
        distances[kind] = chain.tested.unit(found.distances)
        label = f"distance to the nearest training image, {KINDS[kind]}"
        section.add(f"memory_distance_{kind}", label, asked.mean(distances[kind]), "")
        near = [of_train[i] for i in found.indices.tolist()]
        for name in wanted.names:
            pairs = zip(near, asked.said, strict=True)
            same = torch.tensor([it is not None and it.values[name] == own.values[name] for it, own in pairs])
            label = f"whose caption says the {name} that is asked for, {KINDS[kind]}"
            section.add(f"memory_{name}_{kind}", label, percent(asked.mean(same)), "%")
    for kind in ("chain", "real_embedding", "reconstruction"):
        closer = percent((nearer(distances[kind], distances["real"]), math.nan))
        label = f"nearer to a training image than the median test image is, {KINDS[kind]}"
        section.add(f"memory_nearer_{kind}", label, closer, "%")
    section.notes.append(
        "50 % nearer is what new images have; blurred ones are near to everything. Distances are of pixels in [0, 1]."
    )
    return section


# -- what is known of images and captions ------------------------------------------------------------------------------


def wanted_of(chain: Chain) -> Attributes:
    assert chain.attributes is not None
    return chain.attributes


def texts(captions: Captions) -> list[str]:
    """Of each image the caption that says all there is to say."""
    return [captions.meanings[i] for i in captions.meaning.tolist()]


def pictures(images: Images, wanted: Attributes) -> Pictures:
    """Those whose captions say something of the attributes, as many as may be held."""
    assert images.captions is not None
    images = images.some(images.at_most(JUDGED_BY, HELD_VALUES))
    assert images.captions is not None
    said = wanted.said(texts(images.captions))
    rows = torch.tensor([i for i, it in enumerate(said) if it is not None], dtype=torch.int64)
    return Pictures(images.take(rows.to(images.stored.device)).cpu(), [it for it in said if it is not None])


def joined(a: Pictures, b: Pictures) -> Pictures:
    return Pictures(torch.cat([a.image, b.image]), a.said + b.said)


def colour_judge(train: Pictures, name: str, values: dict[str, int], chain: Chain) -> Judge:
    """By the colours of training images."""
    label = torch.tensor([values[value] for value in train.of(name)])
    judge = ColourJudge(train.image, label, [it.rest[name] for it in train.said], chain.tested.data.levels)
    return lambda images, said: judge(images, [it.rest[name] for it in said])


def kind_judge(known: Pictures, name: str, values: dict[str, int], chain: Chain) -> Judge:
    """By a classifier of the images that it is to know."""
    label, device = torch.tensor([values[value] for value in known.of(name)]), chain.tested.device
    epochs = math.ceil(STEPS / math.ceil(len(label) / 256))
    judge = train_classifier(known.image.to(device), label.to(device), chain.tested.data.levels, epochs)
    return lambda images, said: in_batches(judge, images.to(device)).argmax(1).cpu()
