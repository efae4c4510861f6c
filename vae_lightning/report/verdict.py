"""What a training has come to, in sentences that need no knowledge of VAEs, and what to change, as a command."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

from vae_lightning.files import write_atomically

FILE = "verdict.json"
FEW_STEPS = 2000
"""Steps below which hardly any net has learned what it can."""
EXPLODED = 1e3
"""How many times its first value, or what independent pixels need, a loss must reach to be called diverging."""
RISING = 0.01
"""Part of the headline that the last fifth of a training still gained: it was ended too early."""
FALLEN = 0.01
"""Part of the headline that was lost again after the best epoch: over-fitted."""
SILENT = 0.5
"""Nats of rate below which the latents say nothing of an image."""
TITLE = "Verdict"


@dataclass
class Facts:
    """What a verdict rests on; None where it is not known, or means nothing for such a model.

    Args:
        run: the run's folder, for commands.
        steps: training steps that were taken; None where nobody knows.
        headline: (step, value) of each validation, in order.
        losses: the training's logged losses, in order.
        higher: whether a higher headline is better.
        longer: the flag that would make the training long enough, at least four times as long.
        images: how many held-out images the following are means over.
        elbo: nats.
        independent: -log p(x) under independent pixels, nats.
        rate: nats.
        squared_error: from a posterior sample, images in [0, 1].
        limit: the squared error of PCA with ideal coding at that rate.
        pca: the squared error of PCA with as many components as there are latents, each known exactly.
        latents: how many.
        own_squared_error: from the posterior's mean.
        begun_at_pca: whether the model began as PCA.
        own_nets: whether its encoder and likelihood are trained with it, and not frozen or another model's.
    """

    run: str
    steps: int | None = None
    headline: list[tuple[int, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    higher: bool = True
    longer: str = "--trainer.max_epochs"
    images: int = 0
    elbo: float | None = None
    independent: float | None = None
    rate: float | None = None
    squared_error: float | None = None
    limit: float | None = None
    pca: float | None = None
    latents: int = 0
    own_squared_error: float | None = None
    begun_at_pca: bool = False
    own_nets: bool = True


@dataclass(frozen=True)
class Verdict:
    """Sentences, the most important first, and what they come to.

    Args:
        ok: whether there is nothing to change.
        diverged: whether the training's last numbers are of no use.
        longer: as the facts have it, for a later verdict.
    """

    sentences: list[str]
    ok: bool
    diverged: bool = False
    longer: str = ""

    def text(self) -> str:
        return "\n".join([TITLE, *(f"  {sentence}" for sentence in self.sentences)])

    def write(self, folder: Path) -> None:
        write_atomically(folder / FILE, json.dumps(asdict(self), indent=1))


def read_verdict(folder: Path) -> Verdict | None:
    """What `fit` or `test` left in a run's folder, if it is there and whole."""
    try:
        return Verdict(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def print_verdict(folder: Path | None) -> None:
    """The same, where there is a run, and a verdict on it."""
    if folder is not None and (verdict := read_verdict(folder)) is not None:
        print(verdict.text())


def verdict_html(folder: Path) -> str:
    """The same for a page; empty where there is none."""
    verdict = read_verdict(folder)
    if verdict is None:
        return ""
    kind = "" if verdict.ok else ' class="warn"'
    said = "".join(f"<p{kind}>{escape(sentence)}</p>" for sentence in verdict.sentences)
    return f"<section><h2>{TITLE}</h2>{said}</section>"


def judge(facts: Facts) -> Verdict:
    """The verdict on these facts."""
    if said := _diverging(facts):
        return Verdict([said], ok=False, diverged=True, longer=facts.longer)
    learned, wrong = _learned(facts)
    overfitted = _overfitted(facts)  # and if so, more steps are no remedy
    found = [_collapsed(facts), overfitted or _undertrained(facts, bool(wrong))]
    wrong += [sentence for sentence in found if sentence]
    return Verdict([*learned, *(wrong or ["Nothing to change."])], ok=not wrong, longer=facts.longer)


def _learned(facts: Facts) -> tuple[list[str], list[str]]:
    """Against independent pixels and PCA: what has been learned, and what has not."""
    if facts.elbo is None or facts.independent is None:
        return [], []
    nats, other = -facts.elbo, facts.independent
    share = (other - nats) / abs(other) if other else 0.0
    if share < 0.01:
        return [], [
            f"It has learned nothing yet: a held-out image takes {nats:.1f} nats on average (-ELBO, {facts.images} "
            f"images), where independent pixels, which know nothing of how pixels hang together, need {other:.1f}."
        ]
    good = [
        f"It has learned: a held-out image takes {nats:.1f} nats on average (-ELBO, {facts.images} images), "
        f"{100 * share:.0f} % less than with independent pixels ({other:.1f})."
    ]
    if facts.squared_error is None or facts.limit is None or facts.rate is None:
        return good, []
    beside = f"PCA with ideal coding reaches {facts.limit:.3g} at the same rate of {facts.rate:.0f} nats"
    if facts.pca is not None and facts.pca > 1e-6:  # more components than values leave nothing
        beside += f", and {facts.pca:.3g} with {facts.latents} components that are known exactly"
    own = f"Its reconstructions are off by {facts.squared_error:.3g} (squared error of an image in [0, 1])"
    if facts.squared_error <= facts.limit:
        return [*good, f"{own}; {beside}."], []
    remedy = "Train longer" + (
        "." if facts.begun_at_pca else ", or begin as PCA does (-c configs/model/principal.yaml)."
    )
    return good, [f"{own}, worse than PCA: {beside}. {remedy}"]


def _collapsed(facts: Facts) -> str:
    if facts.rate is None or facts.rate >= SILENT:
        return ""
    return (
        f"Its latents have collapsed: they tell {facts.rate:.2f} nats of an image, next to nothing. Let the KL term "
        "come in slowly: add -c configs/objective/warmup.yaml, or -c configs/objective/free_bits.yaml."
    )


def _overfitted(facts: Facts) -> str:
    if len(facts.headline) < 4 or not (span := _span(facts)):
        return ""
    best = max(range(len(facts.headline)), key=lambda i: _signed(facts, i))
    lost = _signed(facts, best) - _signed(facts, -1)
    if lost <= FALLEN * span:
        return ""
    step = facts.headline[best][0]
    drop = "drop more: --model.latent_model.encoder.net.dropout 0.3 --model.latent_model.likelihood.net.dropout 0.3"
    return (
        f"It is over-fitted: held-out images were told best after {step + 1} steps, and {100 * lost / span:.1f} % "
        "worse in the end; the best checkpoint is of then, and is what every command uses. Give more images; "
        "where mirrored and turned ones are as likely, augment them: -c configs/augment/photos.yaml; or "
        f"{drop if facts.own_nets else 'train a smaller model, or for fewer epochs (--trainer.max_epochs)'}."
    )


def _undertrained(facts: Facts, poor: bool) -> str:
    on = f"vae-lightning fit --ckpt_path {facts.run} {facts.longer}"
    if facts.steps is not None and facts.steps < FEW_STEPS:
        return (
            f"It is under-trained: {facts.steps} steps are few (some {FEW_STEPS} are the least that a net needs). Go "
            f"on with it: {on}"
        )
    if len(facts.headline) < 10 or not (span := _span(facts)):
        return ""
    last, values = facts.headline[-1][0], [_signed(facts, i) for i in range(len(facts.headline))]
    before = [value for (step, _), value in zip(facts.headline, values, strict=True) if step <= 0.8 * last]
    gained = max(values) - max(before) if before else 0.0
    if gained > RISING * span or (poor and gained > 0):
        return (
            f"It was ended while it still improved: {100 * gained / span:.1f} % in the last fifth of the training. Go "
            f"on with it: {on}"
        )
    return ""


def _diverging(facts: Facts) -> str:
    """Of headline and loss, each beside what independent pixels need, or where that is not known its own first value:
    they need not be in one unit."""
    for values in ([value for _, value in facts.headline], facts.losses):
        if not values:
            continue
        reference = abs(values[0]) if facts.independent is None else facts.independent
        reference = max(1.0, reference) if math.isfinite(reference) else 1.0
        worst = abs(values[-1]) if math.isfinite(values[-1]) else math.inf
        if worst > EXPLODED * reference:
            return (
                f"It has diverged: the loss ends at {worst:.3g}, where {reference:.3g} would be little. Its "
                "checkpoints are of no use but one from before. Begin anew with a tenth of the learning rate "
                "(--model.optimizer.lr), and clip the gradient (--trainer.gradient_clip_val 500)."
            )
    return ""


def _signed(facts: Facts, index: int) -> float:
    value = facts.headline[index][1]
    value = value if facts.higher else -value
    return value if math.isfinite(value) else -math.inf


def _span(facts: Facts) -> float:
    """What changes are measured by: the size of the best headline."""
    return abs(max((_signed(facts, i) for i in range(len(facts.headline))), default=0.0))


def history(folder: Path, headline: str) -> tuple[list[tuple[int, float]], list[float]]:
    """A run's validations (step, headline) and its logged training losses, as metrics.csv has them."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return [], []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    validated = [(int(float(row["step"])), float(row[f"val/{headline}"])) for row in rows if row.get(f"val/{headline}")]
    return validated, [float(row["train/loss"]) for row in rows if row.get("train/loss")]
