"""What the studies of a text-to-image model look at: test images, and what it makes of their captions, each made once.

The caption of an image is the one that says all there is to say (`Captions.meanings`). Legend of shapes: N images, E
numbers of an embedding; images uint8 or float32 (N, C, H, W), integers 0..levels-1, on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.core import FromPosterior, image_of, rows, seeded
from vae_lightning.data.captioned import Captioned
from vae_lightning.data.captions import NEW_COMBINATION, Captions
from vae_lightning.measure.context import ModelAndData
from vae_lightning.metrics.samples import Classifier, in_batches, train_classifier
from vae_lightning.metrics.text2image import Attributes
from vae_lightning.models import UnCLIP
from vae_lightning.tokens import SPECIAL

BATCH = 500
JUDGED_BY = 60_000
"""Training images at most that the judge learns from."""
JUDGE_EPOCHS = 12
ASKED_FOR = 64
"""Images whose generation is timed."""


@dataclass(frozen=True)
class Chain:
    """Args:
    tested: the model and its data; the captions of its test images have tokens.
    model: the same model, in evaluation mode.
    generated: images that are made at most.
    attributes: what its captions say, where that is known.
    rows: numbers of the test images whose captions are asked for; None for `generated` ones, evenly over all.
    """

    tested: ModelAndData
    model: UnCLIP
    generated: int
    attributes: Attributes | None = None
    rows: Tensor | None = None

    # -- what is asked for ---------------------------------------------------------------------------------------------

    @cached_property
    def chosen(self) -> Tensor:
        """(N,), numbers of the test images whose captions are asked for."""
        return self.tested.test_rows(self.generated) if self.rows is None else self.rows

    @cached_property
    def captions(self) -> Captions:
        captions = self.tested.test.captions
        assert captions is not None
        return captions[self.chosen.cpu()]

    @property
    def caption(self) -> Tensor:
        """(N,) int64, its number."""
        return self.captions.meaning

    @property
    def held_out(self) -> Tensor:
        """(N,) bool: of a combination that training has not seen."""
        return (self.captions.held_out & NEW_COMBINATION).bool()

    @cached_property
    def text(self) -> Tensor:
        """(N, T), token ids of the captions."""
        tokens = self.captions.meaning_tokens
        assert tokens is not None
        return tokens[self.caption]

    @cached_property
    def new_order(self) -> Tensor | None:
        """(N, T), token ids of a sentence for each image in the order of words that training has not seen, as chance
        has it; None where some image has none."""
        captions, flag = self.captions, self.captions.new_order.bool()
        last = captions.first + captions.count - 1  # they are an image's last sentences
        known = torch.cat([flag.new_zeros(1), flag]).cumsum(0)
        count = known[last + 1] - known[captions.first]
        if captions.tokens is None or not count.all():
            return None
        uniform = torch.rand(len(count), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        return captions.tokens[last - (uniform * count).long()]

    @cached_property
    def label(self) -> Tensor:
        """(N,), the classes of the real images."""
        label = self.tested.test.label
        assert label is not None
        return label.cpu()[self.chosen.cpu()]

    # -- what is there: real images, and their embeddings --------------------------------------------------------------

    @cached_property
    def real(self) -> Tensor:
        return self.tested.test.take(self.chosen).cpu()

    @cached_property
    def reconstructions(self) -> Tensor:
        """E[x|z] of a draw of the VAE's posterior: what the decoder would yield if it were perfect."""
        vae = self.model.vae
        return self._images(
            {"image": self.real}, lambda given: vae(FromPosterior(), {"image": image_of(given).float()})
        )

    def embedded(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, E)."""
        device = self.tested.device
        return in_batches(lambda part: self.model.clip.embed_image(part.to(device).float()).cpu(), image, BATCH)

    @cached_property
    def real_embedding(self) -> Tensor:
        return self.embedded(self.real)

    @cached_property
    def text_embedding(self) -> Tensor:
        return self.embedded_text(self.text)

    def embedded_text(self, text: Tensor) -> Tensor:
        """(N, T) -> (N, E)."""
        return in_batches(lambda part: self.model.clip.embed_text(part.to(self.tested.device)).cpu(), text, BATCH)

    # -- what the model makes of it ------------------------------------------------------------------------------------

    def embeddings(self, text_embedding: Tensor) -> Tensor:
        """One draw of p(embedding | text) for each text's embedding, (N, E)."""
        device = self.tested.device
        with seeded(2, device):
            return in_batches(lambda part: self.model.prior({"text": part.to(device)}).sample().cpu(), text_embedding)

    @cached_property
    def embedding(self) -> Tensor:
        """(N, E), the prior's, of the captions."""
        return self.embeddings(self.text_embedding)

    def decoded(self, told: Mapping[str, Tensor]) -> Tensor:
        """E[x|z] of one draw of p(z | told): of "embedding" and "text" (N, E), any of which may be missing."""

        def tell(given: Mapping[str, Tensor]) -> Distribution:
            def draw(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
                assert self.model.decoder is not None
                return self.model.decoder(given).sample()

            return self.model.vae(draw, {})

        return self._images(told, tell)

    def _images(self, told: Mapping[str, Tensor], tell: Callable[[Mapping[str, Tensor]], Distribution]) -> Tensor:
        device, count, parts = self.tested.device, len(next(iter(told.values()))), []
        with seeded(3, device):
            for first in range(0, count, BATCH):
                part = {name: it.to(device) for name, it in rows(told, slice(first, first + BATCH)).items()}
                parts.append(tell(part).mean.round().clamp(0, self.tested.data.levels - 1).cpu())
        return torch.cat(parts)

    @cached_property
    def images(self) -> Tensor:
        """Of the captions, by the whole chain."""
        return self.decoded({"embedding": self.embedding, "text": self.text_embedding})

    @cached_property
    def from_real(self) -> Tensor:
        """Of the real images' embeddings, text dropped."""
        return self.decoded({"embedding": self.real_embedding})

    @cached_property
    def from_caption(self) -> Tensor:
        """Of the captions, without an image embedding."""
        return self.decoded({"text": self.text_embedding})

    @cached_property
    def from_text_embedding(self) -> Tensor:
        """Of the captions, their own embeddings in the place of an image's."""
        return self.decoded({"embedding": self.text_embedding, "text": self.text_embedding})

    def from_text(self, text: Tensor) -> Tensor:
        """Of token ids (N, T), by the whole chain."""
        embedded = self.embedded_text(text)
        return self.decoded({"embedding": self.embeddings(embedded), "text": embedded})

    @cached_property
    def from_strange_words(self) -> Tensor:
        """Of the captions with the words' ids permuted, otherwise for each caption."""
        spec = self.tested.data.spec.require_text("test")
        with seeded(4):
            mixed = torch.rand(len(self.text), spec.vocabulary - len(SPECIAL)).argsort(1) + len(SPECIAL)
        ids = torch.cat([torch.arange(len(SPECIAL)).expand(len(mixed), -1), mixed], 1)
        return self.from_text(ids.gather(1, self.text))

    @cached_property
    def order(self) -> Tensor:
        """(N,), for each image another one, of any class, as chance has it."""
        return torch.randperm(len(self.chosen), generator=torch.Generator().manual_seed(5))

    def seconds(self) -> float:
        """Of generating 64 images, from token ids on."""
        text = self.text[torch.arange(ASKED_FOR) % len(self.text)]
        start = time.perf_counter()
        self.from_text(text)
        return time.perf_counter() - start

    # -- who judges ----------------------------------------------------------------------------------------------------

    @cached_property
    def judge(self) -> Classifier:
        """A classifier of real training images, which neither trained nor chose anything that is judged here."""
        train = self.tested.train(JUDGED_BY)
        assert train.label is not None
        return train_classifier(train.image, train.label, self.tested.data.levels, JUDGE_EPOCHS)

    def judged(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N,), the class that the judge sees."""
        return in_batches(self.judge, image.to(self.device_of_judge)).argmax(1).cpu()

    def features(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> what the judge's last layer sees, (N, F)."""
        return in_batches(self.judge.features, image.to(self.device_of_judge)).cpu()

    @property
    def device_of_judge(self) -> torch.device:
        return next(self.judge.parameters()).device

    # -- what style is measured ----------------------------------------------------------------------------------------

    @property
    def source(self) -> Captioned:
        source = self.tested.data.source
        assert isinstance(source, Captioned)
        return source

    @property
    def asked(self) -> Tensor:
        """(N, 1 + traits), the class and the third of each trait that the captions ask for."""
        return self.source.grammar.combination(self.caption)

    def measured(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the measured traits and their thirds, (N, traits) each."""
        grey = image.float() * ((self.source.levels - 1) / (self.tested.data.levels - 1))
        return self.source.measured(grey), self.source.thirds(grey)
