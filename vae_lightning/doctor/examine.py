"""A configuration and its data looked over in seconds, before hours are spent on them. All that trains is a copy, and
the random state is given back: the experiment stays as it came."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch

from vae_lightning.core import Batch, LatentModel, image_of, seeded
from vae_lightning.data import ImageData
from vae_lightning.data.batches import InMemory, binarize
from vae_lightning.doctor.cost import budget, cost
from vae_lightning.doctor.data import content, look_at_data
from vae_lightning.doctor.findings import Case, Finding, finding, first_names, spread
from vae_lightning.doctor.model import bounds, gradients, normalised, overfit, start, support
from vae_lightning.doctor.schedule import schedule
from vae_lightning.train.module import Experiment

CHECKS = {
    "the content of the images": content,
    "p(x|z) of the images": support,
    "whether p(x|z) is normalised": normalised,
    "rate and distortion at the start": start,
    "the gradients": gradients,
    "overfitting 32 images": overfit,
    "the bounds": bounds,
    "the budget": budget,
    "the learning rate": schedule,
    "memory and time": cost,
}
OF_A_STORY = (support, normalised, start, bounds)
"""Checks of models with latents alone."""


def examine(
    experiment: Experiment,
    data: ImageData,
    max_epochs: int | None,
    gradient_clip_val: float | None = None,
    max_steps: int = -1,
) -> list[Finding]:
    """What there is to say, good and bad. A check that fails is a finding, and the model is looked at only where its
    data are what they say they are.

    Args:
        experiment: on the device that will train; its weights and the global random state are left as they are.
        data: read here where that has not been done.
        max_epochs: how long it will train; None or -1 for a training without end.
        gradient_clip_val: the Trainer's.
        max_steps: the Trainer's, -1 for no limit.
    """
    with seeded(0, experiment.device), torch.enable_grad():
        found = list(_guarded("the data", look_at_data, experiment, data))
        if all(finding.ok for finding in found):
            epochs = None if max_epochs is None or max_epochs < 0 else max_epochs
            found += _guarded("the model", _model, experiment, data, epochs, gradient_clip_val, max_steps)
    return found


def _guarded(name: str, check: Callable[..., Iterator[Finding]], *args: Any) -> Iterator[Finding]:
    try:
        yield from check(*args)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:400].rstrip(".")
        yield Finding(False, f"{name} could not be looked at: {said}.", "VAE_LIGHTNING_TRACEBACK=1 and fit say where.")


def _model(
    experiment: Experiment, data: ImageData, epochs: int | None, clip: float | None, steps: int
) -> Iterator[Finding]:
    train, named = data.splits["train"], dict(experiment.latent_model.named_parameters())
    bad = [name for name, p in named.items() if not p.isfinite().all()]
    yield finding(
        not bad,
        f"{len(bad)} of {len(named)} parameters hold nan or infinity{first_names(bad)}.",
        "begin from other weights, and lower the --model.optimizer.lr that made these. The rest is looked at then.",
    )
    if bad:
        return
    index = spread(train.stored, len(train))
    some = InMemory(train)[index[torch.randperm(len(index))]]
    image = binarize(image_of(some), data.source.levels) if data.dynamic_binarization else image_of(some)
    some = {name: value.to(experiment.device) for name, value in {**some, "image": image.float()}.items()}
    model = copy.deepcopy(experiment.latent_model).eval()
    tells = isinstance(model, LatentModel)
    if not tells:
        yield Finding(True, f"{type(model).__name__} has no latents: what is asked of a story was not looked at.")
    model.init_from_data(some)
    experiment.objective.begin(len(train))
    case = Case(experiment, data, model, cast(Batch, some), epochs, clip, steps)
    for name, check in CHECKS.items():
        if not tells and check in OF_A_STORY:
            continue
        yield from _guarded(name, check, case)


def table(findings: list[Finding]) -> str:
    """Each finding on a line, its remedy below it, and their count."""
    lines = [
        f"{'ok' if finding.ok else 'LOOK':5}{finding.what}" + (f"\n       {finding.remedy}" if finding.remedy else "")
        for finding in findings
    ]
    wanting = sum(not finding.ok for finding in findings)
    return "\n".join([*lines, f"{len(findings)} findings, {wanting or 'none'} to look at."])
