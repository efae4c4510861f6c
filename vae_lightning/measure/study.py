"""What a study needs, and what a model and its data have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from vae_lightning.core import Site, has_mean, is_diagonal_gaussian, is_discrete, seeded
from vae_lightning.measure.context import ModelAndData
from vae_lightning.objectives.elbo import kl_per_latent
from vae_lightning.report.results import Section

About = TypeVar("About")


def section_of(function: Callable[[About], Section], about: About, device: torch.device) -> Section:
    """What a study finds, with random numbers of its own; its sentence where it fails."""
    with seeded(1, device), torch.no_grad():
        try:
            return function(about)
        except ValueError as error:  # that nobody foresaw, and that is not to lose the other studies
            return Section(f"Left out: {function.__name__}", notes=[str(error)])


class Known(NamedTuple):
    """What a model and its data are to a study: see `ask`."""

    sites: int
    rate: bool
    generates: bool
    mean: bool
    continuous: bool
    gaussian: bool
    rate_of_each: bool
    labels: bool
    conditional: bool
    grey: bool
    images: int
    values: int


class Study(NamedTuple):
    """A study, and the models and data that it is for.

    Args:
        function: makes the section; an empty one is left out.
        rate: needs posteriors with a density.
        generates: needs a prior that codes follow.
        continuous: needs gradients in the latents.
        gaussian: needs posteriors that are diagonal Gaussians.
        labels: needs labels.
        conditional: needs a model that is told them, p(x|y).
        grey: needs more than two levels.
        images: of the test, that it needs at least.
        values: an image, that it takes at most.
    """

    function: Callable[[ModelAndData], Section]
    rate: bool = True
    generates: bool = False
    continuous: bool = False
    gaussian: bool = False
    labels: bool = False
    conditional: bool = False
    grey: bool = False
    images: int = 1
    values: float = math.inf

    def admits(self, known: Known) -> bool:
        needs = ("rate", "generates", "continuous", "gaussian", "labels", "conditional", "grey")
        enough = known.images >= self.images and known.values <= self.values
        return enough and all(getattr(known, name) or not getattr(self, name) for name in needs)


def ask(tested: ModelAndData) -> Known:
    """What model and data say of themselves, by the trace of one image, after which random numbers go on as before."""
    with seeded(None, tested.device), torch.no_grad():
        trace = tested.model.trace(next(tested.batches(tested.test[torch.arange(1)])))
    sites = trace.sites.values()
    return Known(
        sites=len(sites),
        rate=trace.has_rate,
        generates=tested.model.generates(trace),
        mean=all(has_mean(site.q) for site in sites),
        continuous=not any(is_discrete(site.q) for site in sites),
        gaussian=all(is_diagonal_gaussian(site.q) for site in sites),
        rate_of_each=trace.has_rate and all(map(_has_rate_of_each, sites)),
        labels=tested.data.splits["test"].label is not None,
        conditional=tested.model.is_conditional and "label" in tested.model.needs,
        grey=tested.data.levels > 2,
        images=len(tested.test),
        values=math.prod(tested.data.image_shape),
    )


def _has_rate_of_each(site: Site) -> bool:
    try:
        kl_per_latent(site)
    except (ValueError, NotImplementedError):  # dependent latents, or a pair that torch has no closed form of
        return False
    return True
