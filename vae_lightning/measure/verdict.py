"""What the verdict on a training rests on: at the end of `fit` some validation images, in `test` what it has found."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from vae_lightning.checkpoint import read_checkpoint
from vae_lightning.conditionals import begins_as_pca
from vae_lightning.core import LatentModel, PosteriorMean, image_of, seeded
from vae_lightning.data import ImageData
from vae_lightning.measure.context import ModelAndData
from vae_lightning.metrics import ImageEvaluation, held_out_rate_distortion, independent_pixels_nll, pca_squared_error
from vae_lightning.metrics.evaluation import squared_error
from vae_lightning.report.results import Results, Section
from vae_lightning.report.verdict import FEW_STEPS, TITLE, Facts, history, judge, read_verdict
from vae_lightning.train.module import Experiment

LOOKED_AT, LEARNT_FROM = 500, 10_000
"""Validation images that a verdict is about, and training images that its baselines are made of."""
EXACT = 1024
"""Values of an image up to which all of these training images make the components; of larger ones fewer do."""
LONGER = 4


def conclude(experiment: Experiment, data: ImageData, folder: Path) -> None:
    """Ends a training with its verdict, which is printed and kept in the run's folder.

    Raises:
        FloatingPointError: it has diverged.
    """
    verdict = judge(facts_of_training(experiment, data, folder))
    verdict.write(folder)
    if verdict.diverged:
        raise FloatingPointError(f"{folder}: {verdict.sentences[0]}")
    print(verdict.text())


def begin_with_verdict(results: Results, experiment: Experiment, folder: Path, steps: int | None) -> None:
    """Puts the verdict before what a test has found, and keeps it in the run's folder.

    Args:
        results: of the test.
        experiment: that was tested.
        folder: of the run.
        steps: that it was trained for.
    """
    verdict = judge(facts_of_test(experiment, results, folder, steps))
    verdict.write(folder)
    results.sections.insert(0, Section(TITLE, notes=verdict.sentences))


def facts_of_training(experiment: Experiment, data: ImageData, folder: Path) -> Facts:
    """Of a training that has just ended, by its best checkpoint. The model is left as it is."""
    trainer = experiment.trainer
    facts = _of_history(experiment, folder, trainer.global_step)
    facts.longer = longer(trainer)
    model = experiment.latent_model
    if not isinstance(experiment.evaluation, ImageEvaluation) or not isinstance(model, LatentModel):
        return facts
    state = {name: value.clone() for name, value in experiment.state_dict().items()}
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best and Path(best).is_file():
        experiment.load_state_dict(read_checkpoint(Path(best))["state_dict"])
    training = experiment.training
    experiment.eval()
    try:
        with torch.no_grad(), seeded(0, experiment.device):
            _look(facts, ModelAndData(model, data, experiment.device, folder))
    finally:
        experiment.load_state_dict(state)
        experiment.train(training)
    return facts


def _look(facts: Facts, tested: ModelAndData) -> None:
    """Adds what some validation images say."""
    data, model = tested.data, tested.model
    val, train, top = data.splits["val"].some(LOOKED_AT), tested.train(LEARNT_FROM), data.levels - 1
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in tested.batches(val):
        trace = model.trace(batch)
        own = squared_error(model(PosteriorMean(), batch).mean, image_of(batch), top)
        found = {"own": own, "sampled": squared_error(trace.px.mean, image_of(batch), top)}
        if trace.has_rate:
            scores = trace.scores()
            found |= {"elbo": scores["elbo"], "rate": scores["rate"]}
        facts.latents = trace.latent_size
        for name, values in found.items():
            parts.setdefault(name, []).append(values.double().cpu())
    mean = {name: torch.cat(values).mean().item() for name, values in parts.items()}
    facts.images, facts.own_squared_error = len(val), mean["own"]
    if "elbo" not in mean:  # an autoencoder, whose like is PCA
        if val.stored[0].numel() <= EXACT:
            count = min(facts.latents, val.stored[0].numel())
            facts.pca = pca_squared_error(train.chunks(), val.chunks(), data.levels, count).mean().item()
        return
    facts.elbo, facts.rate, facts.squared_error = mean["elbo"], mean["rate"], mean["sampled"]
    if math.isfinite(facts.elbo):
        facts.independent = independent_pixels_nll(train.chunks(), val.chunks(), data.levels).mean().item()
        facts.limit = held_out_rate_distortion(
            train.chunks(), val.chunks(), data.levels, [max(0.0, facts.rate)], exact=EXACT
        ).item()


def facts_of_test(experiment: Experiment, results: Results, folder: Path, steps: int | None) -> Facts:
    """Of a test, by the rows that it has found and the run's history."""
    facts = _of_history(experiment, folder, steps)
    before = read_verdict(folder)
    facts.images = results.images
    facts.longer = before.longer if before is not None and before.longer else "with a larger --trainer.max_epochs"
    rows = {name: row.mean for name, row in results.rows.items()}
    facts.elbo, facts.independent = rows.get("elbo"), rows.get("independent_nll")
    facts.rate, facts.squared_error = rows.get("rate"), rows.get("sampled_squared_error")
    facts.limit, facts.own_squared_error = rows.get("rate_distortion_limit"), rows.get("squared_error")
    facts.pca, facts.latents = rows.get("pca_squared_error"), getattr(experiment.evaluation, "latent_size", 0)
    return facts


def _of_history(experiment: Experiment, folder: Path, steps: int | None) -> Facts:
    validated, losses = history(folder, experiment.headline.name)
    if validated:  # the checkpoint that is tested may be an early one
        steps = max(steps or 0, validated[-1][0] + 1)
    begun_at_pca = begins_as_pca(experiment)
    higher = experiment.headline.mode == "max"
    own = {"encoder", "likelihood"} <= dict(experiment.latent_model.named_children()).keys()
    return Facts(str(folder), steps, validated, losses, higher=higher, begun_at_pca=begun_at_pca, own_nets=own)


def longer(trainer: Trainer) -> str:
    """The flag by which a training goes on until it is four times as long, and has the steps that a net needs at least,
    of the limit that ended it."""
    times = max(LONGER, math.ceil(FEW_STEPS / max(trainer.global_step, 1)))
    spent = [timer for timer in _timers(trainer) if not (timer.time_remaining() or 0) > 0]
    if spent:
        whole = timedelta(seconds=times * int(spent[0].time_elapsed() + (spent[0].time_remaining() or 0)))
        hours, seconds = divmod(whole.seconds, 3600)
        return f"--trainer.max_time {whole.days:02d}:{hours:02d}:{seconds // 60:02d}:{seconds % 60:02d}"
    if 0 < trainer.max_steps <= trainer.global_step or (trainer.max_epochs or -1) < 0:
        return f"--trainer.max_steps {max(FEW_STEPS, LONGER * max(trainer.max_steps, trainer.global_step, 1))}"
    return f"--trainer.max_epochs {times * trainer.max_epochs}"  # type: ignore[operator]


def _timers(trainer: Any) -> list[Timer]:
    return [it for it in trainer.callbacks if isinstance(it, Timer) and it.time_remaining() is not None]
