"""How well images and captions find each other.

Legend of shapes: N images of a pass, U different captions among theirs, E numbers of an embedding.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from vae_lightning.core import Batch, ImageTextModel, Model, Spec, image_of
from vae_lightning.metrics.base import Evaluation, Headline
from vae_lightning.metrics.mean import MeanWithError, from_all_processes
from vae_lightning.tokens import Tokens

ROWS = 1024
"""Images or captions that are compared with all others at a time."""


def ranks(query: Tensor, found: Tensor, is_right: Tensor) -> Tensor:
    """The place of the first right answer when answers (M, E) are sorted by their cosine to each query (N, E), nearest
    first, (N,) from 1 on: one behind the wrong ones that are as near as it or nearer, so that towers that give
    everything one place know nothing. `is_right` (N, M) bool, at least one a query."""
    cosine = query @ found.T
    best = cosine.masked_fill(~is_right, -torch.inf).amax(1, keepdim=True)
    return 1 + ((cosine >= best - 1e-6) & ~is_right).sum(1)


def median_error(values: Tensor) -> tuple[float, float]:
    """The median of (N,), and half the distance of the order statistics at one standard error of their rank, sqrt(N) /
    2, on both sides: its standard error without assuming a density."""
    half = 0.5 / math.sqrt(len(values))
    at = torch.tensor([0.5 - half, 0.5, 0.5 + half], dtype=torch.float64).clamp(0, 1)
    below, median, above = values.double().quantile(at).tolist()
    return median, (above - below) / 2


class Retrieval(Evaluation):
    """Recall of the captions of a pass, all different ones, and of its images; zero-shot classification.

    An image's caption is `caption` of a batch, the one that says all there is to say, or where there is none `text`.
    `text_recall_k` is the share of images whose caption is among the k nearest captions, `image_recall_k` the share of
    captions that have one of their own images among the k nearest images; `text_median_rank` and `image_median_rank`
    the median place of the first right one. Where a batch says what is `held_out` (bit 1: of a combination that
    training has never seen), `text_recall_1_seen` and `text_recall_1_held_out` are those of the one and the other,
    among all captions. `zero_shot_accuracy`, where images have labels: the nearest class by its prompts, whose
    embeddings are averaged (Radford et al. 2021, section 3.1.4).

    Args:
        templates: prompts with {} for the class; empty for no classification.
        class_names: words for the classes in the order of their labels; null for the data's own names.
        among: a regular expression; the test then also measures how often an image finds its caption among all captions
            of the data, of every split, in which it is found. Null leaves this out.

    Raises:
        ValueError: a template without {}, or `among` is no regular expression.
    """

    def __init__(
        self,
        templates: list[str] = [],  # noqa: B006
        class_names: list[str] | None = None,
        among: str | None = None,
    ) -> None:
        if bad := [template for template in templates if template.count("{}") != 1]:
            raise ValueError(f"Retrieval.templates: expected prompts with one {{}} for the class, got {bad[0]!r}.")
        try:
            self.among = None if among is None else re.compile(among, re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"Retrieval.among: expected a regular expression, got {among!r}: {error}.") from None
        self.templates, self.class_names = templates, class_names
        super().__init__()

    def start(self, device: torch.device, keep: bool = False) -> None:
        super().start(device, keep)
        self._rows: dict[str, list[Tensor]] = {}
        self._captions: dict[tuple[int, ...], Tensor] = {}
        self._classes: Tensor | None = None
        self._medians: dict[str, tuple[float, float]] = {}

    def headline(self, model: Model, batch: Batch) -> Headline:
        return Headline("text_recall_1", "max")

    def update(self, model: Model, spec: Spec, batch: Batch, stage: Literal["val", "test"]) -> None:
        if not isinstance(model, ImageTextModel):
            raise ValueError(
                f"Retrieval: expected a model that embeds images and captions, got {type(model).__name__}: give "
                "its own --model.evaluation."
            )
        image = model.embed_image(image_of(batch))
        caption = batch.get("caption", batch["text"])
        rows = {"embedding": image, "caption": caption} | {k: batch[k] for k in ("held_out",) if k in batch}
        for name, value in rows.items():
            self._rows.setdefault(name, []).append(value.cpu())
        new = [row for row in caption.unique(dim=0) if tuple(row.tolist()) not in self._captions]
        if new:
            embedded = model.embed_text(torch.stack(new)).cpu()
            self._captions |= {tuple(row.tolist()): it for row, it in zip(new, embedded, strict=True)}
        if self.templates and "label" in batch:
            classes = self._prompted(model, spec, image.device)
            self.add("zero_shot_accuracy", (image @ classes.T).argmax(1) == batch["label"])

    def _prompted(self, model: ImageTextModel, spec: Spec, device: torch.device) -> Tensor:
        """The mean embedding of each class's prompts, (classes, E), worked out once a pass."""
        if self._classes is None:
            count, names = spec.require_classes("Retrieval"), self.class_names or spec.classes or ()
            if len(names) != count:
                raise ValueError(f"Retrieval.class_names: expected {count} words, one a class, got {len(names)}.")
            tokens = Tokens(spec.require_text("Retrieval"))
            try:
                prompts = tokens.encode([t.format(name) for name in names for t in self.templates]).to(device)
            except ValueError as error:
                raise ValueError(f"Retrieval.templates and class_names: {error}") from None
            embedded = model.embed_text(prompts).unflatten(0, (count, -1))
            self._classes = F.normalize(embedded.mean(1), dim=-1)
        return self._classes

    def results(self) -> dict[str, tuple[float, float]]:
        if self._rows:
            self._find()
        return {**super().results(), **self._medians}

    def _find(self) -> None:
        """Gathers images and captions of all processes, and takes the ranks of this one's share into the means."""
        rows = from_all_processes({name: torch.cat(parts) for name, parts in self._rows.items()})
        known = {"key": torch.tensor(list(self._captions)), "text": torch.stack(list(self._captions.values()))}
        known = from_all_processes(known)
        keys, number = known["key"].unique(dim=0, return_inverse=True)  # a caption may come from several processes
        text = known["text"].new_zeros(len(keys), known["text"].shape[1]).index_copy_(0, number, known["text"])
        right = torch.cat((keys, rows["caption"])).unique(dim=0, return_inverse=True)[1][len(keys) :]  # (N,)
        image = rows["embedding"]
        numbers = torch.arange(len(text))
        of_image = torch.cat(
            [ranks(i, text, r[:, None] == numbers) for i, r in zip(image.split(ROWS), right.split(ROWS), strict=True)]
        )
        of_text = torch.cat(
            [ranks(t, image, n[:, None] == right) for t, n in zip(text.split(ROWS), numbers.split(ROWS), strict=True)]
        )
        first, step = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            first, step = torch.distributed.get_rank(), torch.distributed.get_world_size()
        own, own_text = of_image[first::step], of_text[first::step]
        for k in (1, 5):
            self.add(f"text_recall_{k}", own <= k)
            self._mean(f"image_recall_{k}", own_text <= k)
        if "held_out" in rows and (held_out := (rows["held_out"] & 1).bool()).any():
            for name, which in (("seen", ~held_out), ("held_out", held_out)):
                self._mean(f"text_recall_1_{name}", (own <= 1)[which[first::step]])
        self._medians = {"text_median_rank": median_error(of_image), "image_median_rank": median_error(of_text)}
        self._rows = {}

    def _mean(self, name: str, value: Tensor) -> None:
        """A mean over something else than the images."""
        metric = self._means.setdefault(name, MeanWithError().to(self.device))
        metric.update(value.to(self.device))
