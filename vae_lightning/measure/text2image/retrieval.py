"""How often images find their captions among all captions of the data."""

from __future__ import annotations

import re

import torch

from vae_lightning.core import ImageTextModel, Model
from vae_lightning.data import ImageData, Images
from vae_lightning.data.captions import NEW_COMBINATION
from vae_lightning.measure.context import percent
from vae_lightning.metrics import Evaluation, Retrieval
from vae_lightning.metrics.representation import share
from vae_lightning.metrics.retrieval import ROWS, ranks
from vae_lightning.metrics.samples import in_batches
from vae_lightning.report.results import Section

LOOKED_AT = 10_000
"""Training images that look for their captions, at most."""


def retrieval(evaluation: Evaluation, model: Model, data: ImageData, device: torch.device) -> list[Section]:
    """What `Retrieval.among` asks for, where it does: recall of the captions of held-out, of other test and of training
    images among those captions of all splits. The test's own pass looks among the captions of the test images alone."""
    if not isinstance(evaluation, Retrieval) or evaluation.among is None or not isinstance(model, ImageTextModel):
        return []
    section = _recalls(model, data, device, evaluation.among)
    return [section] if section.rows or section.notes else []


@torch.no_grad()
def _recalls(model: ImageTextModel, data: ImageData, device: torch.device, among: re.Pattern[str]) -> Section:
    section = Section("Retrieval among all captions")
    parts = {name: data.fixed(name) for name in ("train", "val", "test")}
    captions = parts["test"].captions
    if captions is None or captions.meaning_tokens is None:
        return section
    found = torch.tensor([among.search(caption) is not None for caption in captions.meanings])
    known = torch.cat([part.captions.meaning.cpu() for part in parts.values() if part.captions is not None]).unique()
    known = known[found[known]]
    if not len(known):
        section.notes.append("No caption is one that --model.evaluation.among describes.")
        return section
    text = in_batches(lambda part: model.embed_text(part.to(device)).cpu(), captions.meaning_tokens[known.cpu()])

    def recall(images: Images, name: str, label: str) -> None:
        assert images.captions is not None
        rows = torch.isin(images.captions.meaning.cpu(), known).nonzero()[:, 0]
        if not len(rows):
            return
        chosen = images[rows].some(LOOKED_AT)
        assert chosen.captions is not None
        image = in_batches(lambda part: model.embed_image(part.to(device).float()).cpu(), chosen.image)
        right = chosen.captions.meaning.cpu()
        rank = torch.cat(
            [ranks(i, text, r[:, None] == known) for i, r in zip(image.split(ROWS), right.split(ROWS), strict=True)]
        )
        for k in (1, 5):
            what = f"{label} ({len(rank)}): caption among the {k} nearest of {len(known)}"
            section.add(f"recall_{k}_{name}", what, percent(share(rank <= k)), "%", "higher")

    held_out = (captions.held_out.cpu() & NEW_COMBINATION).bool()
    recall(parts["test"][held_out.nonzero()[:, 0]], "held_out", "held-out images")
    recall(parts["test"][(~held_out).nonzero()[:, 0]], "seen", "other test images")
    recall(parts["train"], "train", "training images")
    section.notes.append("A caption that no training image has is new to the model, held out or not.")
    return section
