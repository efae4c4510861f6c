"""log p(x) by annealed importance sampling (Neal 2001), for decoders as in Wu et al. (2017): where importance sampling
from the encoder's posterior cannot be trusted, since it is that encoder which is in question.
Shapes: B images, N chains an image; all latents of a story as one vector, (N, B, D)."""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from vae_lightning.core import Batch, LatentModel, image_of, rows, seeded
from vae_lightning.metrics.estimators.joint import Joint
from vae_lightning.metrics.estimators.tiles import tile_size

ACCEPTANCE = 0.65  # the share of proposals that HMC does best to accept (Beskos et al. 2013)


class Annealed(NamedTuple):
    """log_prob: log (1/N sum_n w_n), nats, (B,). standard_error: of log_prob by the delta method, std(w) / (mean(w)
    sqrt(N)), (B,): only as good as N weights can tell, and too small where a few of them make the sum."""

    log_prob: Tensor
    standard_error: Tensor


def sigmoidal(temperatures: int, steepness: float) -> list[float]:
    """0 = b_0 < ... < b_T = 1 along sigmoid(steepness (2 t / T - 1)), brought to [0, 1], as Wu et al. (2017) have it:
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
) -> Annealed:
    """log p(x) and its standard error for each image, by chains that are led from `start` to p(z|x) through
    f_t(z) = start(z)^(1 - b_t) (p(z) p(x|z))^b_t, one transition of Hamiltonian Monte Carlo at each t.

    Step sizes are an image's own, and follow the acceptance of its pilot chains. These are not averaged, so that step
    sizes are independent of the chains that are, and the mean weight is without bias for p(x); with the usual
    adaptation, by the chains themselves, it is not. Its logarithm lies below log p(x) by about half the squared error.

    The chains move in all latents of the story at once, and need no more of its posteriors than samples and densities.

    Args:
        model: in evaluation mode, of any number of latents.
        given: a batch with "image" (B, C, H, W), integers.
        chains: N, at least 2.
        temperatures: T; the cost is (chains + pilots) T leapfrog_steps gradients of the decoder an image.
        leapfrog_steps: of a transition.
        start: q(z|x), or p(z), which knows nothing of the encoder and needs more temperatures; z are all latents.
        steepness: of the schedule, see `sigmoidal`; 0 does as well or better from a good posterior.
        pilots: chains an image that set its step size.
        seed: of the chains; torch's own generator is left as it is.

    Raises:
        ValueError: a count out of range, another start, inference mode, a point mass, or discrete latents.
    """
    if chains < 2 or min(temperatures, leapfrog_steps, pilots) < 1:
        got = chains, temperatures, leapfrog_steps, pilots
        raise ValueError(f"chains, temperatures, leapfrog_steps, pilots: expected at least (2, 1, 1, 1), got {got}.")
    if start not in ("posterior", "prior"):
        raise ValueError(f"start: expected 'posterior' or 'prior', got {start!r}.")
    image, schedule, found = image_of(given), sigmoidal(temperatures, steepness), []
    images_at_once = max(1, tile_size(model, given) // 4 // (chains + pilots))
    with seeded(seed, image.device):
        for i in range(0, len(image), images_at_once):
            part = rows(given, slice(i, i + images_at_once))
            found.append(_Path(model, part, start).log_weights(chains + pilots, pilots, schedule, leapfrog_steps))
    log_weight = torch.cat(found, 1)  # (N, B)
    total = log_weight.logsumexp(0)
    relative_variance = ((2 * log_weight).logsumexp(0) - 2 * total).exp() * chains - 1
    return Annealed(total - math.log(chains), (relative_variance.clamp_min(0) / (chains - 1)).sqrt())


class _State(NamedTuple):
    """Latents, (N, B, D), with log f_0 and log f_1 - log f_0, (N, B), and the gradients of these in z."""

    z: Tensor
    log_start: Tensor
    log_ratio: Tensor
    slope_start: Tensor
    slope_ratio: Tensor


class _Path:
    """The densities between start and posterior for a batch, and the chains along them."""

    def __init__(self, model: LatentModel, given: Batch, start: str) -> None:
        self.joint, self.from_prior = Joint(model, given), start == "prior"
        self.joint.require_gradients()
        self.scale = self.joint.scale(self.from_prior)  # HMC's mass is one over its square

    def state(self, z: Tensor) -> _State:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_q, log_p, log_px = self.joint.log_densities(z)
            log_start, log_ratio = (log_p, log_px) if self.from_prior else (log_q, log_px + log_p - log_q)
            slope_start = torch.autograd.grad(log_start.sum(), z, retain_graph=True)[0]
            slope_ratio = torch.autograd.grad(log_ratio.sum(), z)[0]
        return _State(z.detach(), log_start.detach(), log_ratio.detach(), slope_start, slope_ratio)

    def transition(self, old: _State, b: float, step: Tensor, leapfrog_steps: int) -> tuple[_State, Tensor]:
        """HMC on log f_b with steps (N, B) in units of the start's scale; the state, and the chance of acceptance."""

        def energy(state: _State, speed: Tensor) -> Tensor:
            return 0.5 * speed.square().sum(2) - state.log_start - b * state.log_ratio

        stride = step[..., None] * self.scale
        new, speed = old, (first := torch.randn_like(old.z))  # in units of the start's scale, as the mass has it
        for _ in range(leapfrog_steps):
            speed = speed + 0.5 * stride * (new.slope_start + b * new.slope_ratio)
            new = self.state(new.z + stride * speed)
            speed = speed + 0.5 * stride * (new.slope_start + b * new.slope_ratio)
        chance = (energy(old, first) - energy(new, speed)).clamp_max(0).exp().nan_to_num(0)  # 0 if it diverged
        accept = torch.rand_like(chance) < chance
        z, *others = (
            torch.where(accept[..., None] if n.dim() > 2 else accept, n, o) for n, o in zip(new, old, strict=True)
        )
        return _State(z, *others), chance

    def log_weights(self, count: int, pilots: int, schedule: list[float], leapfrog_steps: int) -> Tensor:
        """Log weights of all chains but the pilots, (count - pilots, B)."""
        if self.from_prior:
            state = self.state(self.joint.from_prior(count))
        else:
            sites = self.joint.posterior(count).items()
            state = self.state(self.joint.join({name: site.z for name, site in sites}))
        log_weight = torch.zeros_like(state.log_ratio)
        log_step = log_weight.new_full(log_weight.shape[1:], math.log(0.5))
        for before, b in itertools.pairwise(schedule):
            log_weight += (b - before) * state.log_ratio
            if b < 1:
                jitter = 0.8 + 0.4 * torch.rand_like(log_weight)  # no trajectory is a whole period of the latents
                state, chance = self.transition(state, b, jitter * log_step.exp(), leapfrog_steps)
                log_step += 0.2 * (chance[:pilots].mean(0) - ACCEPTANCE)
        return log_weight[pilots:]
