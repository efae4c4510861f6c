"""Which studies of a text-to-image model there are, and what each needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vae_lightning.data.captioned import Captioned
from vae_lightning.measure.context import ModelAndData
from vae_lightning.measure.study import section_of
from vae_lightning.measure.text2image.attributes import attributes, memory
from vae_lightning.measure.text2image.chain import Chain
from vae_lightning.measure.text2image.embeddings import prior
from vae_lightning.measure.text2image.images import captions, decoder, distance, neighbours, spread
from vae_lightning.measure.text2image.steps import steps
from vae_lightning.metrics.text2image import Attributes
from vae_lightning.models import UnCLIP
from vae_lightning.report.results import Section


class ChainStudy(NamedTuple):
    """A study, and what it needs of model and data, which have embeddings of images by captions in any case.

    Args:
        function: makes the section.
        decoder: needs a decoder of its own.
        labels: needs labels.
        style: needs a source that measures what its captions say.
        attributes: needs attributes that are found in captions.
    """

    function: Callable[[Chain], Section]
    decoder: bool = True
    labels: bool = False
    style: bool = False
    attributes: bool = False


STUDIES = (
    ChainStudy(captions, labels=True, style=True),
    ChainStudy(attributes, attributes=True),
    ChainStudy(memory, attributes=True),
    ChainStudy(spread),
    ChainStudy(prior, decoder=False),
    ChainStudy(steps, decoder=False),
    ChainStudy(decoder, labels=True),
    ChainStudy(distance, labels=True),
    ChainStudy(neighbours),
)
"""In the order in which they are shown."""


def studies(tested: ModelAndData, generated: int, found: Attributes | None = None) -> list[Section]:
    """All sections that the model and the data admit, of at most so many generated images; none for other models than
    those of text to image. `found` are the attributes that are found in captions."""
    model, said, data = tested.model, tested.test.captions, tested.data
    if not isinstance(model, UnCLIP) or said is None or said.meaning_tokens is None or len(tested.test) < 2:
        return []
    chain = Chain(tested, model, generated, found)
    there = {
        "decoder": model.decoder is not None,
        "labels": tested.test.label is not None,
        "style": isinstance(data.source, Captioned),
        "attributes": found is not None,
    }
    admitted = [study for study in STUDIES if all(there[name] or not getattr(study, name) for name in there)]
    sections = [section_of(study.function, chain, tested.device) for study in admitted]
    return [section for section in sections if section.rows or section.notes]
