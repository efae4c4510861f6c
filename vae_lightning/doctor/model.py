"""The checks of a model and its objective on the data."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.distributions import Independent, constraints

from vae_lightning.core import Batch, image_of
from vae_lightning.distributions import BinaryImage
from vae_lightning.doctor.findings import Case, Finding, finding, first_names
from vae_lightning.metrics import independent_pixels_nll, log_prob_curve
from vae_lightning.models import FromRun


@torch.no_grad()
def support(case: Case) -> Iterator[Finding]:
    batch = case.take(32)
    trace, x = case.teller.trace(batch), image_of(batch)
    try:
        case.experiment.objective.check(case.model, batch)
    except ValueError as error:
        choose = "choose another --model.objective or --model.latent_model.encoder."
        yield Finding(False, f"model and objective do not go together: {error}", choose)
    log_p, inside = trace.log_likelihood(), bool(cast(Any, trace.px.support).check(x).all())
    finite = int(log_p.isfinite().sum())
    yield finding(
        inside and finite == len(x),
        f"p(x|z) is {'a probability of levels' if trace.is_discrete else 'a density, which has no bits/dim'}, finite "
        f"in log for {finite} of {len(x)} training images, which lie {'inside' if inside else 'outside'} its support.",
        "choose a --model.latent_model.likelihood of such data, or --data.dynamic_binarization true.",
    )


@torch.no_grad()
def normalised(case: Case) -> Iterator[Finding]:
    batch = case.take(1)
    trace, x, top = case.teller.trace(batch), image_of(batch), case.data.levels - 1
    px: Any = trace.px
    if isinstance(px, BinaryImage):
        single = type(px)(px.logits.unsqueeze(-1), event_dim=1)  # images of one pixel
        base, log_p = px, lambda value: single.log_prob(value.unsqueeze(-1))
    elif isinstance(px, Independent):
        base, log_p = px.base_dist, px.base_dist.log_prob
    else:
        yield Finding(
            True, f"whether p(x|z) is normalised was not looked at: {type(px).__name__} has no known factors."
        )
        return
    low, count, step = torch.zeros_like(x), top, torch.ones_like(x)
    if not trace.is_discrete:  # the trapezoid rule, to 12 standard deviations either side where there are no ends
        low, count = (base.mean - 12 * base.stddev, 2000) if base.support is constraints.real else (low, 4000)
        step = -2 * (low - base.mean) / count if base.support is constraints.real else step * top / count
    total = torch.full_like(x, -torch.inf)
    for i in range(count + 1):
        half = math.log(0.5) if i in (0, count) and not trace.is_discrete else 0.0
        total = torch.logaddexp(total, log_p(low + i * step) + step.log() + half)
    off, whole = total.abs().max().item(), px.log_prob(x).sum()
    rest = (whole - log_p(x).sum()).abs().item()
    yield finding(
        off < 1e-3 and rest < 1e-3 + 1e-5 * whole.abs().item(),
        f"p(x|z) {'sums' if trace.is_discrete else 'integrates'} to one within {off:.1e} nats a pixel over {x.numel()} "
        f"pixels, whose product it is within {rest:.1e} nats.",
        "no bound measured with it means anything: choose another --model.latent_model.likelihood.",
    )


@torch.no_grad()
def start(case: Case) -> Iterator[Finding]:
    batch, some, levels = case.take(32), image_of(case.some).flatten(1), case.data.levels
    trace, x = case.teller.trace(batch), image_of(batch).flatten(1)
    scores = {name: values.mean().item() for name, values in trace.scores().items()}
    if not trace.has_rate:
        yield Finding(True, "the posterior is a point mass (an autoencoder), which has no rate.")
    else:
        rate, latents = scores["rate"], trace.latent_size
        yield finding(
            rate <= min(10_000, 100 * latents),  # which nan is not
            f"the rate begins at {rate:.2f} nats, {rate / latents:.2f} for each of {latents} latents.",
            "warm it up (--model.objective.beta Linear, over a fifth of the training), or choose another "
            "--model.latent_model.encoder, whose start lies nearer to the prior.",
        )
    distortion = scores["distortion"]
    every = math.ceil(x.shape[1] * levels / 2**22)  # pixels are many in large images
    nll = independent_pixels_nll(some[:, ::every].cpu().split(1000), [x[:, ::every].cpu()], levels)
    baseline = nll.mean().item() * x.shape[1] / x[:, ::every].shape[1]
    yield finding(
        distortion <= 10 * baseline + x.shape[1],
        f"the distortion begins at {distortion:.1f} nats, where independent pixels need {baseline:.1f}.",
        "widen --model.latent_model.likelihood (its scale), or set --trainer.gradient_clip_val for the first steps.",
    )


def gradients(case: Case) -> Iterator[Finding]:
    parts, batch = case.parts(), case.take(min(32, case.data.batch_size))
    frozen = {id(p) for part in parts.modules() if isinstance(part, FromRun) for p in part.parameters()}
    named = {name: p for name, p in parts.named_parameters() if id(p) not in frozen}  # a frozen run's are meant to stay
    moved, bad, norms = set[str](), list[str](), list[float]()
    while len(norms) < 3 and not bad:  # short steps, after which a layer that begins at zero hides no other
        parts.zero_grad()
        case.loss(parts, batch).backward()
        bad = [name for name, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
        moved |= {name for name, p in named.items() if p.grad is not None and p.grad.any()}
        norms.append(nn.utils.clip_grad_norm_(named.values(), 0.01).item())
        torch.optim.SGD(named.values(), lr=1.0).step()
    yield finding(
        not bad,
        f"{len(bad)} of {len(named)} gradients are nan or infinite{first_names(bad)}, their norm is {norms[0]:.3g}.",
        "set --trainer.gradient_clip_val or lower --model.optimizer.lr, or choose another --model.objective.",
    )
    still = [name for name in named if name not in moved]
    yield finding(
        not still,
        f"{len(still)} of {len(named)} parameters get no gradient{first_names(still)}.",
        "they stay as they are: well where they were frozen, else mend that part of --model.latent_model.",
    )


def overfit(case: Case) -> Iterator[Finding]:
    batch = case.take(32)
    lr, first, last, steps = _descend(case, batch, None, 100, 5.0)
    said = f"{steps} steps at learning rate {lr:g} take the loss of 32 images from {first:.5g} to {last:.5g} nats."
    if last < first - 0.01 * abs(first):
        yield Finding(True, said)
        return
    tried = [_descend(case, batch, rate, 30, 1.0) for rate in (1e-2, 3e-3, 1e-3, 1e-4, 1e-5)]
    lr, _, best, _ = min(tried, key=lambda found: found[2] if math.isfinite(found[2]) else math.inf)
    better = (
        f"try --model.optimizer.lr {lr:g}, which takes it to {best:.5g} in 30 steps, and --trainer.gradient_clip_val."
    )
    none = "no --model.optimizer.lr between 1e-5 and 1e-2 lowers it: the other findings may say why."
    yield Finding(False, said, better if best < first else none)


def _descend(
    case: Case, batch: Batch, rate: float | None, most: int, seconds: float
) -> tuple[float, float, float, int]:
    """Learning rate, first and last loss (means of five) and the number of steps."""
    step, _, optimizer = case.training(batch, rate)
    end, losses = time.monotonic() + seconds, [step()]
    while len(losses) < 10 or (len(losses) < most and time.monotonic() < end):
        losses.append(step())
    return optimizer.param_groups[0]["lr"], losses[0], sum(losses[-5:]) / 5, len(losses)


@torch.no_grad()
def bounds(case: Case) -> Iterator[Finding]:
    batch = case.take(max(4, min(16, 2**18 // image_of(case.some)[0].numel())))
    trace = case.teller.trace(batch, 32)
    if not trace.has_rate:
        yield Finding(True, "whether the bound rises with its samples was not looked at: a point mass has no bound.")
        return
    elbo, single = trace.scores()["elbo"], trace.log_weight()  # (32, images)
    several = log_prob_curve(case.teller, batch, [10, 100])
    curve = torch.cat([elbo.mean(0)[None], single.mean(0)[None], several]).double()
    gain = curve.diff(dim=0)
    slack = 4 * gain.std(1) / math.sqrt(gain.shape[1]) + 1e-3 + 1e-5 * curve[0].abs().max()
    values = ", ".join(f"{value:.2f}" for value in curve.mean(1))
    yield finding(
        bool((gain.mean(1) >= -slack).all() and gain[0].mean() <= slack[0]),
        f"the ELBO and the bounds by 1, 10 and 100 samples are {values} nats on {gain.shape[1]} images: the first two "
        "should agree, and the others rise.",
        "log_prob, rsample and KL of a --model.latent_model.encoder or .prior do not belong together: choose others.",
    )
