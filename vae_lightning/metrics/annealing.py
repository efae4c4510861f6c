"""log p(x) by annealed importance sampling (Neal 2001), for decoders as in Wu et al. (2017): where importance sampling
from the encoder's posterior cannot be trusted, since it is that encoder which is in question.

Shapes: B images, N chains an image; latents (N, B, *event).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.core import Batch, Given, LatentModel, Site
from vae_lightning.metrics.likelihood import TILE_VALUES

ACCEPTANCE = 0.65
"""Share of proposals that HMC does best to accept (Beskos et al. 2013)."""


class Annealed(NamedTuple):
    """log_prob: log (1/N sum_n w_n), nats, (B,). standard_error: of log_prob by the delta method, std(w) / (mean(w)
    sqrt(N)), (B,): only as good as N weights can tell, and too small where a few of them make the sum."""

    log_prob: Tensor
    standard_error: Tensor


def single_site(model: LatentModel, given: Batch) -> Site:
    """The story's only latent, with its p and q, whose posterior has a density.

    Raises:
        ValueError: several latents, or a point mass.
    """
    trace = model.trace(given)
    if len(trace.sites) != 1 or trace.is_point_mass:
        got = "a point mass (an autoencoder)" if trace.is_point_mass else f"{len(trace.sites)} latents"
        raise ValueError(f"expected a model of one latent with a density q(z|x), got {got}: use metrics.log_prob.")
    return trace.sites[0]


def sigmoidal(temperatures: int, steepness: float) -> list[float]:
    """0 = b_0 < ... < b_T = 1 along a sigmoid, sigma(steepness (2 t / T - 1)) brought to [0, 1] (Grosse et al. 2015):
    slow at both ends. Even steps for a steepness of 0."""
    t = torch.linspace(-1, 1, temperatures + 1, dtype=torch.float64)
    b = torch.sigmoid(steepness * t) if steepness else t
    return cast(list[float], ((b - b[0]) / (b[-1] - b[0])).tolist())


@torch.no_grad()
def annealed_log_prob(
    model: LatentModel,
    given: Batch,
    chains: int = 16,
    temperatures: int = 100,
    leapfrog_steps: int = 10,
    start: Literal["posterior", "prior"] = "posterior",
    steepness: float = 4.0,
    pilots: int = 4,
    seed: int = 0,
    tile: int | None = None,
) -> Annealed:
    """log p(x) and its standard error for each image, by chains that are led from `start` to p(z|x) through
    f_t(z) = start(z)^(1 - b_t) (p(z) p(x|z))^b_t, one transition of Hamiltonian Monte Carlo at each t.

    Step sizes are an image's own, and follow the acceptance of its pilot chains. These are not averaged, so that step
    sizes are independent of the chains that are, and the mean weight is without bias for p(x); the usual adaptation
    by the chains themselves is not. Its logarithm lies below log p(x) by about half the squared standard error.

    Args:
        model: in evaluation mode, of one latent.
        given: a batch with "image" (B, C, H, W), integers.
        chains: N, at least 2.
        temperatures: T; the cost is (chains + pilots) T leapfrog_steps gradients of the decoder an image.
        leapfrog_steps: of a transition.
        start: q(z|x), or p(z), which knows nothing of the encoder and needs more temperatures.
        steepness: of the schedule, see `sigmoidal`.
        pilots: chains an image that set the step size, at least 1.
        seed: of the chains; torch's own generator is left as it is.
        tile: how many image-chains move at a time; null lets the image's size decide.

    Raises:
        ValueError: a count out of range, another start, inference mode, several latents, or a point mass.
    """
    if chains < 2 or min(temperatures, leapfrog_steps, pilots) < 1:
        counts = f"{chains}, {temperatures}, {leapfrog_steps}, {pilots}"
        raise ValueError(
            "chains, temperatures, leapfrog_steps, pilots: expected at least 2 chains and 1 of the others, "
            f"got {counts}."
        )
    if start not in ("posterior", "prior"):
        raise ValueError(f"start: expected 'posterior' or 'prior', got {start!r}.")
    if torch.is_inference_mode_enabled():
        raise ValueError("expected a caller that allows gradients, got torch.inference_mode: use torch.no_grad.")
    image, schedule, found = given["image"], sigmoidal(temperatures, steepness), []
    tile = tile or TILE_VALUES // 4 // image[0].numel()
    images_at_once = max(1, tile // (chains + pilots))
    with torch.random.fork_rng([image.device] if image.is_cuda else []):
        torch.manual_seed(seed)
        for i in range(0, len(image), images_at_once):
            part = cast(Batch, {name: cast(Tensor, v)[i : i + images_at_once] for name, v in given.items()})
            path = _Path(model, part, start)
            found.append(_log_weights(path, chains + pilots, pilots, schedule, leapfrog_steps))
    log_weight = torch.cat(found, 1)  # (N, B)
    total = log_weight.logsumexp(0)
    variance = ((2 * log_weight).logsumexp(0) - 2 * total).exp() * chains - 1  # of w / mean(w)
    return Annealed(total - math.log(chains), (variance.clamp_min(0) / (chains - 1)).sqrt())


class _State(NamedTuple):
    """Latents, (N, B, *event), with log f_0 and log f_1 - log f_0, (N, B), and the gradients of these in z."""

    z: Tensor
    log_start: Tensor
    log_ratio: Tensor
    slope_start: Tensor
    slope_ratio: Tensor


class _Path:
    """The densities between start and posterior for a batch, and where its chains begin."""

    def __init__(self, model: LatentModel, given: Batch, start: str) -> None:
        site, x = single_site(model, given), given["image"]
        rest = cast(Batch, {name: v for name, v in given.items() if name not in ("image", "encoded")})
        self.start = site.p if start == "prior" else site.q
        self.scale = _stddev(self.start)  # HMC's mass is one over its square
        self.shape = site.q.batch_shape if start == "prior" else torch.Size()
        self.event_dim = len(site.q.event_shape)

        def log_ratio(z: Tensor) -> Tensor:
            log_likelihood = model(Given({site.name: z}), rest).log_prob(x)
            return log_likelihood if start == "prior" else log_likelihood + site.p.log_prob(z) - site.q.log_prob(z)

        self.log_ratio: Callable[[Tensor], Tensor] = log_ratio

    def state(self, z: Tensor) -> _State:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = self.start.log_prob(z), self.log_ratio(z)
            slopes = [torch.autograd.grad(value.sum(), z)[0] for value in values]
        return _State(z.detach(), values[0].detach(), values[1].detach(), slopes[0], slopes[1])

    def transition(self, old: _State, b: float, step: Tensor, leapfrog_steps: int) -> tuple[_State, Tensor]:
        """HMC on log f_b with steps (N, B) in units of the start's scale; the state, and the chance of acceptance."""
        wide = step.reshape(*step.shape, *[1] * self.event_dim) * self.scale
        speed = torch.randn_like(old.z)  # in units of the start's scale, as the mass has it
        energy = _log_density(old, b) - 0.5 * speed.square().flatten(2).sum(2)
        new = old
        for _ in range(leapfrog_steps):
            speed = speed + 0.5 * wide * (new.slope_start + b * new.slope_ratio)
            new = self.state(new.z + wide * speed)
            speed = speed + 0.5 * wide * (new.slope_start + b * new.slope_ratio)
        gain = _log_density(new, b) - 0.5 * speed.square().flatten(2).sum(2) - energy
        chance = gain.clamp_max(0).exp().nan_to_num(0)  # a diverged proposal is refused
        accept = torch.rand_like(chance) < chance
        moved = (
            torch.where(accept.reshape(accept.shape + (1,) * (n.dim() - 2)), n, o) for n, o in zip(new, old, strict=True)
        )
        return _State(*moved), chance


def _log_density(state: _State, b: float) -> Tensor:
    return state.log_start + b * state.log_ratio


def _stddev(distribution: Distribution) -> Tensor | float:
    try:
        return distribution.stddev
    except NotImplementedError:  # such as a flow
        return 1.0


def _log_weights(path: _Path, count: int, pilots: int, schedule: list[float], leapfrog_steps: int) -> Tensor:
    """Log weights of all chains but the pilots, (count - pilots, B)."""
    state = path.state(path.start.sample((count, *path.shape)))
    log_weight = torch.zeros_like(state.log_ratio)
    log_step = log_weight.new_full(log_weight.shape[1:], math.log(0.5))
    for before, b in zip(schedule, schedule[1:], strict=False):
        log_weight += (b - before) * state.log_ratio
        if b < 1:
            jitter = 0.8 + 0.4 * torch.rand_like(log_weight)  # no trajectory is a whole period of the latents
            state, chance = path.transition(state, b, jitter * log_step.exp(), leapfrog_steps)
            log_step += 0.2 * (chance[:pilots].mean(0) - ACCEPTANCE)
    return log_weight[pilots:]
